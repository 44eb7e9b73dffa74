"""The standing check of the operators' starts: what it trains, how it compares, and a slice of it."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from nas.bench.starts import OPERATORS, POINTWISE, Comparison, Slot, baseline, compare, network, slots, train_slot
from nas.config.reading import load_experiment
from nas.space import specs

ROOT = Path(__file__).parents[2]


def test_every_operator_stands_in_every_slot_that_it_fits():
    found = set(slots())
    for label, operator in OPERATORS.items():
        kinds = {slot.block for slot in found if slot.label == label}
        assert kinds == {kind for kind in specs.BLOCKS if specs.fits(kind, operator)}
    assert {type(operator) for operator in OPERATORS.values()} == set(specs.OPERATORS.values())
    for slot in found:
        genotype = network(slot, depth=2)
        chosen = OPERATORS | POINTWISE
        for i, stage in enumerate(("first", "last")):
            inside = {block.operator for block in genotype.stages[i]}
            inside |= {getattr(block, "pointwise", None) for block in genotype.stages[i]}
            assert (chosen[slot.label] in inside) == (
                slot.stages in (stage, "both") or slot.label == baseline(slot.block)
            )


def test_means_and_failures_beside_the_baseline():
    results = {
        Slot("conv3", "basic", "first"): [0.98, 0.96],
        Slot("gn2", "basic", "first"): [0.95, 0.93],
        Slot("inv3", "basic", "first"): [0.97, None],
    }
    found = {comparison.slot.label: comparison for comparison in compare(results)}
    assert found["gn2"].behind == pytest.approx(3) and found["gn2"].worst == pytest.approx(93)
    assert found["inv3"] == Comparison(Slot("inv3", "basic", "first"), 97.0, 97.0, 97.0, 1)


@pytest.mark.parametrize(
    ("label", "block"),
    [("inv3", "basic"), ("od4", "bottleneck"), ("gn5", "bottleneck"), ("gn2", "gated")],
)
def test_no_operator_is_far_behind_convolution(label, block, tmp_path_factory):
    """After 8 epochs on the digits, in four blocks: what fell to 30 to 80 % or to NaN by its start alone."""
    config, _ = load_experiment(ROOT / "search_spaces" / "quickstart.yaml")
    proxy = config.proxy.model_copy(update={"dataset": "digits", "resolution": 8, "epochs": 8})
    cache = tmp_path_factory.getbasetemp() / "digits"
    curve = train_slot(Slot(label, block, "both"), proxy, seed=0, cache_dir=cache, depth=2)
    assert isinstance(curve, list) and curve[-1] > 0.9, curve  # convolution: 0.95 to 0.99


def test_the_check_goes_on_where_it_ended_and_says_what_is_outside(tmp_path, monkeypatch):
    """One epoch is too little for most: the report names slots outside its bounds, and exits with 1."""
    out = tmp_path / "starts.jsonl"
    command = [sys.executable, str(ROOT / "scripts" / "check_operators.py"), "--epochs", "1", "--seeds", "1"]
    slice_of = ["--stages", "first", "--blocks", "inverted_residual", "--labels", "dw7,inv3", "--out", str(out)]
    first = subprocess.run([*command, *slice_of], capture_output=True, text=True)
    assert out.exists(), first.stderr
    whole = out.read_text()
    lines = whole.splitlines()
    assert len(lines) == 4  # the recipe, the baseline and two more
    out.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])  # killed while it wrote
    again = subprocess.run([*command, *slice_of], capture_output=True, text=True)
    assert sorted(out.read_text().splitlines()) == sorted(lines)  # the same training, bit for bit
    assert again.stdout == first.stdout and "trainings; outside the bounds:" in again.stdout
    monkeypatch.setattr("sys.argv", [*command[1:-3], "2", *slice_of])
    with pytest.raises(SystemExit, match="made by another recipe"):
        runpy.run_path(command[1], run_name="__main__")
