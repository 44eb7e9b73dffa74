"""Every key of an experiment file as Markdown tables, written from the JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from nas.config.schema import json_schema
from nas.config.sections import PATTERNS
from nas.space.sections import LABEL

TITLES = {
    "SpaceConfig": "`space`",
    "StageConfig": "`space.stages`",
    "Stem": "`space.stem`",
    "Head": "`space.head`",
    "DenseConfig": "`space.dense`",
    "EvaluatorConfig": "`evaluator`",
    "ObjectiveConfig": "`objectives`",
    "Bound": "`constraints`",
    "SearchConfig": "`search`",
    "ProxyConfig": "`proxy`",
    "ResourcesConfig": "`resources`",
    "RetrainConfig": "`retrain`",
}
"""Definition of the schema -> heading; those without one are operators."""
LIMITS = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "to {}",
    "exclusiveMaximum": "below {}",
}


def markdown() -> str:
    """One table for each section and each operator: key, default, allowed values, meaning with its unit."""
    schema = json_schema()
    definitions: dict[str, Any] = schema["$defs"]
    operators = sorted(name for name in definitions if name not in TITLES)
    parts = [_table("The file", schema)]
    for name in ("SpaceConfig", *operators, *list(TITLES)[1:]):
        section = definitions[name]
        title = TITLES.get(name) or f"`{{op: {section['properties']['op']['const']}}}`"
        shared = definitions["ProxyConfig"]["properties"] if name == "RetrainConfig" else {}
        parts.append(_table(title, section, {key: _single(entry) for key, entry in shared.items()}))
    return "\n\n".join(parts)


def _table(title: str, section: dict[str, Any], shared: Mapping[str, Any] = MappingProxyType({})) -> str:
    """The table of a section; of keys that are the same in `shared`, the section of proxy, only the names."""
    entries = section["properties"]
    same = [name for name, entry in entries.items() if shared.get(name) == entry]
    lines = [f"### {title}", "", section.get("description", ""), ""]
    if same:
        lines += [f"As in `proxy`: {', '.join(f'`{name}`' for name in same)}.", ""]
    lines += ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for name, entry in entries.items():
        if name not in same:
            default = "required" if name in section.get("required", []) else _code(entry.get("default", {}))
            cells = [f"`{name}`", default, _allowed(entry), " ".join(entry.get("description", "").split())]
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _single(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry without the list of values that a search may choose from instead."""
    value, *others = entry.get("oneOf", [{}])
    if others and others == [{"type": "array", "items": value, "minItems": 1}]:
        return value | {name: part for name, part in entry.items() if name != "oneOf"}
    return entry


def _allowed(entry: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "discriminator" in entry:
        return "an operator"
    if "properties" in entry:  # the only section without a name
        return "one of your own"
    if branches := entry.get("anyOf") or entry.get("oneOf") or entry.get("allOf"):
        return " or ".join(_allowed(branch) for branch in branches)
    if "$ref" in entry:
        return f"keys of {TITLES[entry['$ref'].rsplit('/', 1)[-1]]}"
    if "enum" in entry:
        return ", ".join(map(_code, entry["enum"]))
    if "const" in entry:
        return _code(entry["const"])
    return TYPES[entry["type"]](entry)


def _number(entry: dict[str, Any]) -> str:
    kind = "odd number" if "not" in entry else "whole number" if entry["type"] == "integer" else "number"
    return " ".join([kind, *(text.format(entry[key]) for key, text in LIMITS.items() if key in entry)])


def _list(entry: dict[str, Any]) -> str:
    items = entry["items"]
    each = _allowed(items[0] if isinstance(items, list) else items)
    return f"list of {entry['maxItems']}, each {each}" if "maxItems" in entry else f"list, each {each}"


def _mapping(entry: dict[str, Any]) -> str:
    if "patternProperties" in entry:
        (pattern, value), *_ = entry["patternProperties"].items()
        return f"label ({PATTERNS[pattern]}): {_allowed(value)}"
    name = _allowed(entry["propertyNames"]) if "propertyNames" in entry else "name"
    return f"{name}: {_allowed(entry['additionalProperties'])}"


def _text(entry: dict[str, Any]) -> str:
    pattern = entry.get("pattern", "")
    return "label" if pattern == LABEL else PATTERNS.get(pattern, "text")


def _code(value: Any) -> str:
    """A value as the file would say it."""
    text = value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)
    return f"`{text}`"


TYPES: dict[str, Callable[[dict[str, Any]], str]] = {
    "array": _list,
    "object": _mapping,
    "integer": _number,
    "number": _number,
    "string": _text,
    "boolean": lambda entry: "`true`, `false`",
    "null": lambda entry: "`null`",
}
