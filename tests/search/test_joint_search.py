"""A search that chooses of the training too: entries of `proxy` that are lists."""

from __future__ import annotations

import json

import pytest

import nas
from helpers.searches import nas as command
from helpers.searches import outcome, write_experiment
from nas.config.reading import dump, load_experiment, loads
from nas.runs.record import read_records
from nas.search.surrogate.known_costs import KnownCosts
from nas.space.genotype import Genotype

ONE_NETWORK = (
    "space.operators={conv3: {op: conv}}",
    "space.stages=[{block: basic, depth: 1, width: 8}]",
    "objectives=[{name: top1}, {name: latency_ms, device: cpu}]",
    "proxy.max_images_per_class=60",
    "resources={max_concurrent: 1}",
)
TWO_RATES = (*ONE_NETWORK, "proxy.learning_rate=[8e-3, 1e-20]")


def set_to(options: tuple[str, ...]) -> list[str]:
    return [word for option in options for word in ("--set", option)]


def test_lists_of_proxy_are_parameters_of_the_space(tmp_path):
    config, space = load_experiment(write_experiment(tmp_path), [*TWO_RATES, "proxy.augment=[none, shift]"])
    assert space.choices()["proxy.learning_rate"] == [8e-3, 1e-20] and space.num_points() == 4
    first = space.uniform("conv3") or {}
    assert first["proxy.learning_rate"] == 8e-3 and first["proxy.augment"] == "none"
    assert space.active(first) == first == space.encode(space.decode(first))
    known = KnownCosts(space, 8, 1, 10)
    assert known(first) == known(first | {"proxy.learning_rate": 1e-20})
    assert config.proxy.chosen(first | {"proxy.learning_rate": 1e-20}).learning_rate == 1e-20
    assert config.proxy.chosen({}).learning_rate == 8e-3  # of a network from outside, which has no parameters
    assert loads(dump(config), "resolved.yaml") == config
    again = load_experiment(tmp_path / "tiny.yaml", ONE_NETWORK)[0].proxy
    assert again.choices() == {} and again.chosen(first) == again


@pytest.mark.slow
def test_one_network_is_trained_in_each_way_and_measured_once(tmp_path):
    """Two trainings of one network, which differ in their learning rate alone: their keys do too. The front has the one
    that learned, and is retrained as it was trained."""
    options = (*TWO_RATES, "search={sampler: surrogate, num_trials: 9, measured_first: 1}", "proxy.epochs=6")
    write_experiment(tmp_path)
    assert (
        "space       5 parameters, 2 points"
        in command(tmp_path, "search", "tiny.yaml", "--dry-run", *set_to(options)).stdout
    )
    done = command(tmp_path, "search", "tiny.yaml", *set_to(options))
    assert "the search space has no further architecture to train" in done.stderr
    run_dir = tmp_path / "results/tiny"
    trained = {r.params["proxy.learning_rate"]: r for r in read_records(run_dir) if r.state == "complete"}
    assert sorted(trained) == [1e-20, 8e-3] and outcome(run_dir)["records"]["complete"] == 2
    still, learned = trained[1e-20], trained[8e-3]
    assert still.genotype == learned.genotype and still.costs["latency_ms"] == learned.costs["latency_ms"]
    assert len({still.key, learned.key, Genotype.from_dict(still.genotype).key}) == 3
    assert learned.objectives["top1"] > 2 * still.objectives["top1"]
    found = nas.Run(run_dir)
    (member,) = found.report()["front"]
    assert (member["key"], member["training"]) == (learned.key, {"learning_rate": 8e-3})
    assert "learning_rate 0.008" in done.stdout and "training" in done.stdout
    own = {"dataset": "digits", "resolution": 8, "batch_size": 500, "epochs": 1, "augment": "none"}
    retrain = {f"retrain.{name}": value for name, value in own.items()}
    for key, more, expected in ((still.key, {}, 1e-20), (learned.key, {"retrain.learning_rate": 1e-3}, 1e-3)):
        found.retrain(key, overrides=retrain | more, devices=1)
        kept = json.loads((run_dir / "retrain" / key / "config.json").read_text())
        assert kept["key"] == key and kept["training"]["learning_rate"] == expected
    done = command(tmp_path, "search", "tiny.yaml", "--resume", *set_to(ONE_NETWORK), check=False)
    assert done.returncode == 2 and "proxy.learning_rate" in done.stderr
