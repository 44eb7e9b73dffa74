"""One trial without Ray: what its record says, what ends it, and that it goes on exactly where it was killed."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import threading
import time
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from helpers import processes
from helpers.searches import environment
from helpers.trials import context, run, task
from nas.base.errors import host_error
from nas.config.sections import ExperimentConfig
from nas.data.batches import MemorySource
from nas.deploy.trained import read_trained
from nas.networks.precision import training_dtype
from nas.runs.folder import proxy_folder
from nas.runs.record import TrialRecord, read_records
from nas.runs.under_way import trials_under_way
from nas.search.cluster.front_weights import FrontWeights
from nas.search.cluster.store import Store
from nas.search.evaluators.context import TrialContext
from nas.search.trial import TrialTask, run_trial
from nas.space.genotype import Genotype
from nas.training import loop as train


def losses(record: TrialRecord) -> list[float]:
    return [row["train_loss"] for row in record.curve]


def test_runs_side_by_side_decode_their_images_once(tmp_path):
    first = context(tmp_path / "results/a").dataset()
    (entry,) = tmp_path.glob("results/.cache/images-*[!k]")
    decoded = (entry / "pixels.npy").stat().st_ino
    second = context(tmp_path / "results/b").dataset()
    assert torch.equal(first.train.pixels, second.train.pixels)
    assert [path.stat().st_ino for path in tmp_path.rglob("pixels.npy")] == [decoded]


def test_the_record_is_complete_and_on_disk(tmp_path):
    rows, record = run(task(), context(tmp_path))
    assert read_records(tmp_path) == [record]
    assert record.state == "complete" and record.error is None and record.attempts == 1
    assert Genotype.from_dict(record.genotype).key == record.key == task().genotype.key
    assert (record.number, record.seed, record.params) == (0, 7, task().params)
    assert [row["epoch"] for row in record.curve] == [1, 2]
    assert rows == [row | {"num_params": record.costs["num_params"]} for row in record.curve]
    assert record.objectives == {"top1": record.curve[-1]["top1"], "num_params": record.costs["num_params"]}
    assert set(record.timings) == {"data", "build", "cost", "train", "wait"}
    assert record.seconds == pytest.approx(sum(record.timings.values()), abs=0.01)
    assert 0 < record.started < record.finished <= time.time()
    assert not (tmp_path / "checkpoints" / "0").exists()


@pytest.mark.parametrize("own", [None, "/somewhere"])
def test_compiled_kernels_are_kept_beside_the_runs(tmp_path, monkeypatch, own):
    monkeypatch.setenv("TRITON_CACHE_DIR", own or "")
    if own is None:
        monkeypatch.delenv("TRITON_CACHE_DIR")
    run(task(), context(tmp_path / "results/a"))
    assert os.environ["TRITON_CACHE_DIR"] == (own or str(tmp_path.resolve() / "results/.cache/triton"))


def test_a_trial_with_a_record_is_not_trained_again(tmp_path):
    _, record = run(task(), context(tmp_path))
    before = (tmp_path / "trials/0.json").stat().st_mtime_ns
    assert list(run_trial(task(), context(tmp_path))) == [{"record": record}]
    assert (tmp_path / "trials/0.json").stat().st_mtime_ns == before
    assert not (tmp_path / "checkpoints" / "0").exists()


@pytest.mark.parametrize("bound, word", [({"max": 500}, "above 500"), ({"min": 1e6}, r"below 1e\+06")])
def test_a_constraint_rejects_before_training(tmp_path, bound, word):
    rows, record = run(task(), context(tmp_path, constraints={"num_params": bound}))
    assert rows == [] and record.state == "rejected" and record.curve == [] and record.objectives == {}
    assert record.costs["num_params"] > 500 and "train" not in record.timings
    assert record.error is not None
    assert record.error.startswith("constraint: num_params ")
    assert word.replace("\\", "") in record.error


def test_a_training_that_diverges_fails_with_its_reason(tmp_path):
    rows, record = run(task(), context(tmp_path, proxy={"learning_rate": 1e30}))
    assert rows == [] and record.state == "failed" and record.objectives == {}
    assert record.error is not None and record.error.startswith("NonFiniteLoss: loss nan in epoch 1")
    assert "NonFiniteLoss" in (tmp_path / "checkpoints/0/traceback.txt").read_text()


def test_an_exception_of_any_kind_fails_the_trial_alone(tmp_path):
    """Here the data set cannot be read; the next trial of the same process, with data, is trained."""
    missing = context(tmp_path, proxy={"dataset": "imagefolder", "data_dir": str(tmp_path / "absent")})
    _, record = run(task(), missing)
    assert record.state == "failed" and record.error is not None and "absent" in record.error
    assert record.error.split(":")[0] == "DataError" and "\n" not in record.error
    assert run(task(1), context(tmp_path))[1].state == "complete"


def test_what_cannot_be_measured_is_no_lost_training(tmp_path):
    missing = context(tmp_path, proxy={"dataset": "imagefolder", "data_dir": str(tmp_path / "absent")})
    _, record = run(replace(task(), only_costs=True), missing)
    assert record.only_measured and "absent" in (record.error or "") and not record.costs
    assert (tmp_path / "checkpoints/0").exists() is False


def test_a_network_too_large_for_the_machine_is_out_of_memory(tmp_path):
    """An absurd width asks for more than any machine has: refused at once by the allocator."""
    data = task().genotype.to_dict()
    for stage in data["stages"]:
        for block in stage:
            block["width"] = 4_000_000
    wide = Genotype.from_dict(data)
    _, record = run(replace(task(), genotype=wide), context(tmp_path))
    assert record.state == "failed" and record.error is not None and record.error.startswith("out of memory: ")
    assert run(task(1), context(tmp_path))[1].state == "complete"


def three_trials_with_little_memory(folder: Path) -> None:
    list(run_trial(task(0), context(folder)))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, -1))
    data = task(0).genotype.to_dict()
    for stage in data["stages"]:
        for block in stage:
            block["width"] = 4096
    list(run_trial(replace(task(1), genotype=Genotype.from_dict(data)), context(folder)))
    list(run_trial(task(2), context(folder)))


def test_a_process_at_its_memory_limit_fails_the_trial_and_lives(tmp_path):
    processes.finish(processes.start(three_trials_with_little_memory, tmp_path))
    first, second, third = read_records(tmp_path)
    assert (first.state, second.state, third.state) == ("complete", "failed", "complete")
    assert second.error is not None and second.error.startswith("out of memory: ")


def begun(what: TrialTask, where: TrialContext) -> None:
    """A trial that has trained an epoch when its process goes away."""
    rows = run_trial(what, where)
    next(rows)
    rows.close()


def test_measured_costs_are_kept_over_a_restart(tmp_path):
    begun(task(), context(tmp_path))
    noted = tmp_path / "checkpoints/0/costs.json"
    kept = json.loads(noted.read_text())
    assert kept["costs"]["num_params"] > 0
    noted.write_text(json.dumps({"key": kept["key"], "costs": kept["costs"] | {"num_params": 123}}))
    _, record = run(task(), context(tmp_path))
    assert record.objectives["num_params"] == record.costs["num_params"] == 123
    assert record.attempts == 2


def test_nothing_of_another_network_under_the_same_number_is_taken_over(tmp_path):
    """A study that is made anew after a kill gives the number to another network."""
    begun(task(0, "conv3"), context(tmp_path))
    other = trials_under_way(tmp_path)[0]
    _, record = run(task(0, "gn2"), context(tmp_path))
    _, undisturbed = run(task(0, "gn2"), context(tmp_path / "undisturbed"))
    assert other.genotype.key == task(0, "conv3").genotype.key != record.key == task(0, "gn2").genotype.key
    assert record.objectives == undisturbed.objectives and losses(record) == losses(undisturbed)
    assert record.attempts == 1 and record.costs["num_macs"] == undisturbed.costs["num_macs"]


def test_the_record_of_another_network_is_set_aside(tmp_path):
    """What is left of a killed driver's worker may write its record when the number has another network."""
    _, late = run(task(0, "conv3"), context(tmp_path))
    _, record = run(task(0, "gn2"), context(tmp_path))
    assert read_records(tmp_path) == [record] and record.key == task(0, "gn2").genotype.key
    assert TrialRecord.from_json((tmp_path / "trials/0.json.other").read_text()) == late


@pytest.mark.parametrize("name", ["trial.json", "costs.json", "attempts"])
@pytest.mark.parametrize("content", [b"", b"\0" * 40, b'{"key": "x'])
def test_what_a_crash_left_of_a_trial_under_way_does_not_end_it(tmp_path, name, content):
    begun(task(), context(tmp_path))
    (tmp_path / "checkpoints/0" / name).write_bytes(content)
    _, record = run(task(), context(tmp_path))
    assert record.state == "complete" and record.costs["num_params"] > 0
    assert record.attempts == (1 if name == "attempts" else 2)


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b'{"number": 0, "key"'])
def test_a_torn_record_is_set_aside_and_the_trial_trained_anew(tmp_path, content):
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials/0.json").write_bytes(content)
    _, record = run(task(), context(tmp_path))
    assert record.state == "complete" and read_records(tmp_path) == [record]
    assert (tmp_path / "trials/0.json.unreadable").read_bytes() == content


def train_step_by_step(folder: Path, epochs: int, said: Connection, go_on: Connection | None = None) -> None:
    """Train with a checkpoint after every epoch, tell what each row holds, and wait for word after each."""
    kept = train.train.__kwdefaults__
    assert kept
    kept["checkpoint_seconds"] = 0.0
    for row in run_trial(task(0), context(folder, proxy={"epochs": epochs})):
        said.send(sorted(row))
        if go_on:
            go_on.recv()


def test_a_killed_trial_goes_on_to_the_same_curve(tmp_path):
    epochs = {"epochs": 8}
    hears, says = Pipe(duplex=False)
    trial = processes.start(train_step_by_step, tmp_path / "cut", 8, says)
    for _ in range(3):
        assert hears.poll(60) and "epoch" in hears.recv()
    processes.kill(trial)
    assert not (tmp_path / "cut/trials").exists()
    assert list((tmp_path / "cut/checkpoints/0/training").glob("*.pt"))
    _, cut = run(task(), context(tmp_path / "cut", proxy=epochs))
    _, whole = run(task(), context(tmp_path / "whole", proxy=epochs))
    assert losses(cut) == losses(whole) and cut.objectives == whole.objectives
    assert (cut.attempts, whole.attempts) == (2, 1)


def test_a_second_process_waits_and_takes_over_the_record(tmp_path):
    pipes = [(Pipe(duplex=False), Pipe(duplex=False)) for _ in range(2)]
    first, second = (hears for (hears, _), _ in pipes)
    trials = []
    for (_, says), (go_on, _) in pipes:
        trials.append(processes.start(train_step_by_step, tmp_path, 4, says, go_on))
        if len(trials) == 1:
            assert first.poll(60) and "epoch" in first.recv()
    assert not second.poll(3)
    for _ in range(5):
        pipes[0][1][1].send("on")
    pipes[1][1][1].send("on")
    for trial in trials:
        processes.finish(trial)
    assert second.recv() == ["record"]  # and nothing else
    assert not second.poll()
    (record,) = read_records(tmp_path)
    assert record.attempts == 1 and record.state == "complete"


FRESH = """
import sys
from dataclasses import replace
from pathlib import Path
from helpers.trials import context, run, task
folder = Path(sys.argv[1])
run(task(1, "od3"), context(folder / "fresh"))
for number, label in enumerate(("conv3", "inv3", "sc2", "gn2")):
    _, found = run(replace(task(number, label), only_costs=True), context(folder / "others"))
    assert found.costs["num_macs"] > 0
print(*[name for name in ("torch._dynamo", "torch._inductor", "torch.onnx", "sklearn") if name in sys.modules])"""


def test_a_process_that_ran_other_trials_gives_what_a_fresh_one_gives(tmp_path):
    """The fresh one trains, and counts what networks of every operator cost, without the seconds that torch's compiler
    takes to be imported."""
    fresh_one = [sys.executable, "-c", FRESH, str(tmp_path)]
    tests = Path(__file__).parents[1]
    done = subprocess.run(fresh_one, cwd=tests, capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr + done.stdout
    torch.manual_seed(0)
    torch.rand(5)
    torch.set_default_dtype(torch.float64)
    try:
        run(task(0, "inv3", seed=1), context(tmp_path / "reused"))
    finally:
        torch.set_default_dtype(torch.float32)
    run(task(1, "od3"), context(tmp_path / "reused"))
    (fresh,) = read_records(tmp_path / "fresh")
    reused = read_records(tmp_path / "reused")[1]
    assert losses(reused) == losses(fresh) and reused.objectives == fresh.objectives
    assert [row["val_loss"] for row in reused.curve] == [row["val_loss"] for row in fresh.curve]


def test_a_trial_that_is_let_go_frees_its_lock_for_the_next(tmp_path):
    where = context(tmp_path)
    rows = run_trial(task(0), where)
    next(rows)
    rows.close()
    began = time.monotonic()
    assert run(task(1), where)[1].state == "complete"
    assert run(task(0), where)[1].attempts == 2
    assert time.monotonic() - began < 30


LATENCY = [{"name": "top1"}, {"name": "latency_ms", "device": "cpu"}]


def test_a_measurement_waits_for_trainings_of_other_runs_on_its_device(tmp_path):
    """The gate of a device is one for all runs of the host, and that of the device that is measured."""
    data = json.loads(context(tmp_path).config.model_dump_json()) | {"objectives": LATENCY}
    where = replace(context(tmp_path / "results/a"), config=ExperimentConfig.model_validate_json(json.dumps(data)))
    ended: list[TrialRecord] = []
    thread = threading.Thread(target=lambda: ended.append(run(task(), where)[1]))
    with context(tmp_path / "results/b").training():
        thread.start()
        time.sleep(3)
        assert not (tmp_path / "results/a/checkpoints/0/costs.json").exists() and not ended
    thread.join(60)
    assert ended[0].state == "complete" and ended[0].costs["latency"]["device_name"] == ended[0].device != ""


def fill(folder: Path) -> None:
    """For a process of its own: a trial in a file system that is too small for its checkpoints."""
    assert ctypes.CDLL(None, use_errno=True).unshare(0x00020000) == 0  # CLONE_NEWNS: nobody else sees the mount
    full = folder / "run/checkpoints"
    full.mkdir(parents=True)
    for command in ("mount --make-rprivate /", f"mount -t tmpfs -o size=16k tmpfs {full}"):
        subprocess.run(command.split(), check=True)
    where = context(folder / "run", search={"scheduler": "mo_asha"})
    try:
        run(task(), where)
    except OSError as problem:
        (folder / "raised").write_text(str(host_error(problem)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_full_disk_is_raised_and_not_recorded_as_the_networks_fault(tmp_path):
    processes.finish(processes.start(fill, tmp_path, daemon=False))
    assert "No space left on device; make room" in (tmp_path / "raised").read_text()
    assert not list((tmp_path / "run").glob("trials/*"))


@pytest.mark.parametrize("kernels", ["fast", "triton"])
def test_kernels_that_cannot_run_here_are_not_the_networks_fault(tmp_path, monkeypatch, kernels):
    monkeypatch.setenv("OPNAS_KERNELS", kernels)
    with pytest.raises(ValueError, match=f"^OPNAS_KERNELS ?= ?'?{kernels}.*") as problem:
        run(task(label="inv3"), context(tmp_path))
    assert str(host_error(problem.value)) == str(problem.value)
    assert not list(tmp_path.glob("trials/*"))


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_a_trial_goes_on_from_its_store_on_a_host_that_has_nothing_of_it(tmp_path, kind):
    """As far as it was saved, to the same curve; the store is empty afterwards. By pyarrow, and by fsspec."""
    url = str(tmp_path / "store") if kind == "folder" else "memory://store"
    rungs = {"search": {"scheduler": "mo_asha"}, "proxy": {"epochs": 4}}
    _, undisturbed = run(task(), context(tmp_path / "alone", **rungs))
    first = replace(context(tmp_path / "first", **rungs), store=Store(url, "run"))
    trial = run_trial(task(), first)
    rows = [next(trial), next(trial)]
    trial.close()
    assert not (tmp_path / "first/checkpoints/0").exists()
    second = replace(context(tmp_path / "second", **rungs), store=Store(url, "run"))
    more, record = run(task(), second)
    assert more[:2] == rows and record.attempts == 2  # the seconds of the epochs too: they are not trained again
    assert losses(record) == losses(undisturbed)
    third = Store(url, "run")
    third.fetch("0", tmp_path / "third")
    assert not (tmp_path / "third").exists()
    assert not (tmp_path / "second/proxy" / record.key).exists()
    FrontWeights(tmp_path / "third", third).finished(record, [], [record])
    assert all(
        torch.equal(mine, alone)
        for mine, alone in zip(*(weights_of(tmp_path / name, record.key) for name in ("third", "alone")), strict=True)
    )
    FrontWeights(tmp_path / "fourth", third).finished(record, [], [record])  # the store has them no longer
    assert not (tmp_path / "fourth").exists()


def weights_of(run_dir: Path, key: str) -> list[torch.Tensor]:
    return [*read_trained(proxy_folder(run_dir, key)).model().state_dict().values()]


def test_the_weights_that_are_kept_are_those_that_were_measured(tmp_path):
    """With an average as well, and in the layout of a retraining, so that all that reads one takes them."""
    where = context(tmp_path, proxy={"ema": 0.9, "label_smoothing": 0.1})
    _, record = run(task(), where)
    trained = read_trained(proxy_folder(tmp_path, record.key))
    dataset = where.dataset()
    source = MemorySource(dataset, where.config.proxy, seed=where.config.search.seed, device="cpu")
    dtype = training_dtype(where.config.proxy.amp, where.device)
    assert train.evaluate(trained.model(), source, dtype)[1] == record.objectives["top1"] == trained.described["top1"]
    assert trained.preparation.mean == dataset.mean and trained.class_names == [str(digit) for digit in range(10)]
    assert trained.described["training"]["ema"] == 0.9 and trained.described["proxy"]["max_images_per_class"] == 20


def test_weights_go_when_their_network_leaves_the_front_and_not_before_their_record_is_there(tmp_path):
    folders = {key: proxy_folder(tmp_path, key) for key in "abcd"}
    for folder in folders.values():
        folder.mkdir(parents=True)
    a, b, c, _ = (TrialRecord(number=n, key=key, state="complete", genotype={}) for n, key in enumerate("abcd"))
    weights = FrontWeights(tmp_path)
    weights.begin([a, b, replace(c, state="rejected")], [b])  # c is known, and under way
    assert {key for key, folder in folders.items() if folder.exists()} == {"b", "c", "d"}
    weights.finished(replace(c, state="rejected"), [b], [b])
    weights.finished(c, [b], [b, c])
    assert {key for key, folder in folders.items() if folder.exists()} == {"b", "c", "d"}
    weights.finished(replace(c, state="failed"), [b, c], [b])
    assert {key for key, folder in folders.items() if folder.exists()} == {"b", "d"}
