"""Trainings that begin with weights of the network that is most like theirs on the front."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.searches import results, write_experiment
from helpers.trials import SPACE, context, run, task, train_all
from nas.config.errors import ConfigError
from nas.config.reading import load_experiment
from nas.runs.folder import proxy_folder, write_run
from nas.runs.pareto import front
from nas.runs.record import TrialRecord, read_records
from nas.search.cluster.front_weights import FrontWeights
from nas.search.cluster.store import Store
from nas.search.evaluators.donors import likeness, nearest
from nas.search.progress import Progress
from nas.search.replicates.searcher import ReplicatingSearcher
from nas.search.storage import storage_url
from nas.search.study import Study
from nas.search.trial import TrialTask, run_trial
from nas.space.genotype import Genotype
from nas.space.specs import Basic, Bottleneck, Conv, Involution, Stem


def network(*stages) -> Genotype:
    return Genotype(stem=Stem(kind="small", width=8), stages=stages)


def record(number: int, genotype: Genotype) -> TrialRecord:
    return TrialRecord(number=number, key=genotype.key, state="complete", genotype=genotype.to_dict())


def test_likeness_is_by_kind_operator_width_and_depth():
    conv, involution = Basic(width=8, operator=Conv()), Basic(width=8, operator=Involution())
    wide, other = Basic(width=16, operator=Conv()), Bottleneck(width=8, operator=Conv())
    one = network((conv, conv), (wide,))
    assert likeness(one, one) == 1
    assert likeness(one, network((conv, involution), (wide,))) == pytest.approx(2.5 / 3)
    assert likeness(one, network((conv,), (wide,))) == pytest.approx(2 / 3)
    assert likeness(one, network((conv, conv))) == pytest.approx(2 / 3)
    assert likeness(one, network((conv, conv), (conv,))) == pytest.approx(2.5 / 3)
    assert likeness(network((conv,)), network((other,))) == 0
    near, far = record(1, network((conv, involution), (wide,))), record(2, network((involution,)))
    assert nearest(one, [far, near]) is near and nearest(one, [replace(near, number=3), near]) is near
    assert nearest(network((conv,)), [record(1, network((other,)))]) is None and nearest(one, []) is None


def test_only_trainings_of_classifiers_inherit(tmp_path):
    path = write_experiment(tmp_path)
    with pytest.raises(ConfigError, match=r"proxy\.inherit: 'nearest': is for trainings, and zero_cost has none"):
        load_experiment(path, ["proxy.inherit=nearest", "evaluator=zero_cost"])
    with pytest.raises(ConfigError, match=r"proxy\.inherit.*none.*nearest"):
        load_experiment(path, ["proxy.inherit=best"])


def heir(donor: TrialRecord, number: int = 1) -> TrialTask:
    """A network like that of `donor`, of another operator in one stage."""
    params = (SPACE.uniform("conv3") or {}) | {"stages.0.operator": "inv3"}
    given = {"number": donor.number, "key": donor.key, "genotype": Genotype.from_dict(donor.genotype).to_json()}
    return TrialTask(number, SPACE.decode(params), params, 11, donor=given)


def inherited(found: TrialRecord) -> dict:
    return found.evaluations[-1]["inherited"]


@pytest.mark.parametrize("stored", [False, True])
def test_a_training_begins_with_what_it_has_in_common(tmp_path, stored):
    """Also on a host that sees no more of the run than its store; the record says whose weights, and how much of it."""
    epochs = {"proxy": {"epochs": 3}}
    _, donor = run(task(), context(tmp_path / "run", **epochs))
    _, afresh = run(replace(heir(donor), donor=None), context(tmp_path / "afresh", **epochs))
    where = context(tmp_path / ("other" if stored else "run"), **epochs)
    if stored:
        where.store = Store(str(tmp_path / "store"), "run")
        where.store.send(proxy_folder(tmp_path / "run", donor.key), f"proxy/{donor.key}")
        begun = run_trial(heir(donor, 3), where)
        next(begun)
        names = {path.name for path in (tmp_path / "other/checkpoints/3").iterdir()}
        assert "inherited.safetensors" in names and "donor" not in names
        begun.close()
    _, found = run(heir(donor), where)
    assert found.state == "complete" and "inherited" not in afresh.evaluations[-1]
    assert inherited(found)["from"] == 0 and 0.3 < inherited(found)["share"] < 1
    assert found.curve[0]["train_loss"] != afresh.curve[0]["train_loss"]
    assert not (where.run_dir / "checkpoints/1").exists()


def test_a_trial_that_was_killed_begins_alike_though_its_donor_has_gone(tmp_path):
    where = context(tmp_path / "run")
    _, donor = run(task(), where)
    kept = load_file(proxy_folder(where.run_dir, donor.key) / "model.safetensors")
    begun = run_trial(heir(donor), where)
    next(begun)
    begun.close()
    folder = where.run_dir / "checkpoints/1"
    weights = load_file(folder / "inherited.safetensors")
    assert torch.equal(weights["stem.0.weight"], kept["stem.0.weight"])
    for path in (folder / "training").rglob("*"):
        path.unlink()
    FrontWeights(where.run_dir).finished(donor, [donor], [])
    assert not proxy_folder(where.run_dir, donor.key).exists()
    _, found = run(replace(heir(donor), donor=None), where)
    undisturbed = context(tmp_path / "undisturbed")
    run(task(), undisturbed)
    _, expected = run(heir(donor), undisturbed)
    assert inherited(found) == inherited(expected) and found.attempts == 2
    assert [row["train_loss"] for row in found.curve] == [row["train_loss"] for row in expected.curve]
    # what a trial of that number left, of another network, is not taken over
    begun = run_trial(heir(donor, 2), undisturbed)
    next(begun)
    begun.close()
    _, other = run(replace(task(2), seed=5), undisturbed)
    assert other.state == "complete" and "inherited" not in other.evaluations[-1]


def test_weights_stay_while_a_trial_needs_them(tmp_path):
    for key in "ab":
        proxy_folder(tmp_path, key).mkdir(parents=True)
    a, b = (TrialRecord(number=n, key=key, state="complete", genotype={}) for n, key in enumerate("ab"))
    in_use = {"a"}
    weights = FrontWeights(tmp_path, in_use=lambda: in_use)
    weights.finished(b, [a], [b])
    assert weights.has("a") and weights.has("b")
    in_use.clear()
    weights.finished(replace(b, number=3, key="c"), [b], [b])
    assert not weights.has("a") and weights.has("b")


def test_a_store_that_refuses_ends_nothing(tmp_path):
    refuses = tmp_path / "store/run/proxy/a"
    refuses.parent.mkdir(parents=True)
    refuses.write_text("no folder")
    a, b = (TrialRecord(number=n, key=key, state="failed", genotype={}) for n, key in enumerate("ab"))
    FrontWeights(tmp_path, Store(str(tmp_path / "store"), "run"), in_use=set).finished(b, [a], [])
    assert refuses.exists()


def test_a_search_whose_trainings_inherit(tmp_path):
    """Each from a network that was on the front when it began; afterwards the weights of the front alone are there.
    Replicates, which say how trainings scatter, begin afresh."""
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    options = ["proxy.inherit=nearest", "search.sampler=random", "search.replicates=1"]
    config, space = load_experiment(experiment, options)
    write_run(run_dir, experiment, config)
    progress = Progress(config.objectives, config.search.num_trials)
    study = Study(config, space, storage_url(config, run_dir), "tiny")
    train_all(ReplicatingSearcher(config, space, study, run_dir, 1, progress, [], study.reconcile([])))
    replicates = [record for path in (run_dir / "replicates").glob("[0-9]*") for record in read_records(path)]
    assert replicates and not any("inherited" in record.evaluations[-1] for record in replicates)
    records = sorted(results(run_dir), key=lambda record: record.number)
    assert "inherited" not in records[0].evaluations[-1] and len(records) == 6
    for at, found in enumerate(records[1:], 1):
        members = front(records[:at], config.objectives)
        donor = nearest(Genotype.from_dict(found.genotype), members)
        assert (donor is None) == ("inherited" not in found.evaluations[-1])
        assert donor is None or inherited(found)["from"] == donor.number
    there = {path.name for path in Path(proxy_folder(run_dir, "")).iterdir()}
    assert there == {member.key for member in front(records, config.objectives)}
