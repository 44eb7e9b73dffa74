"""Detectors on scattered digits: how boxes are judged, and the comparison of operators in neck and head."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from nas.bench.necks import box_ap
from nas.data.scattered import scattered_digits

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_necks.py"


class Told(nn.Module):
    """Says of each scene in turn what it was told, its boxes moved to the right."""

    def __init__(self, scenes, right: float = 0.0, other: int = 0):
        super().__init__()
        self.scenes, self.move, self.other = iter(scenes), torch.tensor([right, 0.0, right, 0.0]), other

    def forward(self, images):
        scene = next(self.scenes)
        labels = (scene.labels - 1 + self.other) % 10 + 1
        return [{"boxes": scene.boxes + self.move, "labels": labels, "scores": torch.full((len(labels),), 0.9)}]


def test_average_precision_counts_boxes_of_the_right_class_that_lie_right():
    scenes = scattered_digits(30, 96, seed=0, evaluation=True)
    assert box_ap(Told(scenes), scenes) == {"box_ap": 1.0, "box_ap50": 1.0}
    assert box_ap(Told(scenes, other=1), scenes)["box_ap50"] < 0.2
    moved = box_ap(Told(scenes, right=3.0), scenes)
    assert moved["box_ap"] < 0.6 < moved["box_ap50"]


def test_operators_are_compared_and_the_comparison_goes_on(tmp_path):
    out = tmp_path / "necks.jsonl"
    command = [sys.executable, str(SCRIPT), "--epochs", "1", "--scenes", "16", "--seeds", "1", "--out", str(out)]
    first = subprocess.run([*command, "--slots", "gnconv/involution"], capture_output=True, text=True)
    assert "| gnconv | involution | 1 |" in first.stdout, first.stderr
    before = out.read_text(encoding="utf-8")
    again = subprocess.run([*command, "--slots", "gnconv/involution"], capture_output=True, text=True)
    assert again.stdout == first.stdout and out.read_text(encoding="utf-8") == before
    row = json.loads(before.splitlines()[1])
    assert row["loss"] > 0 and row["box_ap"] == pytest.approx(0, abs=0.05)
