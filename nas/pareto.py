"""Public: see `nas.runs.pareto`."""

from nas.runs.pareto import front, hypervolume, pareto_mask, reference_point

__all__ = ["front", "hypervolume", "pareto_mask", "reference_point"]
