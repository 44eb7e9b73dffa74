"""Which forms of kernels the trials of a search compute with: those that it was begun with, also when it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pytest
import torch

from helpers.searches import nas, results, running, sizes_of, training, write_experiment
from nas import kernels
from nas.config.reading import load_experiment
from nas.kernels.tools.choosing import FORMS
from nas.runs.folder import CHOICES
from nas.search.cluster.choices import measured
from nas.search.evaluators.context import TrialContext
from nas.search.trial import TrialTask, run_trial
from nas.space.genotype import Genotype


@pytest.fixture(autouse=True)
def measuring(monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", "auto")
    yield
    kernels.use({})


def test_a_search_that_is_killed_goes_on_with_the_forms_that_it_began_with(tmp_path):
    """On two workers, with a record that has other forms than were the fastest: all trials take those of the record,
    also after it is gone, and to the last bit."""
    experiment = write_experiment(tmp_path)
    few = experiment.read_text().replace("[8, 16]", "8").replace("[16, 32]", "16").replace("[1, 2]", "1")
    experiment.write_text(few)  # so few cases to measure
    sizes = [*sizes_of(3, 3, 2), "--set", "search.sampler=random"]
    run = tmp_path / "results/tiny"
    config, _ = load_experiment(experiment, ["proxy.epochs=3"])
    chosen, summary = measured(config.model_dump_json(), str(run), 1, False, {}, None)
    assert chosen and " 0 known" in summary
    (record,) = (tmp_path / "results/.cache/kernels").glob("*.json")
    kept = json.loads(record.read_text(encoding="utf-8"))
    for text, case in kept["cases"].items():
        case["form"] = list(FORMS[text.split()[0]].forms)[-1]  # unfold, n_fold: seldom the rule's
    record.write_text(json.dumps(kept), encoding="utf-8")
    with running(tmp_path, "search", str(experiment), *sizes) as driver:
        deadline = time.monotonic() + 120
        while not training(run / "checkpoints") and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(driver.pid, signal.SIGKILL)
    pinned = json.loads((run / CHOICES).read_text(encoding="utf-8"))["forms"]
    assert pinned.keys() == chosen.keys() and {text: pinned[text] for text in kept["cases"]} == {
        text: case["form"] for text, case in kept["cases"].items()
    }
    shutil.rmtree(record.parent)
    done = nas(tmp_path, "search", str(experiment), *sizes, "--resume")
    assert "measuring" not in done.stderr and not record.parent.exists()
    assert json.loads((run / CHOICES).read_text(encoding="utf-8"))["forms"] == pinned
    met = [r for r in results(run) if {"involution", "odconv"} & {op for op in _operators(r.genotype)}]
    assert len(results(run)) == 3 and met
    differ = False
    for trained in met:
        task = TrialTask(trained.number, Genotype.from_dict(trained.genotype), trained.params, trained.seed)
        losses = [row["train_loss"] for row in trained.curve]
        for forms in (pinned, {})[: 1 if differ else 2]:
            kernels.use(forms)
            *_, last = run_trial(task, TrialContext(config, tmp_path / f"again-{len(forms)}", torch.device("cpu")))
            again = [row["train_loss"] for row in last["record"].curve]
            assert again == losses or not forms
        differ = differ or again != losses
    assert differ


def _operators(genotype: dict) -> list[str]:
    return [block["operator"]["op"] for stage in genotype["stages"] for block in stage]
