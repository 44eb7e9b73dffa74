"""Applies overrides of the command line, `--set a.b.0.c=value`, to a document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from nas.config import strict_yaml
from nas.config.document import ConfigError, Document, Issue, Steps, clip

Overrides = Mapping[str, Any] | Iterable[str]
"""Entries of a file that are replaced: {"search.seed": 3}, or as on the command line ["search.seed=3"]."""


def as_texts(overrides: Overrides) -> list[str]:
    """Overrides as the command line has them, `a.b=value`."""
    if isinstance(overrides, Mapping):
        return [f"{path}={json.dumps(value)}" for path, value in overrides.items()]
    return [overrides] if isinstance(overrides, str) else list(overrides)


def override(document: Document, text: str) -> None:
    """Apply one `a.b.0.c=value`, the value in YAML; missing sections appear. Raises ConfigError."""
    shown = f"--set {clip(text, 80)}"
    target, equals, value_text = text.partition("=")
    names = target.strip().split(".")
    if not equals or not all(names):
        raise ConfigError([Issue(None, shown, "write it as section.key=value, with a number for a list entry")])
    value = strict_yaml.parse(value_text, shown, numbered=False)
    if document.data is None:
        document.data = {}
    owner, steps = document.data, ()
    for name in names[:-1]:
        steps = (*steps, _step(owner, steps, name, shown))
        if isinstance(owner, dict) and owner.get(name) is None:
            owner[name] = {}
        owner = owner[steps[-1]]
    steps = (*steps, _step(owner, steps, names[-1], shown))
    owner[steps[-1]] = value.data
    document.replace(steps, value)


def _step(owner: Any, steps: Steps, name: str, shown: str) -> str | int:
    """The key or index that a name means in `owner`, which stands at `steps`."""
    here = ".".join(map(str, steps)) or "the file"
    if isinstance(owner, dict):
        return name
    if not isinstance(owner, list):
        raise ConfigError([Issue(None, shown, f"{here} is a single value; it has no {name!r}")])
    if not re.fullmatch(r"[0-9]{1,6}", name) or int(name) >= len(owner):
        raise ConfigError([Issue(None, shown, f"{here} has {len(owner)} entries, numbered from 0; it has no {name!r}")])
    return int(name)
