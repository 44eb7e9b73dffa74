"""Experiment files that travel with the package: one YAML is one whole experiment, readable alone."""
