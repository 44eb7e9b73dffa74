"""A strict YAML reader: plain data with the location of each key and value, or one ConfigError that lists all mistakes.

YAML 1.2 core scalars (1e-3 is a number, `on` and `no` are text), one document, text keys, UTF-8. Anchors, aliases,
merge keys, tags and repeated keys are refused: they hide what a file says, and an alias bomb makes a few lines expand
without end. Size, depth and number of entries are limited so that any file is read or refused within half a second by
PyYAML's parser in Python; the one in C overflows its stack on deep nesting.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from nas.config.document import ConfigError, Document, Issue, Location, Steps, clip

MAX_BYTES = 2**16
MAX_DEPTH = 50
MAX_NODES = 2500

_NUMBERS = {
    re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"): lambda text: int(
        text, 10 if text[1:2] not in ("o", "x") else 0
    ),
    re.compile(r"[-+]?[0-9]+[eE]\+?[0-9]+"): lambda text: _whole(float(text)),
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"): float,
    re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"): lambda text: math.inf,
}
_WORDS = dict.fromkeys(("", "~", "null", "Null", "NULL")) | {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# what an editor would show as nothing or as a line of its own, although YAML 1.2 sees neither
_UNWELCOME = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
# looks like a space and is none: as indentation, or, where the file cannot be read, anywhere
_SPACES = "\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000"
_INDENTED = re.compile(rf"^[ \t]*([{_SPACES}])", re.MULTILINE)
_BREAK = re.compile(r"\r\n|\r|\n")
_UTF16_32 = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


def read(path: str | Path) -> Document:
    """Read a file. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError([Issue(None, clip(str(path), 200), f"cannot be read: {reason}")]) from None
    return parse(content, str(path))


def parse(content: bytes | str, name: str, *, numbered: bool = True) -> Document:
    """Read YAML from memory; `name` is what errors call it, followed by line and column. Raises ConfigError."""
    if len(content) > MAX_BYTES:
        raise ConfigError([Issue(None, name, f"is larger than {MAX_BYTES // 2**10} KiB; no experiment file is")])
    text = _decode(content, name) if isinstance(content, bytes) else content
    return _Reader(name, text.removeprefix("\ufeff"), numbered).read()


def scalar(text: str) -> str | int | float | bool | None:
    """The YAML 1.2 core value of a plain scalar; infinite for what no finite number can hold."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in "+-.0123456789":
        for pattern, number in _NUMBERS.items():
            if pattern.fullmatch(text):
                value = number(text) if len(text) < 400 else math.inf
                return value if isinstance(value, float) or abs(value) < 2**63 else math.inf
    return text


def _whole(value: float) -> int | float:
    """1e2 is the whole number 100."""
    return int(value) if math.isfinite(value) and value < 2**53 else value


def _decode(content: bytes, name: str) -> str:
    if content.startswith(_UTF16_32):
        raise ConfigError([Issue(None, name, "is UTF-16 or UTF-32 text; save it as UTF-8")])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        good = content[: error.start].decode()
        reader = _Reader(name, good)
        issue = Issue(reader.location_at(len(good)), name, "is not UTF-8 text from here on; save it as UTF-8")
        raise ConfigError([issue]) from None


class _Loader(yaml.SafeLoader):
    """Ends at the deepest bracket allowed: PyYAML looks 1,024 characters ahead, each `[` at the cost of all before."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        if self.flow_level > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_DEPTH} levels", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(TokenClass)


class _Reader:
    """Builds a Document from the events of PyYAML's parser; none of its constructors or resolvers take part."""

    def __init__(self, name: str, text: str, numbered: bool = True):
        self.name = name
        self.text = text
        self.numbered = numbered
        self.lines = _BREAK.split(text)
        self.issues: list[Issue] = []
        self.num_nodes = 0
        self.document = Document(name)

    def read(self) -> Document:
        if found := _UNWELCOME.search(self.text):
            self._refuse(self.location_at(found.start()), f"the character U+{ord(found.group()):04X} is not allowed")
            raise ConfigError(self.issues)
        if found := _INDENTED.search(self.text):
            self._refuse_space(found.start(1))
            raise ConfigError(self.issues)
        loader = _Loader(self.text)
        try:
            events = self._events(loader)
            event = next(events)
            self.document.data = self._node(event, events, ()) if event is not None else None
            if next(events, None) is not None:
                raise ConfigError(self.issues)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark or loader.get_mark()
            # the scanner goes on after a key without its colon up to the next one
            earlier = sum(map(len, self.text.splitlines(keepends=True)[: max(mark.line - 1, 0)]))
            if found := re.compile(f"[{_SPACES}]").search(self.text, earlier, mark.index):
                self._refuse_space(found.start())
            else:
                self._refuse(self._at(mark), _explained(error))
        except ConfigError:
            raise
        except (ValueError, OverflowError):
            # PyYAML's scanner lets the escape "\UFFFFFFFF" and a version of 5,000 digits fail in Python, without a mark
            self._refuse(self._at(loader.get_mark()), "not YAML: a number too large for what stands here")
        if self.issues:
            raise ConfigError(self.issues)
        self.document.values.setdefault((), self.location(1, 1))
        return self.document

    def location(self, line: int, column: int) -> Location:
        excerpt = self.lines[line - 1] if line <= len(self.lines) else ""
        return Location(self.name, line, column, excerpt, self.numbered)

    def location_at(self, index: int) -> Location:
        before = _BREAK.split(self.text[:index])
        return self.location(len(before), len(before[-1]) + 1)

    def _at(self, mark: Any) -> Location:
        return self.location(mark.line + 1, mark.column + 1)

    def _refuse(self, location: Location, message: str) -> None:
        self.issues.append(Issue(location, self.name, message))

    def _refuse_space(self, index: int) -> None:
        text = f"the character U+{ord(self.text[index]):04X} looks like a space and is none; write a space"
        self._refuse(self.location_at(index), text)

    def _events(self, loader: _Loader) -> Iterator[Any]:
        """The node events of the only document; None at its end, and one more event where a second document starts."""
        while loader.check_event():
            event = loader.get_event()
            if isinstance(event, yaml.DocumentStartEvent):
                break
        else:
            yield None
            return
        while not isinstance(event := loader.get_event(), yaml.DocumentEndEvent):
            yield event
        if loader.check_event(yaml.DocumentStartEvent):
            self._refuse(self._at(loader.peek_event().start_mark), "a second document starts; a file holds one")
            yield event

    def _node(self, event: Any, events: Iterator[Any], steps: Steps) -> Any:
        location = self._at(event.start_mark)
        self.document.values[steps] = location
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES or len(steps) > MAX_DEPTH:
            limit = f"{MAX_NODES} entries" if self.num_nodes > MAX_NODES else f"{MAX_DEPTH} levels"
            self._refuse(location, f"more than {limit}; no experiment needs that")
            raise ConfigError(self.issues)
        if event.anchor is not None:
            alias = isinstance(event, yaml.AliasEvent)
            sign = f"{'*' if alias else '&'}{clip(event.anchor, 40)}"
            self._refuse(location, f"{'alias' if alias else 'anchor'} {sign}: not supported, write the value out")
        if getattr(event, "tag", None) is not None:
            self._refuse(
                location,
                f"tag {clip(event.tag.replace('tag:yaml.org,2002:', '!!'), 40)}: not supported, write a plain value",
            )
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, steps)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(events, steps)
        if isinstance(event, yaml.AliasEvent):
            return None
        return self._scalar(event, location)

    def _sequence(self, events: Iterator[Any], steps: Steps) -> list:
        result = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            result.append(self._node(event, events, (*steps, len(result))))
        return result

    def _mapping(self, events: Iterator[Any], steps: Steps) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            location = self._at(event.start_mark)
            key = self._node(event, events, (*steps, ""))
            if not isinstance(key, str):
                shown = clip(getattr(event, "value", None) or "this key", 40)
                self._refuse(location, f"a key must be text; {shown} is not (quotes make it text)")
                key = ""
            elif key == "<<" and event.implicit[0]:
                self._refuse(location, "merge key <<: not supported, write the entries out")
            elif key in result:
                first = self.document.keys[(*steps, key)]
                self._refuse(location, f"key {clip(key, 40)!r} is repeated; it stands first in line {first.line}")
            self.document.keys.setdefault((*steps, key), location)
            result[key] = self._node(next(events), events, (*steps, key))
        self.document.values.pop((*steps, ""), None)
        return result

    def _scalar(self, event: Any, location: Location) -> Any:
        if re.search("[\ud800-\udfff]", event.value):
            self._refuse(location, "the text holds half of a surrogate pair")
        value = scalar(event.value) if event.implicit[0] else event.value
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse(location, f"{clip(event.value, 40)} is no finite number that fits 64 bits")
            return None
        return value


def _explained(error: yaml.MarkedYAMLError) -> str:
    """PyYAML's problem in one line, with a hint where its words are known to puzzle."""
    hints = {
        r"found character '\t' that cannot start any token": "indent with spaces, not tabs",
        "mapping values are not allowed here": "a colon too many, a missing line break, or wrong indentation above",
        "could not find expected ':'": "a key without a colon, or wrong indentation",
    }
    problem = error.problem or "cannot be read"
    context = f" {error.context}" if error.context else ""
    hint = f" ({hints[problem]})" if problem in hints else ""
    return clip(f"not YAML{context}: {problem}{hint}", 300)
