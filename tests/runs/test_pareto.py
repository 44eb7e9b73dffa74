"""Front and hypervolume: hand cases, definitions by brute force, and the size of search they must bear."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from helpers.run_samples import record
from nas.config.sections import ObjectiveConfig
from nas.runs.pareto import as_points, front, hypervolume, pareto_mask, reference_point

NAN, INF = float("nan"), float("inf")


def brute_force_mask(points: np.ndarray):
    at_most = (points[:, None] <= points[None]).all(-1)
    below = (points[:, None] < points[None]).any(-1)
    return ~(at_most & below).any(0) & ~np.isnan(points).any(1)


def inclusion_exclusion(points: np.ndarray, reference: np.ndarray) -> float:
    """The volume of a union of boxes, from the volumes of all their intersections."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for chosen in itertools.combinations(points, size):
            total -= (-1) ** size * np.prod(np.clip(reference - np.max(chosen, axis=0), 0, None))
    return total


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("levels", [3, 10**6])
def test_mask_is_the_definition(width, levels):
    random = np.random.default_rng(width)
    for count in (1, 2, 7, 60):
        points = random.integers(0, levels, (count, width)).astype(float)
        points[random.random(count) < 0.1, 0] = NAN
        np.testing.assert_array_equal(pareto_mask(points), brute_force_mask(points))


def test_mask_by_hand():
    points = [[1, 5], [1, 5], [2, 5], [2, 4], [3, 4], [9, NAN], [4, -INF], [INF, INF], [0, INF]]
    assert pareto_mask(points).tolist() == [True, True, False, True, False, False, True, False, True]
    assert pareto_mask(np.empty((0, 2))).tolist() == []
    assert pareto_mask([[NAN, 1.0]]).tolist() == [False]
    assert pareto_mask([[2.0], [1.0], [1.0]]).tolist() == [False, True, True]
    assert pareto_mask([[INF, INF]]).tolist() == [True]
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        pareto_mask([1.0, 2.0])


def test_mask_at_the_size_of_large_searches():
    random = np.random.default_rng(0)
    angle = random.random(100_000) * np.pi / 2
    circle = np.stack([1 - np.cos(angle), 1 - np.sin(angle)], 1)
    ball = np.abs(random.normal(size=(5_000, 3)))
    ball = 1 - ball / np.linalg.norm(ball, axis=1, keepdims=True)
    start = time.perf_counter()
    assert pareto_mask(circle).all()
    assert pareto_mask(ball).all()
    for points in random.random((100_000, 2)), random.random((50_000, 3)):
        mask = pareto_mask(points)
        best, some = points[mask], points[~mask][:300]
        dominated = np.logical_and.reduce([best[None, :, i] <= some[:, None, i] for i in range(points.shape[1])])
        assert dominated.any(axis=-1).all(), "every other point has one that dominates it"
        np.testing.assert_array_equal(brute_force_mask(best), True)
    assert time.perf_counter() - start < 5


def test_hypervolume_by_hand():
    assert hypervolume([[3.0], [1.0]], [4.0]) == 3
    assert hypervolume([[1, 3], [2, 2], [3, 1]], [4, 4]) == 3 + 2 + 1
    assert hypervolume([[0, 0, 0]], [2, 3, 4]) == 24
    assert hypervolume([[0, 0, 1], [1, 1, 0]], [2, 2, 2]) == 4 + 2 - 1
    assert hypervolume([[5, 5], [4, 0], [NAN, 0]], [4, 4]) == 0
    assert hypervolume(np.empty((0, 3)), [1, 1, 1]) == 0
    assert hypervolume([[1, 1], [1, 1]], [2, 2]) == 1
    with pytest.raises(ValueError, match="one per objective"):
        hypervolume([[1, 1]], [2])
    with pytest.raises(ValueError, match="finite"):
        hypervolume([[1, 1]], [2, INF])


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_hypervolume_is_the_volume_of_the_union(width):
    random = np.random.default_rng(width)
    for count in (1, 2, 5, 9):
        points = random.random((count, width)).round(1) * 1.2
        reference = np.full(width, 1.0)
        assert hypervolume(points, reference) == pytest.approx(inclusion_exclusion(points, reference), abs=1e-12)


@pytest.mark.parametrize("width", [2, 3, 4])
def test_hypervolume_agrees_with_sampling(width):
    random = np.random.default_rng(3)
    points = random.random((80, width))
    samples = random.random((100_000, width))
    covered = np.zeros(len(samples), bool)
    for point in points:
        covered |= (samples >= point).all(1)
    assert hypervolume(points, np.ones(width)) == pytest.approx(covered.mean(), abs=5 / np.sqrt(len(samples)))


def test_hypervolume_grows_with_every_front_point_and_ignores_dominated_ones():
    random = np.random.default_rng(1)
    points = random.random((60, 3))
    volumes = [hypervolume(points[:count], np.full(3, 1.1)) for count in range(61)]
    gains = np.diff(volumes)
    joins = [pareto_mask(points[: count + 1])[count] for count in range(60)]
    np.testing.assert_array_equal(gains > 1e-15, joins)


def test_reference_point_rule():
    assert reference_point([[1.0, 10.0], [2.0, 30.0], [NAN, 99.0], [1.0, INF]]).tolist() == [2.1, 32.0]
    assert reference_point([[-2.0, 0.0]]).tolist() == [-1.8, 1.0]
    with pytest.raises(ValueError, match="at least one point"):
        reference_point([[NAN, 1.0]])


def test_front_of_records():
    objectives = [ObjectiveConfig(name="top1"), ObjectiveConfig(name="latency_ms")]
    records = [
        record(0, top1=0.9, latency_ms=5.0),
        record(1, top1=0.8, latency_ms=2.0),
        record(2, top1=0.7, latency_ms=3.0),
        record(3, "stopped", top1=0.99, latency_ms=1.0),
        record(4, "failed", latency_ms=0.5),
        record(5, top1=0.95),
        record(6, top1=0.8, latency_ms=2.0),
    ]
    assert [found.number for found in front(records, objectives)] == [1, 6, 0]
    assert as_points(records[:1], objectives).tolist() == [[-0.9, 5.0]]
    assert [found.number for found in front(records, objectives[:1])] == [5]
    assert front([], objectives) == []
