"""An experiment file as its configuration and its search space, checked against each other."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from nas.config.document import ConfigError, Document, Issue
from nas.config.errors import in_file_order
from nas.config.overrides import Overrides
from nas.config.sections import ExperimentConfig, read, validate
from nas.space import search_space as space
from nas.space.sections import SpaceConfig


def load_experiment(path: str | Path, overrides: Overrides = ()) -> tuple[ExperimentConfig, space.SearchSpace]:
    """Read an experiment file, see `sections.load`; labels and widths that do not fit are reported at their place too.

    Raises ConfigError.
    """
    document = read(path, overrides)
    try:
        experiment = validate(document)
    except ConfigError as error:
        raise ConfigError(in_file_order([*error.issues, *_space_issues(document)])) from None
    if issues := _space_issues(document):
        raise ConfigError(in_file_order(issues))
    return experiment, space.SearchSpace(experiment.space)


def _space_issues(document: Document) -> list[Issue]:
    """What the space section's entries, each allowed by itself, do not allow together."""
    data = document.data.get("space") if isinstance(document.data, dict) else None
    try:
        section = SpaceConfig.model_validate_json(json.dumps(data))
    except ValidationError:
        return []
    return [document.problem(("space", *steps), text) for steps, text in space.problems(section)]
