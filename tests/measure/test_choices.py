"""What was measured of kernels is kept: by processes side by side, when one is killed, where nothing can be written."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers.searches import environment
from nas.config.reading import load_experiment
from nas.kernels.tools.choosing import cases as cases_met
from nas.measure import choices as measured
from nas.measure.cases import Load, cases, loads, parts, parts_of_space
from nas.measure.choices import choose
from nas.networks.model import build_model
from nas.operators import build_operator

CPU = torch.device("cpu")
# measures a few cases, each 0.2 s after the other, and says what came of it
PROGRAM = """
import sys, time, torch
from contextlib import contextmanager
from pathlib import Path
from nas.kernels.tools.choosing import cases
from nas.measure import choices
from nas.operators import build_operator
choices.KEEP_SECONDS = 0.0
torch.set_num_threads(1)
found = cases(build_operator("involution", 16, 16, kernel_size=3), torch.randn(2, 16, 6, 6), training=True)
for training in (True, False):
    found |= cases(build_operator("odconv", 8, 8), torch.randn(2, 8, 5, 5), training=training)
@contextmanager
def slowly(device):
    yield
    time.sleep(float(sys.argv[2]))
print(choices.choose(found, Path(sys.argv[1]), slowly).summary)
"""


@pytest.fixture(autouse=True)
def measuring(monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", "auto")


def started(folder: Path, wait: float = 0.2) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(folder), str(wait)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)


def few():
    return cases_met(build_operator("odconv", 8, 8).eval(), torch.randn(2, 8, 5, 5))


def record(folder: Path) -> dict:
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_two_processes_measure_once_and_a_killed_one_loses_a_case_at_most(tmp_path):
    killed = started(tmp_path, wait=1.0)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = record(tmp_path)["cases"]
    assert 1 <= len(before) < 4
    said = [process.communicate(timeout=120)[0] for process in [started(tmp_path), started(tmp_path)]]
    counts = sorted((int(text.split()[4]), int(text.split()[6])) for text in said)  # known, measured
    assert counts == [(len(before), 4 - len(before)), (4, 0)], said
    after = record(tmp_path)
    assert len(after["cases"]) == 4 and after["about"]["torch"] == torch.__version__
    assert all(after["cases"][text] == kept for text, kept in before.items())


def test_what_was_measured_by_another_version_says_nothing(tmp_path, monkeypatch):
    first = choose(few(), tmp_path)
    monkeypatch.setattr(measured, "_code", lambda: "changed")
    assert "1 measured" in choose(few(), tmp_path).summary and len(list(tmp_path.glob("*.json"))) == 2
    monkeypatch.undo()
    monkeypatch.setenv("OPNAS_KERNELS", "auto")
    again = choose(few(), tmp_path)
    assert "1 known" in again.summary and again.forms == first.forms


@pytest.mark.parametrize("text", ["", "[]", '{"about": 1}', "\x00\x01"])
def test_a_damaged_record_is_measured_anew(tmp_path, text):
    choose(few(), tmp_path)
    (path,) = tmp_path.glob("*.json")
    path.write_text(text, encoding="utf-8")
    assert "1 measured" in choose(few(), tmp_path).summary
    assert len(record(tmp_path)["cases"]) == 1


def test_where_nothing_can_be_written_it_is_measured_all_the_same(tmp_path):
    (tmp_path / "cache").write_text("a file, in which no folder can be", encoding="utf-8")
    assert "1 measured" in choose(few(), tmp_path / "cache" / "kernels").summary
    assert "1 measured" in choose(few(), None).summary


def test_a_read_only_record_is_read(tmp_path):
    """In a mount of its own, as even root may not write there."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    choose(few(), tmp_path)
    torch.set_num_threads(before)
    kept = record(tmp_path)
    closed = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path}"
    shell = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if subprocess.run([*shell, closed], capture_output=True).returncode:
        pytest.skip("no mounts of its own here")
    command = shlex.join([sys.executable, "-c", PROGRAM, str(tmp_path), "0"])
    done = subprocess.run([*shell, f"{closed} && {command}"], env=environment(), capture_output=True, text=True)
    assert "1 known, 3 measured" in done.stdout and record(tmp_path) == kept, done.stderr


def test_cases_that_the_time_does_not_suffice_for_keep_to_the_rule(tmp_path):
    chosen = choose(few(), tmp_path, seconds=0)
    assert chosen.forms == {} and "1 left to the rule" in chosen.summary


def test_a_forced_form_measures_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", "aten")
    assert choose(few(), tmp_path).forms == {} and not list(tmp_path.iterdir())


def test_nearly_as_many_images_are_one_measurement(tmp_path):
    (case,) = few()
    alike = {case.with_images(2, images): "mixed" for images in (62, 61, 64, 30)}
    chosen = choose(alike, tmp_path)
    assert len(chosen.forms) == 4 and "2 measured" in chosen.summary


def test_the_cases_of_a_space_are_those_of_its_networks(tmp_path):
    """Every call of a training step, an evaluation and a measurement of networks of the quick start's space."""
    config, space = load_experiment(Path("search_spaces/quickstart.yaml"), ["proxy.batch_size=3", "proxy.amp='off'"])
    ways = loads(config, num_train=7, num_validation=5, device=CPU, num_threads=1)
    assert [way.batch_sizes for way in ways] == [(3, 2), (3,), (1,)]
    offered = {str(case) for case in cases(parts_of_space(space, 1, 32), ways)}
    for label in ("inv7", "od3"):
        params = space.uniform(label)
        assert params is not None
        genotype = space.decode(params)
        own = {str(case) for case in cases(parts(genotype, 1, 32), ways)}
        met: set[str] = set()
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        for way in ways:
            for size in way.batch_sizes:
                model = build_model(genotype, 10, 1)
                met |= {str(case) for case in cases_met(model, torch.randn(size, 1, 32, 32), None, way.training)}
        torch.set_num_threads(before)
        assert met and met == own <= offered


def test_a_part_that_cannot_be_built_is_left_out():
    _, space = load_experiment(Path("search_spaces/quickstart.yaml"))
    stem, *rest = parts(space.decode(space.uniform("inv7") or {}), 1, 32)
    wrong = type(stem)(rest[0].spec, 0, 16)
    way = Load((2,), False, CPU, None, 1)
    assert cases([wrong], [way]) == {} and cases([wrong, *rest], [way]) == cases(rest, [way])
