"""What operators do, which choices decide, and how well the model predicts, as text."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

from nas.runs.metrics import METRICS
from nas.runs.report_text import table

MOST_CHOICES = 6


def attribution_text(
    operators: dict[str, Any] | None,
    choices: Mapping[str, Mapping[str, float]] | None,
    predictions: Mapping[str, Any] | None,
    width: int = 100,
) -> str:
    """What `attribution` found of operators as a table, `importance` of choices and `predictions` of the model as some
    lines for each objective."""
    return "\n".join([*_changes(operators, width), "", *_shares(choices, width), "", *_predicted(predictions, width)])


def _changes(found: dict[str, Any] | None, width: int) -> list[str]:
    if found is None:
        return ["What operators do cannot be told yet: ten complete trials are needed."]
    names = list(found["rows"][0]["changes"])
    head = [
        "stage",
        "operator",
        *(f"{METRICS[name].title.replace(' ', chr(10))}\n{METRICS[name].unit}" for name in names),
    ]
    body = [
        [
            row["place"].removeprefix("stage "),
            row["label"],
            *(_interval(row["changes"][name], name) for name in names),
            _seen(row["seen"]),
        ]
        for row in found["rows"]
    ]
    return [
        f"One operator in the place of {found['baseline']}, all else equal, by {found['num_trials']} trials",
        "with 95 % intervals; seen: how many pairs of trained networks differ in just that, and by how much:",
        *table([*head, "seen"], body, width),
    ]


def _interval(change: Mapping[str, float], name: str) -> str:
    return f"{METRICS[name].signed(change['change'])} ± {METRICS[name].text(change['margin'])}"


def _seen(seen: Mapping[str, Any]) -> str:
    if not seen["pairs"]:
        return ""
    changes = ", ".join(
        f"{METRICS[name].signed(change)} {METRICS[name].unit}" for name, change in seen["changes"].items()
    )
    return f"{seen['pairs']}: {changes}"


def _shares(decisive: Mapping[str, Mapping[str, float]] | None, width: int) -> list[str]:
    if decisive is None:
        return ["Which choices decide cannot be told yet: twenty complete trials are needed."]
    lines = ["Share of a choice in being among the best fifth (PED-ANOVA):"]
    for name, shares in decisive.items():
        said = [f"{choice} {share:.0%}" for choice, share in list(shares.items())[:MOST_CHOICES]]
        text = f"{METRICS[name].title}: {', '.join(said)}"
        lines += wrap(text, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    return lines


def _predicted(found: Mapping[str, Any] | None, width: int) -> list[str]:
    if found is None:
        return ["How well the surrogate's model predicts cannot be told yet: sixteen complete trials are needed."]
    how = "from those that had ended before it began" if found["in_order"] else "from nine tenths of the others"
    lines = [f"Each trial predicted by the surrogate's model {how}:"]
    for name, of_objective in found["objectives"].items():
        words = of_objective["words"]
        lines += wrap(words, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
        trials = {trial["number"]: trial for trial in of_objective["trials"]}
        for number in of_objective["misses"]:
            trial, metric = trials[number], METRICS[name]
            said = f"{metric.text(trial['predicted'])} ± {metric.text(trial['margin'])}"
            lines.append(f"    trial {number}: {metric.text(trial['measured'])} {metric.unit}, predicted {said}")
    return lines
