"""An experiment file as its configuration and its search space, checked against each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from nas.base.extensions import full_name, is_own, load_callable, use_folder
from nas.base.section import ShippedDataset
from nas.config.document import ConfigError, Document, Issue, Steps
from nas.config.errors import in_file_order
from nas.config.sections import ExperimentConfig, ShippedSampler, read, validate
from nas.space import search_space as space
from nas.space import specs
from nas.space.sections import SpaceConfig

LOADERS: dict[str, Callable[[str], object]] = {
    "nas.operators": specs.OPERATORS.find,
    "nas.blocks": specs.BLOCKS.find,
    "nas.datasets": lambda name: load_callable(name, ["request"]),
    "nas.samplers": lambda name: load_callable(name, ["seed", "run_seed", "knowledge"]),
}


def load_experiment(path: str | Path, overrides: Iterable[str] = ()) -> tuple[ExperimentConfig, space.SearchSpace]:
    """Read an experiment file, see `config.load`; labels and widths that do not fit are reported at their place too.

    Modules that the file names are imported from its folder (of a run's file, from what the run keeps), and what they
    do not provide is reported as well. Raises ConfigError.
    """
    document = read(path, overrides)
    issues = _extension_issues(document, Path(path).absolute().parent)
    experiment = None
    try:
        experiment = validate(document)
    except ConfigError as error:
        issues += error.issues
    issues += _space_issues(document)
    if issues or experiment is None:
        raise ConfigError(in_file_order(issues))
    return experiment, space.SearchSpace(experiment.space)


def own_names(config: ExperimentConfig) -> list[str]:
    """What an experiment takes from outside the package, as `module:object`."""
    stages = [stage.block if isinstance(stage.block, list) else [stage.block] for stage in config.space.stages]
    names = [operator.op for operator in config.space.operators.values()]
    names += [*chain.from_iterable(stages), config.search.sampler, config.proxy.dataset, config.retrain.dataset]
    return list(dict.fromkeys(filter(is_own, names)))


def _extension_issues(document: Document, folder: Path) -> list[Issue]:
    """What the file names of others and they do not provide; what is there is imported and entered."""
    issues = []
    for group, steps in _named(document):
        name = full_name(group, str(document.at(steps)))
        if not is_own(name):
            continue
        use_folder(folder)
        try:
            LOADERS[group](name)
        except ValueError as error:
            issues.append(document.problem(steps, str(error)))
    return issues


def _named(document: Document) -> Iterator[tuple[str, Steps]]:
    """Where a file may name something of others that is not of the package: (group, path)."""
    for steps in document.values:
        match steps:
            case ("space", "operators", _, "op"):
                group, known = "nas.operators", specs.OPERATORS
            case ("space", "stages", int(), "block") | ("space", "stages", int(), "block", int()):
                group, known = "nas.blocks", specs.BLOCKS
            case ("search", "sampler"):
                group, known = "nas.samplers", get_args(ShippedSampler)
            case ("proxy" | "retrain", "dataset"):
                group, known = "nas.datasets", get_args(ShippedDataset)
            case _:
                continue
        value = document.at(steps)
        if isinstance(value, str) and value not in known:
            yield group, steps


def _space_issues(document: Document) -> list[Issue]:
    """What the space section's entries, each allowed by itself, do not allow together."""
    data = document.data.get("space") if isinstance(document.data, dict) else None
    try:
        section = SpaceConfig.model_validate_json(json.dumps(data))
    except ValidationError:
        return []
    return [document.problem(("space", *steps), text) for steps, text in space.problems(section)]
