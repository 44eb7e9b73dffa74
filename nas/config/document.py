"""Document: the data of an experiment file with the location of each key and value, for messages about mistakes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from nas.base.errors import UserError

MAX_SHOWN = 100
Steps = tuple[str | int, ...]


@dataclass(frozen=True)
class Location:
    """A position in a named text; line and column count from 1. Overrides are one line and have no line number."""

    name: str
    line: int
    column: int
    excerpt: str
    numbered: bool = True

    def __str__(self) -> str:
        return f"{self.name}:{self.line}:{self.column}" if self.numbered else self.name

    def caret(self) -> str:
        """The line and a caret under the column; a long line is cut around it."""
        start = max(0, self.column - 60) if len(self.excerpt) > 120 else 0
        cut = self.excerpt[start : start + 120]
        shown = "".join(letter if letter.isprintable() or letter == "\t" else "?" for letter in cut)
        blank = "".join("\t" if letter == "\t" else " " for letter in shown[: self.column - 1 - start])
        return f"    {shown}\n    {blank}^"


@dataclass(frozen=True)
class Issue:
    """One mistake and where it is; the location is absent where a file cannot be read at all."""

    location: Location | None
    name: str
    message: str

    def __str__(self) -> str:
        if self.location is None:
            return f"{self.name}: {self.message}"
        line = f"{self.location}: {self.message}"
        return f"{line}\n{self.location.caret()}" if self.location.numbered else line


class ConfigError(UserError):
    """The mistakes of an experiment file, in file order; its text has one `file:line:column: message` per mistake."""

    def __init__(self, issues: Iterable[Issue]):
        self.issues = tuple(issues)
        shown = [str(issue) for issue in self.issues[:MAX_SHOWN]]
        if len(self.issues) > MAX_SHOWN:
            shown.append(f"and {len(self.issues) - MAX_SHOWN} more")
        super().__init__("\n".join(shown))


@dataclass
class Document:
    """Plain data and, by path, where each key and each value stands."""

    name: str
    data: Any = None
    keys: dict[Steps, Location] = field(default_factory=dict)
    values: dict[Steps, Location] = field(default_factory=dict)

    def issue(self, steps: Steps, message: str, *, key: bool = False) -> Issue:
        """A mistake at a path: at its value, at its key, or at the nearest thing above that is there."""
        steps = tuple(steps)
        if key and steps in self.keys:
            return Issue(self.keys[steps], self.name, message)
        while steps and steps not in self.values:
            steps = steps[:-1]
        return Issue(self.values.get(steps), self.name, message)

    def problem(self, steps: Steps, text: str) -> Issue:
        """A mistake of the value at a path, which the message begins with."""
        return self.issue(steps, clip(f"{dotted(steps) or 'the file'}: {text}", 500))

    def at(self, steps: Steps) -> Any:
        """The value at a path that is there."""
        value = self.data
        for step in steps:
            value = value[step]
        return value

    def replace(self, steps: Steps, value: Document) -> None:
        """Let everything at a path stand where `value` stands; what is above keeps its location where it has one."""
        for locations in (self.keys, self.values):
            for old in [old for old in locations if old[: len(steps)] == steps]:
                del locations[old]
        for depth in range(len(steps)):
            self.keys.setdefault(steps[: depth + 1], value.values[()])
            self.values.setdefault(steps[: depth + 1], value.values[()])
        self.keys |= {steps + below: location for below, location in value.keys.items()}
        self.values |= {steps + below: location for below, location in value.values.items()}


def dotted(steps: Steps) -> str:
    return ".".join(map(str, steps))


def clip(text: str, length: int) -> str:
    """At most `length` characters that a terminal shows as they are."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text[: length + 1])
    return text if len(text) <= length else text[: length - 1] + "…"
