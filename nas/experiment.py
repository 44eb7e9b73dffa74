"""An experiment file as its configuration and its search space, checked against each other."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nas import config, space, strict_yaml
from nas.config_errors import located


def load_experiment(
    path: str | Path, overrides: Iterable[str] = ()
) -> tuple[config.ExperimentConfig, space.SearchSpace]:
    """Read an experiment file, see `config.load`; also labels and widths that do not fit are reported at their place.

    Raises strict_yaml.ConfigError.
    """
    document = strict_yaml.read(path, overrides)
    experiment = config.validate(document)
    if problems := list(space.problems(experiment.space)):
        raise located(document, [(("space", *steps), text) for steps, text in problems])
    return experiment, space.SearchSpace(experiment.space)
