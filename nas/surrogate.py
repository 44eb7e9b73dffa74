"""Public: see `nas.search.surrogate`."""

from nas.search.surrogate import Knowledge, SurrogateSampler

__all__ = ["Knowledge", "SurrogateSampler"]
