"""An experiment file as its configuration and its search space, checked against each other."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from nas.config.document import ConfigError, Document, Issue
from nas.config.errors import in_file_order
from nas.config.sections import ExperimentConfig, read, validate
from nas.space import search_space as space
from nas.space.published import PUBLISHED
from nas.space.sections import SpaceConfig


def load_experiment(path: str | Path, overrides: Iterable[str] = ()) -> tuple[ExperimentConfig, space.SearchSpace]:
    """Read an experiment file, see `config.load`; labels and widths that do not fit are reported at their place too.

    Paths of data and of networks are then absolute: other processes, in other folders, follow them too. Raises
    ConfigError.
    """
    document = read(path, overrides)
    try:
        experiment = validate(document)
    except ConfigError as error:
        raise ConfigError(in_file_order([*error.issues, *_space_issues(document)])) from None
    if issues := _space_issues(document):
        raise ConfigError(in_file_order(issues))
    return with_absolute_paths(experiment), space.SearchSpace(experiment.space)


def with_absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment with what it names in this process's folder named from anywhere."""
    given, proxy = config.proxy.data_dir, config.proxy
    if given:
        proxy = proxy.model_copy(update={"data_dir": str(Path(given).absolute())})
    starts = [
        str(Path(name).absolute()) if Path(name).is_file() and name not in PUBLISHED else name
        for name in config.search.warm_start
    ]
    search = config.search.model_copy(update={"warm_start": starts})
    resources, kept = config.resources, config.resources.storage_path
    if kept and "://" not in kept:
        resources = resources.model_copy(update={"storage_path": str(Path(kept).absolute())})
    return config.model_copy(update={"proxy": proxy, "search": search, "resources": resources})


def _space_issues(document: Document) -> list[Issue]:
    """What the space section's entries, each allowed by itself, do not allow together."""
    data = document.data.get("space") if isinstance(document.data, dict) else None
    try:
        section = SpaceConfig.model_validate_json(json.dumps(data))
    except ValidationError:
        return []
    return [document.problem(("space", *steps), text) for steps, text in space.problems(section)]
