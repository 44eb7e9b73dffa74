"""A report as text: progress, circumstances, the front and the retrained networks as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

from nas.config.evaluators import FIGURES
from nas.runs.findings.trust import TOP
from nas.runs.metrics import METRICS
from nas.runs.record import MEASURED
from nas.space.training import training_words

NOISE_HEAD = ["interval\n%", "P of\nfront", "P it\nbeats"]


def to_text(found: dict[str, Any], width: int = 100) -> str:
    """A report as a readable text of at most `width` columns, where the tables allow."""
    lines = [f"{found['run']}: {_progress_words(found)}"]
    lines += [f"  {line}" for line in _circumstances(found)]
    if not found["front"]:
        return "\n".join([*lines, "", why_no_front(found)])
    asked = {objective["name"] for objective in found["objectives"]}
    metrics = [
        name
        for name in METRICS
        if (name in asked or name not in FIGURES) and any(name in _values(entry) for entry in found["front"])
    ]
    trainings = [training_words(entry["training"]) for entry in found["front"]]
    chosen = ["training"] if any(trainings) else []
    judged = NOISE_HEAD if found["noise"] else []
    head = [
        "key",
        *(f"{METRICS[name].title.replace(' ', chr(10))}\n{METRICS[name].unit}".strip() for name in metrics),
        *judged,
        *chosen,
    ]
    body = [
        [
            entry["key"],
            *(_shown(entry, name, found["disturbed"]) for name in metrics),
            *_noise_cells(entry),
            *([training] if chosen else []),
            operators_text(entry["operators"]),
        ]
        for entry, training in zip(found["front"], trainings, strict=True)
    ]
    lines += [
        "",
        f"Pareto front, {_count(len(body), 'network')}:",
        *table([*head, f"operators, stage by stage{_behind(found['front'])}"], body, width),
    ]
    return "\n".join(
        [
            *lines,
            *_noise_lines(found),
            *_found_lines(found, width),
            *_score_lines(found, width),
            *_trust_lines(found, width),
            *_retrained_lines(found, width),
        ]
    )


def _found_lines(found: dict[str, Any], width: int) -> list[str]:
    """What was learned in sentences, and the recommended network."""
    said, pick = found["findings"]["sentences"], found["findings"]["pick"]
    said = [*said, f"pick {pick['key']}, {pick['reason']}"] if pick else said
    wrapped = [wrap(text, width, initial_indent="  - ", subsequent_indent="    ") for text in said]
    return ["", "Found:", *(line for lines in wrapped for line in lines)] if said else []


def _noise_cells(entry: dict[str, Any]) -> list[str]:
    """As NOISE_HEAD names them."""
    noise = entry["noise"]
    if noise is None:
        return []
    cheaper = noise.get("beats_cheaper")
    interval = "-".join(f"{100 * noise[end]:.1f}" for end in ("low", "high"))
    return [interval, probability(noise["on_front"]), probability(cheaper)]


def probability(value: float | None) -> str:
    """Two decimals; of what is drawn, 0 and 1 are not certain."""
    if value is None:
        return ""
    return "<.01" if value < 0.005 else ">.99" if value > 0.995 else f"{value:.2f}"


def _noise_lines(found: dict[str, Any]) -> list[str]:
    """How the intervals are meant, what may be on the front besides, and what training again has changed."""
    noise = found["noise"]
    if not noise:
        return []
    images = f"{noise['num_images']:,}" if noise["num_images"] else "an unknown number of"
    known = f"from {_count(noise['degrees'], 'further training')} and" if noise["degrees"] else "not measured, taken at"
    lines = [
        "",
        f"  interval: 95 %, over seeds and images; measured on {images} images;",
        f"    from seed to seed a standard deviation of {100 * noise['seed_sd']:.1f} %, {known} the usual size",
        "  P of front: that no network is more accurate at no more cost",
        "  P it beats: that it is more accurate than the network in the line above",
    ]
    if noise["change"] is not None:
        networks = _count(noise["num_repeated"], "network")
        lines.append(f"  trained again, {networks} had {100 * noise['change']:+.1f} % on average, less the first time")
    if noise["num_failed"]:
        lines.append(f"  {_count(noise['num_failed'], 'replicate')} failed, and count for nothing")
    if found["contenders"]:
        shown = [f"{entry['key']} {probability(entry['noise']['on_front'])}" for entry in found["contenders"][:3]]
        more = f", and {len(found['contenders']) - 3} more" if len(found["contenders"]) > 3 else ""
        lines.append(f"  with P of front besides: {', '.join(shown)}{more}")
    return lines


def _score_lines(found: dict[str, Any], width: int) -> list[str]:
    """Whether scores of networks that were not trained say anything."""
    lines = []
    for one in found["scores"]:
        if one["meaningless"] or "verdict" in one:
            lines += ["", f"Scored by {one['label']}, {_count(one['networks'], 'network')}:"]
        if one["meaningless"]:
            lines += _wrapped(f"says nothing of these networks: {one['meaningless']}", width)
        if "verdict" not in one:
            continue
        taus = {one["label"]: one["tau"]} | {METRICS[name].title: tau for name, tau in one["counted"].items()}
        for name, tau in taus.items():
            if tau and tau["low"] is not None:
                interval = f"95 % between {tau['low']:.2f} and {tau['high']:.2f}"
                lines.append(f"  {name} against top-1 of {tau['count']} trainings: tau {tau['tau']:.2f}, {interval}")
        last = one["verdict"]
        does = "it rejects" if last and last["rejects"] else "it rejects nothing"
        lines += _wrapped(f"after {last['count']} trainings: {last['reason']}; {does}" if last else does, width)
    return lines


def _trust_lines(found: dict[str, Any], width: int) -> list[str]:
    """What longer trainings say of the search's own, one after the other."""
    lines = []
    for one in found["proxy_trust"]:
        settings = ", ".join(f"{name} {value}" for name, value in one["settings"].items())
        failed = f", {one['num_failed']} failed" if one["num_failed"] else ""
        lines += ["", f"Trained longer ({settings}), {_count(one['num_networks'], 'network')}{failed}:"]
        if "tau" not in one:
            lines += _wrapped(one["verdict"], width)
            continue
        lines += _wrapped(f"the search's training is {one['verdict']}", width)
        for name, counted in one["counted"].items():
            interval = f"{counted['low']:.2f} and {counted['high']:.2f}"
            lines.append(f"  {METRICS[name].title} alone: tau {counted['tau']:.2f}, 95 % between {interval}")
        top1 = METRICS["top1"]
        lines.append(
            f"  the best of its first {TOP} is {top1.text(one['regret'])} {top1.unit} below the best of all"
            if one["regret"]
            else f"  the best of all is among its first {TOP}"
        )
        sure = [
            f"{label} {top1.signed(bias['change'])} ± {top1.text(bias['margin'])} {top1.unit}"
            for label, bias in one["bias"].items()
            if abs(bias["change"]) > bias["margin"]
        ]
        underrated = ", ".join(sure) or "nothing beyond the error"
        lines += _wrapped(f"what longer training changes by operator, less the mean: {underrated}", width)
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    return wrap(text, width, initial_indent="  ", subsequent_indent="    ")


def _retrained_lines(found: dict[str, Any], width: int) -> list[str]:
    if not found["retrained"]:
        return []
    head = ["key", "proxy\n%", "retrained\n%", "epochs", "chosen as"]
    body = [
        [
            f"{entry['key']} {entry['name']}".strip(),
            METRICS["top1"].text(entry["proxy_top1"]),
            METRICS["top1"].text(entry["top1"]),
            f"{entry['epochs']:.0f}" + ("" if entry["done"] else f" of {entry['asked'] or 0:.0f}"),
            entry["role"] or "",
        ]
        for entry in found["retrained"]
    ]
    lines = [
        "",
        f"Retrained, {_count(len({entry['key'] for entry in found['retrained']}), 'network')}:",
        *table(head, body, width),
    ]
    agreement = found["agreement"]
    if agreement:
        low, high = agreement["low"], agreement["high"]
        interval = "" if low is None else f", about 95 % between {low:.2f} and {high:.2f}"
        lines.append(f"  proxy against retrained: Kendall's tau {agreement['tau']:.2f}{interval}")
    return lines


def _progress_words(found: dict[str, Any]) -> str:
    asked = "" if found["num_trials"] is None else f" of {found['num_trials']:,}"
    measured = found["rejections"].get(MEASURED, 0)
    parts = {**found["counts"], "rejected": found["counts"]["rejected"] - measured, "only measured": measured}
    counts = ", ".join(f"{count:,} {state}" for state, count in parts.items() if count)
    done = f"{found['num_trainings']:,}{asked} {judged_noun(found)}"
    return f"{found['state']}, {done}" + (f" ({counts})" if counts else "")


def judged_noun(found: dict[str, Any]) -> str:
    """What `num_trials` counts in a run."""
    return "trainings" if found["evaluators"][-1]["evaluator"] == "train" else "networks"


def _circumstances(found: dict[str, Any]) -> list[str]:
    """What a reader must know besides the front; nothing that is not known."""
    lines = []
    if found["origin"]:
        lines.append(found["origin"])
    elif found["sampler"]:
        lines.append(f"sampler {found['sampler']}, scheduler {found['scheduler']}, seed {found['seed']}")
    if found["device"]:
        lines.append(f"device {found['device']}")
    lines += [f"judged by {judge_words(one)}{_saved_words(one)}" for one in found["evaluators"] if one["networks"]]
    if found["seconds"]:
        took, together = found["wall_seconds"] / 60, found["seconds"] / 60
        lines.append(f"took {took:,.1f} min; its trials {together:,.1f} min, added up over all that ran side by side")
    if found["hypervolume"]:
        volume = found["hypervolume"]
        corner = [f"{METRICS[n].title} {METRICS[n].stated(v)}" for n, v in volume["reference"].items()]
        lines.append(f"hypervolume {volume['share'][-1]:.4f} of the box from the best values found to the reference:")
        lines.append(f"  {', '.join(corner)} (a tenth of the range beyond the worst)")
    rejections = {kind: count for kind, count in found["rejections"].items() if kind != MEASURED}
    for title, reasons in (("failed", found["failures"]), ("rejected", rejections)):
        if reasons:
            lines.append(f"{title}: " + ", ".join(f"{kind} {count:,}" for kind, count in reasons.items()))
    if found["disturbed"]:
        shown = ", ".join(map(str, found["disturbed"][:5])) + (", ..." if len(found["disturbed"]) > 5 else "")
        lines.append(f"latency*: others used the device, also when repeated; may be too high: trial {shown}")
    if found["unreadable"]:
        shown = ", ".join(found["unreadable"][:5]) + (", ..." if len(found["unreadable"]) > 5 else "")
        lines.append(f"{_count(len(found['unreadable']), 'unreadable record')} left out: {shown}")
    if found["problem"]:
        lines.append(f"the experiment cannot be read: {found['problem']}")
    return lines


def judge_words(one: dict[str, Any]) -> str:
    """A line of `summary.judges`, such as `zero_cost (snip): 40 networks in 0.3 min`."""
    name = f"{one['evaluator']} ({one['score']})" if "score" in one else one["evaluator"]
    epochs = f", {one['epochs']:,} epochs," if one["epochs"] else ""
    return f"{name}: {_count(one['networks'], 'network')}{epochs} in {one['seconds'] / 60:,.1f} min"


def _saved_words(one: dict[str, Any]) -> str:
    if not one.get("rejected"):
        return ""
    saved = f"about {one['saved_epochs']:,.0f} epochs and {one['saved_seconds'] / 60:,.1f} min of training"
    return f"; {one['rejected']:,} rejected, which saved {saved}"


def why_no_front(found: dict[str, Any]) -> str:
    """Why a run whose report or summary is `found` has no front, as a sentence."""
    counts = found["counts"]
    if not sum(counts.values()):
        return "No trial has finished yet."
    if counts["failed"] and counts["failed"] == found["num_trainings"]:
        return "Every training failed: " + ", ".join(f"{kind} ({n})" for kind, n in found["failures"].items())
    return "No trial was trained to the end yet, so there is no front."


def _values(entry: dict[str, Any]) -> dict[str, float]:
    return entry["costs"] | entry["objectives"]


def _shown(entry: dict[str, Any], name: str, disturbed: list[int]) -> str:
    """A value of a member of the front, with a mark where it is a latency that others slowed."""
    mark = "*" if name == "latency_ms" and entry["number"] in disturbed else ""
    return METRICS[name].text(_values(entry).get(name)) + mark


def _behind(front: Sequence[dict[str, Any]]) -> str:
    """What stands behind the operators of the stages."""
    return "; neck; head" if any("dense" in entry["genotype"] for entry in front) else ""


def operators_text(stages: Iterable[Sequence[str]]) -> str:
    """Such as `conv3 inv7×2 | gn3`: neighbours with the same label are counted, stages are divided."""
    return " | ".join(" ".join(f"{label}×{n}" if n > 1 else label for label, n in runs(stage)) for stage in stages)


def runs(labels: Sequence[str]) -> list[tuple[str, int]]:
    """Neighbours with the same label as one, with their number."""
    result: list[tuple[str, int]] = []
    for label in labels:
        if result and result[-1][0] == label:
            result[-1] = (label, result[-1][1] + 1)
        else:
            result.append((label, 1))
    return result


def table(head: list[str], body: list[list[str]], width: int) -> list[str]:
    """Columns of text: the first and the last flush left, figures between them flush right; the last one is cut."""
    titles = [title.split("\n") for title in head]
    rows = [[title[i] if i < len(title) else "" for title in titles] for i in range(max(map(len, titles)))] + body
    sizes = [max(len(row[column]) for row in rows) for column in range(len(head))]
    left = max(width - sum(sizes[:-1]) - 2 * len(sizes), 20)
    lines = []
    for row in rows:
        last = row[-1] if len(row[-1]) <= left else row[-1][: left - 1] + "…"
        cells = [
            row[0].ljust(sizes[0]),
            *(text.rjust(size) for text, size in zip(row[1:-1], sizes[1:-1], strict=True)),
            last,
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
