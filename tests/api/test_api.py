"""The public API: its names, what importing them costs, their types, and a run in Python's hands."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import assert_type

import nas
from helpers.retrainings import mixed_network
from helpers.run_samples import make_run
from helpers.searches import environment, write_experiment

NAMES = {
    "Failed",
    "Genotype",
    "PUBLISHED",
    "Run",
    "SearchSpace",
    "SurrogateSampler",
    "Trained",
    "TrialRecord",
    "UserError",
    "__version__",
    "build_model",
    "dashboard",
    "find_runs",
    "fuse_for_inference",
    "hypervolume",
    "json_schema",
    "latency_table",
    "load_experiment",
    "load_published_checkpoint",
    "measure",
    "operators",
    "pareto_mask",
    "plan",
    "prepare",
    "profile_network",
    "published",
    "search",
}
HEAVY = {"torch", "torchvision", "timm", "ray", "optuna", "pydantic", "numpy", "pandas", "matplotlib", "starlette"}


def imported(program: str, *arguments: str) -> set[str]:
    """The heavy packages in a process that ran a program."""
    shown = f"{program}\nimport sys; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", shown, *arguments], capture_output=True, text=True, env=environment(), check=True
    )
    return {name.partition(".")[0] for name in done.stderr.split()} & HEAVY


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> nas.Run:
    return nas.Run(make_run(tmp_path_factory.mktemp("results") / "sample"))


def test_the_names_are_those_of_the_list():
    assert set(nas.__all__) == NAMES and set(dir(nas)) >= NAMES
    for name in NAMES:
        assert getattr(nas, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        nas.serach  # type: ignore[attr-defined]  # noqa: B018


def test_type_checkers_are_told_every_name():
    module = ast.parse(Path(inspect.getfile(nas)).read_text(encoding="utf-8"))
    told = next(node for node in module.body if isinstance(node, ast.If))
    names = {alias.name for node in told.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names - {"Signature"} == NAMES
    assert Path(inspect.getfile(nas)).with_name("py.typed").exists()


def types() -> None:
    """Never called: pyright, which is run on the tests, sees here what an editor sees."""
    found = nas.search("file.yaml", overrides={"search.seed": 3})
    assert_type(found, nas.Run)
    assert_type(found.genotype("0"), nas.Genotype)
    assert_type(found.trained(), nas.Trained)
    assert_type(found.record("0"), nas.TrialRecord)
    assert_type(nas.hypervolume([[0.0, 1.0]], [2.0, 2.0]), float)
    assert_type(nas.measure(nas.build_model(found.genotype("0"))), dict)  # type: ignore[assert-type]
    assert_type(nas.find_runs(), dict[str, nas.Run])


def test_importing_is_light(run):
    assert not imported("import nas; nas.search, nas.measure, nas.__all__")
    assert imported("import nas; nas.Genotype") == {"pydantic"}
    used = imported("import sys, nas; nas.Run(sys.argv[1]).front()", str(run.path))
    assert used <= {"pydantic", "numpy", "pandas"}


def test_packages_that_can_be_called_stay_packages():
    import nas.search.run

    assert callable(nas.search) and nas.search.run.run_search
    assert list(inspect.signature(nas.search).parameters)[:2] == ["file", "name"]
    assert list(inspect.signature(nas.measure).parameters)[:2] == ["model", "input_shape"]


def test_trials_and_front_are_data_frames(run):
    trials, front = run.trials(), run.front()
    assert len(trials) == 40 and trials.index.name == "number" and trials.index.is_unique
    assert trials.finished.is_monotonic_increasing and str(trials.finished.dt.tz) == "UTC"
    assert set(trials.state) == {"complete", "stopped", "failed", "rejected"}
    assert {"key", "top1", "latency_ms", "num_params", "num_macs", "operators", "seconds"} <= set(trials.columns)
    assert "peak_memory_mb" not in trials.columns
    reported = run.report()["front"]
    assert front.key.tolist() == [entry["key"] for entry in reported]
    assert front.top1.tolist() == [entry["objectives"]["top1"] for entry in reported]
    complete = trials[trials.state == "complete"]
    better = nas.pareto_mask(complete[["top1", "latency_ms"]].to_numpy() * [-1, 1])
    assert set(complete[better].index) == set(front.index)
    assert front.error.isna().all() and trials[trials.state == "failed"].error.str.startswith("non_finite").all()
    assert (front.operators.str.count(r"\|") == 2).all()  # three stages


def test_a_run_without_trials_has_empty_frames(tmp_path):
    empty = nas.Run(make_run(tmp_path / "empty", num_records=0))
    assert len(empty.trials()) == len(empty.front()) == 0 and "key" in empty.front().columns


def test_a_run_says_what_the_command_says(run, tmp_path):
    assert str(run).startswith("sample: interrupted, 38 of 60 trainings") and "Pareto front" in str(run)
    assert run.status()["num_trainings"] == 38 and repr(run) == f"Run({str(run.path)!r})"
    figure = run.plot(tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes()[:4] == figure._repr_png_()[:4] == b"\x89PNG"
    assert nas.find_runs(run.path.parent)["sample"].path == run.path


def test_a_network_is_found_by_the_first_digits_of_its_key(run):
    key = run.front().key.iloc[-1]
    genotype = run.genotype(key[:8])
    assert genotype.key == key == run.record(key).key
    model = run.model(key, num_classes=7, in_channels=1)
    assert model.num_classes == 7 and model.genotype == genotype
    costs = nas.measure(model, (1, 32, 32), ["num_params", "num_macs"])
    assert costs["num_params"] == sum(parameter.numel() for parameter in model.parameters()) and costs["num_macs"] > 0
    with pytest.raises(ValueError, match="costs = 'top1': allowed are num_params"):
        nas.measure(model, (1, 32, 32), ["top1"])
    for wrong, said in (("zz", "is no architecture of sample"), ("", "fits several architectures")):
        with pytest.raises(nas.UserError, match=said):
            run.genotype(wrong)


def test_what_is_not_there_is_one_of_our_exceptions(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    experiment = write_experiment(tmp_path)
    for call, said in (
        (lambda: nas.Run("absent"), "no run 'absent'"),
        (lambda: nas.search("absent.yaml"), "absent.yaml"),
        (lambda: nas.search(experiment, overrides={"search.sampler": "best"}), "random"),
        (lambda: nas.search(experiment, resume=True), "there is no run 'tiny'"),
        (lambda: nas.search(tmp_path), "is a folder"),
        (lambda: nas.Run("retrained").report(), "no run folder"),
        (lambda: nas.Run("retrained").status(), "no run folder"),
        (lambda: nas.Trained(tmp_path), "not the description of a retraining"),
        (lambda: run.trained("zz"), "no retrained architectures"),
        (lambda: nas.find_runs(tmp_path / "absent"), "no such folder"),
    ):
        with pytest.raises(nas.UserError, match=said):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_plan_reads_overrides_as_a_mapping_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = write_experiment(tmp_path)
    plans = [
        nas.plan(experiment, overrides=overrides)
        for overrides in ({"search.seed": 9, "proxy.epochs": 1}, ["search.seed=9", "proxy.epochs=1"])
    ]
    assert plans[0].config == plans[1].config and "6 trainings by nsga2, seed 9" in str(plans[0])
    assert plans[0].run_dir == Path("results/tiny") and not Path("results").exists()


def test_a_network_is_retrained_and_used(run, tmp_path):
    """The whole way in Python; each step has its own tests in its wing."""
    network = mixed_network(8)
    settings = {"dataset": "digits", "resolution": 8, "epochs": 1, "batch_size": 256, "augment": "none"}
    options: dict[str, Any] = {
        "overrides": {f"retrain.{name}": value for name, value in settings.items()},
        "devices": 1,
    }
    summary = run.retrain(network, **options)
    assert summary["key"] == network.key and summary["epochs"] == 1
    with pytest.raises(nas.UserError, match="go on with --resume"):
        run.retrain(network, **options)
    trained = run.trained(network.key[:6])
    assert trained.key == network.key and trained.genotype == network and len(trained.class_names) == 10
    assert trained.evaluate()[0]["top1"] == pytest.approx(summary["top1"], abs=0.02)
    assert run.report()["retrained"][0]["key"] == network.key
    assert nas.Trained(trained.folder).summary["top1"] == summary["top1"]
    with pytest.raises(nas.UserError, match="--format 'tim': allowed is one of timm"):
        trained.export("tim", tmp_path)
