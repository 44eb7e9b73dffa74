"""Turns pydantic's validation errors into issues with line, column and what is allowed."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nas.base.extensions import YOUR_OWN
from nas.config.document import ConfigError, Document, Issue, Steps, clip, dotted

EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a section of `key: value` lines",
    "model_type": "a section of `key: value` lines",
    "model_attributes_type": "a section of `key: value` lines",
    "dataclass_type": "a section of `key: value` lines",
    "dataclass_exact_type": "a section of `key: value` lines",
}
LIMITS = {
    "greater_than_equal": "{ge} or more",
    "greater_than": "above {gt}",
    "less_than_equal": "{le} or less",
    "less_than": "below {lt}",
}


def config_error(
    error: ValidationError, document: Document, schema: dict[str, Any], words: dict[str, str]
) -> ConfigError:
    """All mistakes of a document in file order.

    `schema` is the model's JSON schema, from which the keys that a section may have are read; `words` says in words
    what a pattern of the schema asks for.
    """
    groups: dict[tuple[Steps, bool], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False, include_input=False):
        groups.setdefault(_walk(detail, document.data), []).append(detail)
    issues: list[Issue] = []
    for (steps, is_key), details in groups.items():
        if all(detail["type"] in OWN_WORDS for detail in details):
            issues += [OWN_WORDS[detail["type"]](document, steps, detail, schema) for detail in details]
        else:
            issues.append(_not_allowed(document, steps, is_key, details, words))
    return ConfigError(in_file_order(issues))


def in_file_order(issues: Iterable[Issue]) -> list[Issue]:
    """The file's own lines first, then overrides."""
    return sorted(
        issues,
        key=lambda i: (not i.location.numbered, i.location.line, i.location.column) if i.location else (True, 0, 0),
    )


def suggestion(wrong: Any, names: Iterable[str]) -> str:
    """`; did you mean 'x'?` where one of the names is close."""
    names = list(names)
    lowered = {word.lower(): word for word in reversed(names)}
    close = difflib.get_close_matches(str(wrong)[:80].lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[close[0]]!r}?" if close else ""


def show(value: Any) -> str:
    """A value as the file would say it, at most 80 characters."""
    text = repr(value[:100]) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _not_allowed(
    document: Document, steps: Steps, is_key: bool, details: list[ErrorDetails], words: dict[str, str]
) -> Issue:
    """One line for a value that is none of what is allowed, whatever number of branches refused it."""
    value = steps[-1] if is_key else document.at(steps)
    names: list[str] = []
    allowed: list[str] = []
    for detail in details:
        kind, context = detail["type"], detail.get("ctx", {})
        if kind == "literal_error":
            names += re.findall(r"'([^']*)'", context["expected"])
            allowed.append(context["expected"])
        elif kind == "string_pattern_mismatch":
            allowed.append(words.get(context["pattern"], f"text like {context['pattern']}"))
        elif kind in LIMITS:
            allowed.append(LIMITS[kind].format(**context))
        else:
            allowed.append(EXPECTED.get(kind, detail["msg"]))
    text = f"{show(value)} is not allowed; allowed: {' or '.join(dict.fromkeys(allowed))}{suggestion(value, names)}"
    return document.issue(steps, f"{dotted(steps) or 'the file'}: {text}", key=is_key)


def _unknown_key(document: Document, steps: Steps, detail: ErrorDetails, schema: dict[str, Any]) -> Issue:
    names = sorted(_keys(schema, document.data, steps[:-1]))
    hint = suggestion(steps[-1], names) or f"; allowed: {', '.join(names)}"
    return document.issue(steps, f"{clip(dotted(steps), 200)}: unknown key{hint}", key=True)


def _missing(document: Document, steps: Steps, detail: ErrorDetails, schema: dict[str, Any]) -> Issue:
    name = detail["ctx"]["discriminator"].strip("'") if "ctx" in detail else steps[-1]
    owner = steps if "ctx" in detail else steps[:-1]
    return document.issue(owner, f"{dotted((*owner, name))}: missing; {dotted(owner) or 'the file'} needs {name!r}")


def _unknown_tag(document: Document, steps: Steps, detail: ErrorDetails, schema: dict[str, Any]) -> Issue:
    context = detail.get("ctx", {})
    steps = (*steps, context["discriminator"].strip("'"))
    names = re.findall(r"'([^']*)'", context["expected_tags"])
    value = document.at(steps)
    allowed = f"{context['expected_tags']} or {YOUR_OWN}"
    text = f"{show(value)} is not allowed; allowed: {allowed}{suggestion(value, names)}"
    return document.issue(steps, f"{dotted(steps)}: {text}")


def _own_check(document: Document, steps: Steps, detail: ErrorDetails, schema: dict[str, Any]) -> Issue:
    """A check of ours; where its message starts with the name of a key that is there, it points at that key's value."""
    text = str(detail.get("ctx", {})["error"])
    named = re.match(r"([a-z_]+)(: | = )", text)
    if named and (*steps, named.group(1)) in document.values:
        steps, text = (*steps, named.group(1)), text[named.end() :]
    return document.problem(steps, text)


def _empty(document: Document, steps: Steps, detail: ErrorDetails, schema: dict[str, Any]) -> Issue:
    return document.issue(steps, f"{dotted(steps)}: is empty; at least one entry is needed")


OWN_WORDS = {
    "extra_forbidden": _unknown_key,
    "unexpected_keyword_argument": _unknown_key,
    "missing": _missing,
    "union_tag_not_found": _missing,
    "union_tag_invalid": _unknown_tag,
    "value_error": _own_check,
    "too_short": _empty,
}


def _walk(detail: ErrorDetails, data: Any) -> tuple[Steps, bool]:
    """The path that an error is about, and whether its key is meant.

    pydantic mixes the names of union branches into the path; they lead nowhere in the data.
    """
    steps: list[str | int] = []
    is_branch_next = True
    for step in detail["loc"]:
        if is_branch_next and isinstance(data, dict) and step == data.get("op"):
            is_branch_next = False
        elif step in (data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()):
            steps.append(step)
            data = data[step]  # type: ignore[index]
            is_branch_next = True
    if detail["type"] == "missing":
        steps.append(detail["loc"][-1])
    return tuple(steps), bool(detail["loc"]) and detail["loc"][-1] == "[key]"


def _keys(schema: dict[str, Any], data: Any, steps: Steps) -> set[str]:
    """The keys that the section at a path may have; where branches differ, those of the branch that the data names."""
    branches = list(_branches(schema, schema, data))
    for step in steps:
        data = data[step]  # type: ignore[index]
        below = [_below(branch, step) for branch in branches]
        branches = [inner for part in below if part is not None for inner in _branches(schema, part, data)]
    return {key for branch in branches for key in branch.get("properties", {})}


def _below(branch: dict[str, Any], step: str | int) -> dict[str, Any] | None:
    if isinstance(step, int):
        return branch.get("items")
    named = branch.get("properties", {}).get(step) or branch.get("additionalProperties")
    return named or next(iter(branch.get("patternProperties", {}).values()), None)


def _branches(root: dict[str, Any], schema: dict[str, Any], data: Any) -> Iterator[dict[str, Any]]:
    """The plain schemas behind references and unions; a tagged union gives the branch of the tag."""
    if "$ref" in schema:
        yield from _branches(root, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], data)
        return
    mapping = schema.get("discriminator", {}).get("mapping")
    tag = data.get(schema["discriminator"]["propertyName"]) if mapping and isinstance(data, dict) else None
    if isinstance(tag, str) and tag in mapping:
        yield from _branches(root, {"$ref": mapping[tag]}, data)
        return
    inner = [*schema.get("anyOf", []), *schema.get("oneOf", []), *schema.get("allOf", [])]
    if not inner:
        yield schema
    for part in inner:
        yield from _branches(root, part, data)
