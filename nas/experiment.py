"""An experiment file as its configuration and its search space, checked against each other."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from nas import space, strict_yaml
from nas.config import ExperimentConfig, SpaceConfig, validate
from nas.config_errors import in_file_order


def load_experiment(path: str | Path, overrides: Iterable[str] = ()) -> tuple[ExperimentConfig, space.SearchSpace]:
    """Read an experiment file, see `config.load`; labels and widths that do not fit are reported at their place too.

    Raises strict_yaml.ConfigError.
    """
    document = strict_yaml.read(path, overrides)
    try:
        experiment = validate(document)
    except strict_yaml.ConfigError as error:
        raise strict_yaml.ConfigError(in_file_order([*error.issues, *_space_issues(document)])) from None
    if issues := _space_issues(document):
        raise strict_yaml.ConfigError(in_file_order(issues))
    return experiment, space.SearchSpace(experiment.space)


def _space_issues(document: strict_yaml.Document) -> list[strict_yaml.Issue]:
    """What the space section's entries, each allowed by itself, do not allow together."""
    data = document.data.get("space") if isinstance(document.data, dict) else None
    try:
        section = SpaceConfig.model_validate_json(json.dumps(data))
    except ValidationError:
        return []
    return [document.problem(("space", *steps), text) for steps, text in space.problems(section)]
