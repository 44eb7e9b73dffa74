"""A run as one file: written, verified, compared, and what becomes of files that are damaged, foreign or malicious."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.run_samples import experiment, make_run, sample_record
from helpers.searches import ended
from nas.base.errors import UserError
from nas.runs.bundle.archive import MANIFEST, bundle, opened
from nas.runs.bundle.diff import diff, to_text
from nas.runs.bundle.verify import differences
from nas.runs.noise.replicates import replicate_dir
from nas.runs.pareto import hypervolume
from nas.runs.reader import RunReader
from nas.runs.record import read_records, write_record
from nas.runs.report import report
from nas.space.search_space import SearchSpace


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Thirty trials with a replicate, a password in the file as given, images, weights and a study beside them."""
    folder = make_run(tmp_path_factory.mktemp("results") / "sample", 0)
    space = SearchSpace(experiment().space)
    for number in range(30):
        write_record(folder, replace(sample_record(space, number), num_validation=300))
    of = read_records(folder)[0]
    write_record(replicate_dir(folder, of.number), replace(of, number=1, replicate_of=of.number, seed=5))
    given = (folder / "experiment.yaml").read_text(encoding="utf-8")
    given = given.replace("storage: null", "storage: postgresql+psycopg://me:secret@host/name")
    (folder / "experiment.yaml").write_text(given, encoding="utf-8")
    assert "secret" in given
    for name in ("study.db", "proxy/a/model.safetensors", "checkpoints/3/trial.json", "val/cat/1.png", "code/mine.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("a = 1\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def file(run_dir, tmp_path_factory):
    return bundle(run_dir, tmp_path_factory.mktemp("bundles") / "sample.bundle.zip")


def test_a_bundle_has_what_a_report_is_made_of_and_no_more(run_dir, file):
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        contents = b"".join(archive.read(name) for name in names)
    trials = {f"trials/{number}.json" for number in range(30)}
    of = read_records(run_dir)[0].number
    frame = {MANIFEST, "experiment.yaml", "resolved.yaml", "environment.json", "code/mine.py"}
    assert names == trials | frame | {f"replicates/{of}/trials/1.json"}
    assert b"secret" not in contents and b"me:***@host" in contents


def test_the_same_run_gives_the_same_bytes(run_dir, file, tmp_path, monkeypatch, capsys):
    shutil.copytree(run_dir, tmp_path / "sample")
    code, said, _ = ended(tmp_path, monkeypatch, capsys, "bundle", "sample")
    assert code == 0 and (tmp_path / said.strip()).read_bytes() == file.read_bytes()


def test_what_was_bundled_holds_and_reports_as_the_run_does(run_dir, file, tmp_path, monkeypatch, capsys):
    with opened(file) as (folder, manifest):
        assert differences(folder, manifest["claims"]) == []
        assert report(folder)["front"] == report(run_dir)["front"]
    assert not folder.exists()
    code, output, _ = ended(tmp_path, monkeypatch, capsys, "verify", str(file), "--json")
    found = json.loads(output)
    assert code == 0 and found["wrong"] == [] and found["report"]["noise"] == report(run_dir)["noise"]


def altered(file: Path, folder: Path, change, name: str = MANIFEST) -> Path:
    """The bundle with one file changed and, where that is another one, its checksum mended: a careful forger's."""
    import hashlib

    with zipfile.ZipFile(file) as archive:
        contents = {entry: archive.read(entry) for entry in archive.namelist()}
    data = json.loads(contents[name])
    change(data)
    contents[name] = json.dumps(data).encode()
    manifest = json.loads(contents[MANIFEST])
    if name != MANIFEST:
        manifest["files"][name] = hashlib.sha256(contents[name]).hexdigest()
    contents[MANIFEST] = json.dumps(manifest).encode()
    path = folder / "altered.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in contents.items():
            archive.writestr(entry, content)
    return path


def claim_more(manifest):
    manifest["claims"]["front"][0]["objectives"]["top1"] = 0.99


def claim_volume(manifest):
    manifest["claims"]["hypervolume"]["value"] *= 1.01


def another_network(record):
    record["genotype"]["stages"][0][0]["width"] = 16
    del record["checksum"]


def better(record):
    record["objectives"]["top1"] = 0.999


@pytest.mark.parametrize(
    "change, name, said",
    [
        (claim_more, MANIFEST, "front: the records say "),
        (claim_volume, MANIFEST, "hypervolume: the records say "),
        (another_network, "trials/5.json", "trials/5.json: its network has the key "),
        (better, "trials/5.json", "trials/5.json: its values are not those that were written (wrong checksum)"),
    ],
)
def test_what_does_not_follow_from_the_records_is_said(file, tmp_path, monkeypatch, capsys, change, name, said):
    path = altered(file, tmp_path, change, name)
    code, _, errors = ended(tmp_path, monkeypatch, capsys, "verify", str(path))
    assert code == 1 and said in errors and "Traceback" not in errors


def test_damaged_files_are_one_message(file, tmp_path, monkeypatch, capsys):
    """Cut anywhere, a byte changed anywhere, or no bundle at all."""
    whole = file.read_bytes()
    cut = [whole[: len(whole) * part // 7] for part in range(7)]
    flipped = [
        whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] for at in range(0, len(whole), len(whole) // 60)
    ]
    foreign = io.BytesIO()
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("readme.txt", "hello")
    for number, content in enumerate([*cut, *flipped, b"hello", foreign.getvalue()]):
        path = tmp_path / f"{number}.zip"
        path.write_bytes(content)
        try:
            with opened(path) as (folder, manifest):  # a byte that nothing depends on, such as a time
                assert differences(folder, manifest["claims"]) == []
        except UserError as problem:
            assert str(path) in str(problem) and "\n" not in str(problem)
        else:
            assert number >= len(cut)
    code, _, errors = ended(tmp_path, monkeypatch, capsys, "verify", "1.zip")
    assert code == 2 and "no bundle of a run, or it is damaged" in errors and len(errors.splitlines()) == 1
    code, _, errors = ended(tmp_path, monkeypatch, capsys, "diff", "1.zip", "none")
    assert code == 2 and len(errors.splitlines()) == 1


@pytest.mark.parametrize("name", ["../escaped.json", "/tmp/escaped.json", "trials/../../escaped.json", "trials/1.py"])
def test_names_that_leave_the_folder_are_refused_before_anything_is_written(file, tmp_path, name):
    path = tmp_path / "evil.zip"
    shutil.copy(file, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "{}")
    with pytest.raises(UserError, match="which no bundle does; nothing was unpacked"), opened(path):
        pass
    assert not list(tmp_path.parent.glob("escaped*")) and not Path("/tmp/escaped.json").exists()


def test_a_file_too_many_or_too_few_and_a_wrong_checksum(file, tmp_path):
    for change, said in (
        (lambda manifest: manifest["files"].pop("trials/3.json"), "trials/3.json is not in the list"),
        (lambda manifest: manifest["files"].update({"trials/99.json": "0"}), "trials/99.json is missing"),
        (lambda manifest: manifest["files"].update({"trials/3.json": "0"}), "trials/3.json is not what was bundled"),
        (lambda manifest: manifest.update(format=9), "format 9; this version reads format 1"),
        (lambda manifest: manifest.update(kind="other"), "is not that of a bundle"),
    ):
        with pytest.raises(UserError, match=said), opened(altered(file, tmp_path, change)):
            pass


def _points(run_dir):
    """Error and latency, of the complete trials."""
    complete = [record.objectives for record in read_records(run_dir) if record.state == "complete"]
    return np.array([[-values["top1"], values["latency_ms"]] for values in complete])


def test_what_tells_two_runs_apart(run_dir, file, tmp_path, monkeypatch, capsys):
    with opened(file) as (folder, _):
        same = diff(run_dir, folder)
    assert same["config"] == {} == same["environment"] and same["front"]["only"] == [[], []]
    assert same["common"] == {"count": 28, "change": 0.0, "sd": 0.0} or same["common"]["change"] == 0.0
    one, other = same["hypervolume"]["shares"]
    assert one == other
    config = experiment(search={"num_trials": 60, "seed": 8, "sampler": "nsga2"})
    later = make_run(tmp_path / "later", 0, config)
    for record in read_records(run_dir)[:20]:
        better = record.objectives | {"top1": record.objectives["top1"] + 0.01}
        write_record(later, replace(record, objectives=better))
    (later / "environment.json").write_text(json.dumps({"device": "cpu: other", "versions": {"torch": "2.15.0"}}))
    found = diff(run_dir, later)
    assert found["config"] == {"search.seed": [7, 8]}
    assert found["environment"]["device"] == ["cpu: sample", "cpu: other"]
    assert found["common"]["count"] == 20 and found["common"]["change"] == pytest.approx(0.01)
    fronts = [{row.key for row in RunReader(path).refresh().front()} for path in (run_dir, later)]
    assert [set(keys) for keys in found["front"]["only"]] == [fronts[0] - fronts[1], fronts[1] - fronts[0]]
    assert fronts[0] - fronts[1], "the first run has networks on its front that the later one never trained"
    points = [_points(path) for path in (run_dir, later)]
    together = np.concatenate(points)
    reference = together.max(axis=0) + 0.1 * np.ptp(together, axis=0)
    box = float((reference - together.min(axis=0)).prod())
    assert found["hypervolume"]["shares"] == pytest.approx([hypervolume(each, reference) / box for each in points])
    text = to_text(found)
    assert "search.seed: 7 -> 8" in text and "top-1 of the 20 networks in both: +1.00 % on average" in text
    code, output, _ = ended(tmp_path, monkeypatch, capsys, "diff", str(file), "later", "--json")
    assert code == 0 and json.loads(output)["config"] == found["config"]
