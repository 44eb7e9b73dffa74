"""What an experiment takes from outside the package: by name, and what is wrong with it at its location in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import get_args

from nas.base.extensions import full_name, is_own, load_callable, use_folder
from nas.base.section import ShippedDataset
from nas.config.document import Document, Issue, Steps
from nas.config.evaluators import ShippedEvaluator
from nas.config.sections import ExperimentConfig, ShippedSampler
from nas.space import specs

LOADERS: dict[str, Callable[[str], object]] = {
    "nas.operators": specs.OPERATORS.find,
    "nas.blocks": specs.BLOCKS.find,
    "nas.datasets": lambda name: load_callable(name, ["request"]),
    "nas.samplers": lambda name: load_callable(name, ["seed", "run_seed", "knowledge"]),
    "nas.evaluators": lambda name: load_callable(name, ["candidate"]),
}


def own_names(config: ExperimentConfig) -> list[str]:
    """What an experiment takes from outside the package, as `module:object`."""
    stages = [stage.block if isinstance(stage.block, list) else [stage.block] for stage in config.space.stages]
    names = [operator.op for operator in config.space.operators.values()]
    names += [*chain.from_iterable(stages), config.search.sampler, config.proxy.dataset, config.retrain.dataset]
    names += [stage.name for stage in config.evaluators]
    return list(dict.fromkeys(filter(is_own, names)))


def extension_issues(document: Document, folder: Path) -> list[Issue]:
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
                group, shipped = "nas.operators", specs.OPERATORS
            case ("space", "stages", int(), "block") | ("space", "stages", int(), "block", int()):
                group, shipped = "nas.blocks", specs.BLOCKS
            case ("search", "sampler"):
                group, shipped = "nas.samplers", get_args(ShippedSampler)
            case ("evaluator",) | ("evaluator", "name") | ("evaluator", int()) | ("evaluator", int(), "name"):
                group, shipped = "nas.evaluators", get_args(ShippedEvaluator)
            case ("proxy" | "retrain", "dataset"):
                group, shipped = "nas.datasets", get_args(ShippedDataset)
            case _:
                continue
        value = document.at(steps)
        if isinstance(value, str) and value not in shipped:
            yield group, steps
