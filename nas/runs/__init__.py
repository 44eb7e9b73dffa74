"""What a run leaves on disk, read back: records, fronts, reports, states of runs.

Imports nas.config, nas.space and nas.base. Knows no torch.
"""
