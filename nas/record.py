"""Public: see `nas.runs.record`."""

from nas.runs.record import TrialRecord, read_records

__all__ = ["TrialRecord", "read_records"]
