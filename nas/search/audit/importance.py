"""importance: how much each choice of a space decides about each objective, by Optuna's PED-ANOVA."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection

from nas.config.evaluators import TRAINED
from nas.config.sections import ObjectiveConfig
from nas.runs.reader import RunReader
from nas.runs.record import TrialRecord
from nas.search.audit.trials import complete_trials
from nas.space.search_space import SearchSpace
from nas.space.training import PREFIX

FEWEST = 20
BEST = 0.2
"""What counts as good: the best fifth of the trials, so that FEWEST have four of them."""


def importance(run: RunReader) -> dict[str, dict[str, float]] | None:
    """Objective -> choice -> its share of what makes a network one of the best fifth, the greatest first.

    A choice is a parameter of the space, such as `stages.1.width`; those with a single value are left out, and an
    operator counts where its block is there (conditional PED-ANOVA, https://arxiv.org/abs/2601.20800). None for fewer
    than FEWEST complete trials, or without the file of the experiment.
    """
    told = complete_trials(run, FEWEST)
    if told is None:
        return None
    space, records = told
    study = _study(space, run.objectives, records)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST)
    found = {}
    for at, objective in enumerate(run.objectives):
        chosen = {name for trial in study.get_trials(deepcopy=False) for name in trial.params}
        if objective.name not in TRAINED:  # how a network is trained changes none of its costs
            chosen = {name for name in chosen if not name.startswith(PREFIX)}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*low `target` values")  # as they are asked for
            shares = optuna.importance.get_param_importances(
                study,
                evaluator=evaluator,
                params=sorted(chosen),
                target=partial(_value, at),
            )
        found[objective.name] = {name: float(share) for name, share in shares.items()}
    return found


def _value(at: int, trial: optuna.trial.FrozenTrial) -> float:
    return trial.values[at]


def _study(space: SearchSpace, objectives: Sequence[ObjectiveConfig], records: Sequence[TrialRecord]) -> optuna.Study:
    """The trials that have all objectives as a study in memory, lower is better, each with the choices in effect."""
    choices = {name: values for name, values in space.choices().items() if len(values) > 1}
    distributions: dict[str, BaseDistribution] = {name: CategoricalDistribution(v) for name, v in choices.items()}
    signs = {objective.name: -1 if objective.maximize else 1 for objective in objectives}
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(directions=[StudyDirection.MINIMIZE] * len(signs))
    finally:
        optuna.logging.set_verbosity(before)
    for record in records:
        found = record.objectives
        if signs.keys() <= found.keys():
            active = {name: value for name, value in space.active(record.params).items() if name in choices}
            of_active = {name: distributions[name] for name in active}
            values = [sign * found[name] for name, sign in signs.items()]
            study.add_trial(optuna.trial.create_trial(params=active, distributions=of_active, values=values))
    return study
