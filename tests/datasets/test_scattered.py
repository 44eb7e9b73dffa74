"""Scenes of scattered digits: equal for a seed, boxes and masks that fit, digits of their own for evaluation."""

from __future__ import annotations

import pytest
import torch

from nas.data.scattered import MOST_DIGITS, NUM_CLASSES, SIDES, VISIBLE, scattered_digits


def test_boxes_hold_their_masks_tightly_and_apart():
    scenes = scattered_digits(40, 96, seed=3)
    assert {len(scene.labels) for scene in scenes} == set(range(1, MOST_DIGITS + 1))
    assert {int(label) for scene in scenes for label in scene.labels} == set(range(1, NUM_CLASSES + 1))
    for scene in scenes:
        assert scene.image.shape == (1, 96, 96) and scene.image.dtype == torch.uint8
        for i, (box, mask) in enumerate(zip(scene.boxes, scene.masks, strict=True)):
            rows, columns = torch.nonzero(mask.any(dim=1))[:, 0], torch.nonzero(mask.any(dim=0))[:, 0]
            left, top, right, bottom = box.tolist()
            assert [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] == [left, top, right, bottom]
            assert max(right - left, bottom - top) <= max(SIDES)
            assert (scene.image[0][mask.bool()] >= VISIBLE).all()
            assert not (mask.bool() & scene.masks[:i].any(dim=0)).any()


def test_scenes_depend_on_the_seed_and_on_what_they_are_for():
    first, again = scattered_digits(3, 64, seed=0), scattered_digits(5, 64, seed=0)
    assert all(
        torch.equal(a.image, b.image) and torch.equal(a.boxes, b.boxes) for a, b in zip(first, again, strict=False)
    )
    others = (scattered_digits(3, 64, seed=1), scattered_digits(3, 64, seed=0, evaluation=True))
    assert not any(torch.equal(first[0].image, other[0].image) for other in others)
    with pytest.raises(ValueError, match="side = 63: allowed is 64 or more for scattered digits; 96 is usual"):
        scattered_digits(1, 63, seed=0)
