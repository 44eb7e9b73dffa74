"""The surrogate sampler: a model of the trials, what a candidate may add to the front, costs known without training.

Imports nas.runs, nas.measure and what is below them; nothing of nas.search.
"""

from nas.search.surrogate.knowledge import InfeasibleSpace, Knowledge
from nas.search.surrogate.sampler import SurrogateSampler

__all__ = ["InfeasibleSpace", "Knowledge", "SurrogateSampler"]
