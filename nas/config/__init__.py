"""The YAML file of an experiment, read strictly and checked: every mistake with its line and what is allowed.

Imports nas.base and nas.space. Knows no torch.
"""
