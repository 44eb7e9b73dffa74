"""Reading an experiment file with its overrides, checking it, and writing it out again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    ValidationError,
)

from nas.config import strict_yaml
from nas.config.document import ConfigError, Document, Issue
from nas.config.errors import config_error, in_file_order
from nas.config.overrides import Overrides, as_texts, override
from nas.config.own import extension_issues
from nas.config.schema import schema
from nas.config.sections import PATTERNS, ExperimentConfig
from nas.space import search_space as space
from nas.space import specs
from nas.space.published import PUBLISHED
from nas.space.sections import SpaceConfig


def load(path: str | Path, overrides: Overrides = ()) -> ExperimentConfig:
    """Read an experiment file; overrides are `a.b.0.c=value`, the value in YAML.

    Raises ConfigError with all mistakes at their line and column.
    """
    return validate(read(path, overrides))


def loads(text: str, name: str) -> ExperimentConfig:
    """Like `load`, from a text; `name` is what errors call it."""
    return validate(strict_yaml.parse(text, name))


def read(path: str | Path, overrides: Overrides = ()) -> Document:
    """The data of an experiment file with overrides applied, not yet validated. Raises ConfigError."""
    document = strict_yaml.read(path)
    issues: list[Issue] = []
    for text in as_texts(overrides):
        try:
            override(document, text)
        except ConfigError as error:
            issues += error.issues
    if issues:
        raise ConfigError(issues)
    return document


def validate(document: Document) -> ExperimentConfig:
    """The experiment that a document says. Raises ConfigError."""
    try:
        # pydantic's strict mode takes objects for dataclasses from JSON only
        return ExperimentConfig.model_validate_json(json.dumps({} if document.data is None else document.data))
    except ValidationError as error:
        raise config_error(error, document, schema(tuple(specs.OPERATORS)), PATTERNS) from None


def dump(config: ExperimentConfig) -> str:
    """The experiment as YAML with every option written out; it loads to an equal one."""
    data = config.model_dump(mode="json")
    return yaml.dump(data, Dumper=_Dumper, default_flow_style=None, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would take for something else; short sections take one line; no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_data(self, data: Any) -> yaml.Node:
        if isinstance(data, str) and not (data.isascii() and isinstance(strict_yaml.scalar(data), str)):
            return self.represent_scalar("tag:yaml.org,2002:str", data, '"')
        return super().represent_data(data)

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        return super().represent_mapping(tag, mapping, False if len(mapping) > 8 else flow_style)


def load_experiment(path: str | Path, overrides: Overrides = ()) -> tuple[ExperimentConfig, space.SearchSpace]:
    """Read an experiment file, see `load`; labels and widths that do not fit are reported at their location too.

    Modules that the file names are imported from its folder (for a run's file, from what the run keeps), and what they
    do not provide is reported as well. Paths of data and of networks are then absolute: other processes, in other
    folders, follow them too. Raises ConfigError.
    """
    document = read(path, overrides)
    issues, experiment = extension_issues(document, Path(path).absolute().parent), None
    try:
        experiment = validate(document)
    except ConfigError as error:
        issues += error.issues
    issues += _space_issues(document)
    if issues or experiment is None:
        raise ConfigError(in_file_order(issues))
    return with_absolute_paths(experiment), space.SearchSpace(experiment.space, experiment.training_choices)


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
