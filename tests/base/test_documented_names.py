"""Every name that a docstring or a page says is there: functions, classes, their members, modules, keys of the YAML."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOTTED = re.compile(r"(?<![\w./:@<-])([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?![\w/-])")
SPOKEN = re.compile(r"(?<!`)`([A-Za-z_]\w*)(\(.*?\))?`(?!`)")
COMPOUND = re.compile(r"[a-z0-9]_[a-z0-9]")
FENCE = re.compile(r"^ *```.*?^ *```", re.M | re.S)
FILES = {
    *("cff", "csv", "db", "gz", "html", "ipynb", "js", "json", "jsonl", "lock", "md", "onnx", "png", "pt2", "py"),
    *("safetensors", "sh", "so", "tar", "toml", "txt", "yaml", "yml"),
}


class Module:
    """What a source file defines, read without running it."""

    def __init__(self, path: Path):
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.names: dict[str, set[str]] = {}
        """Name at the top -> its members, for a class."""
        for node in ast.walk(ast.Module(body=list(_without_functions(self.tree.body)), type_ignores=[])):
            for name in _bound(node):
                self.names.setdefault(name, set())
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef):
                self.names[node.name] = _members(node)

    def docstrings(self) -> Iterator[tuple[int, str]]:
        """Line and text of every docstring, those behind fields among them."""
        for node in ast.walk(self.tree):
            for child in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
                value = child.value if isinstance(child, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield child.lineno, value.value

    @cached_property
    def words(self) -> set[str]:
        """Every word of the code itself."""
        return set(self._words())

    def _words(self) -> Iterator[str]:
        documented = {id(node.value) for node in ast.walk(self.tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(self.tree):
            yield from _bound(node)
            if isinstance(node, ast.Name):
                yield node.id
            elif isinstance(node, ast.Attribute):
                yield node.attr
            elif isinstance(node, ast.keyword | ast.arg) and node.arg:
                yield node.arg
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
                yield from re.findall(r"\w+", node.value)


def _without_functions(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements at the top and in its `if` and `try`, each class and function as its head alone."""
    for node in body:
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from _without_functions([*node.body, *getattr(node, "orelse", [])])
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield ast.Global(names=[node.name])
        else:
            yield node


def _bound(node: ast.AST) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Global):
        return node.names
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [node.id]
    return []


def _members(node: ast.ClassDef) -> set[str]:
    members = {name for child in _without_functions(node.body) for part in ast.walk(child) for name in _bound(part)}
    return members | {
        part.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "self"
    }


@cache
def modules() -> dict[str, Module]:
    """Dotted name -> module of the packages."""
    found = {}
    for package in ("nas", "kernels"):
        for path in sorted((ROOT / package).rglob("*.py")):  # which follows no links
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = Module(path)
    return found


@cache
def short_names() -> dict[str, list[str]]:
    """Last part of a module's name -> modules; sentences say `record.read_records`."""
    found = defaultdict(list)
    for name in modules():
        found[name.rpartition(".")[2]].append(name)
    return found


@cache
def classes() -> dict[str, set[str]]:
    """Class -> its members and those of its bases among ours."""
    own: dict[str, set[str]] = defaultdict(set)
    bases: dict[str, set[str]] = defaultdict(set)
    for module in modules().values():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                own[node.name] |= _members(node)
                bases[node.name] |= {
                    part.id for base in node.bases for part in ast.walk(base) if isinstance(part, ast.Name)
                }
    for _ in range(4):
        for name, parents in bases.items():
            own[name] |= {member for parent in parents for member in own.get(parent, ())}
    return own


@cache
def keys() -> dict[str, set[str]]:
    """Section of the YAML -> its keys, from the schema."""
    import nas

    schema = nas.json_schema()
    found: dict[str, set[str]] = defaultdict(set)

    def collect(name: str, part: object) -> None:
        if isinstance(part, dict):
            found[name] |= set(part.get("properties", {}))
            for key, value in part.items():
                collect(name, value)
                if key == "$ref":
                    collect(name, schema["$defs"][value.rpartition("/")[2]]) if value not in seen else None
                    seen.add(value)
        elif isinstance(part, list):
            for value in part:
                collect(name, value)

    for name, part in schema["properties"].items():
        seen: set[str] = set()
        collect(name, part)
    return found


@cache
def quoted() -> set[str]:
    """Dotted names that the code itself has as texts, such as the groups of entry points."""
    nodes = [node for module in modules().values() for node in ast.walk(module.tree)]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text for text in texts if DOTTED.fullmatch(text)}


def exists(name: str, within: str = "") -> bool:
    """Whether a dotted name, said in the module `within`, is one of ours and there, or not one of ours."""
    name = name.removeprefix("nas.") if name.startswith("nas.kernels") else name
    first, *rest = name.split(".")
    if not rest or rest[-1] in FILES or name in quoted():
        return True
    if first in ("nas", "kernels"):
        return _is_in_module(name)
    answers = []
    if first in short_names():
        answers.append(any(_is_in_module(".".join([module, *rest])) for module in short_names()[first]))
    if first in keys():
        answers.append(rest[0] in keys()[first] or any(rest[0] in found for found in keys().values()))
    if first in classes():
        answers.append(rest[0] in classes()[first])
    if answers and within in modules() and first in modules()[within].words:  # such as an argument
        answers.append(any(rest[0] in members for members in classes().values()))
    return not answers or any(answers)


def _is_in_module(name: str) -> bool:
    """Whether a full dotted name is a module, a name in one, or a member of a class in one."""
    head, rest = name, []
    while head not in modules():
        head, _, last = head.rpartition(".")
        rest.insert(0, last)
        if not head:
            return False
    if not rest:
        return True
    module = modules()[head]
    if rest[0] not in module.names and not (head == "nas" and rest[0] in _public()):
        return False
    return len(rest) == 1 or rest[0] not in classes() or rest[1] in classes()[rest[0]]


def _public() -> list[str]:
    import nas

    return nas.__all__


def docstrings() -> Iterator[tuple[str, str]]:
    """Location and text of every docstring."""
    for name, module in modules().items():
        yield from ((f"{name}:{line}", text) for line, text in module.docstrings())


def pages() -> Iterator[tuple[str, str]]:
    """Location and text of every page."""
    below = [
        page for folder in ("nas", "kernels", "search_spaces", "results") for page in (ROOT / folder).rglob("*.md")
    ]
    for path in [*ROOT.glob("*.md"), *below]:
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def test_dotted_names_are_there():
    wrong = [
        f"{location}: {name}"
        for location, text in [*docstrings(), *pages()]
        for name in DOTTED.findall(text)
        if not exists(name, location.partition(":")[0])
    ]
    assert not wrong, "\n".join(wrong)


def test_names_in_backticks_are_words_of_the_code():
    """In a page those that can be nothing else, such as `read_records` or `decode()`."""
    words = {word for module in modules().values() for word in module.words} | set(short_names())
    for folder in ("tests", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            words |= Module(path).words
    words |= {key for found in keys().values() for key in found} | set(keys())
    said = [(location, name) for location, text in docstrings() for name, _ in SPOKEN.findall(text)]
    for location, text in pages():
        said += [
            (location, name) for name, call in SPOKEN.findall(FENCE.sub("", text)) if call or COMPOUND.search(name)
        ]
    wrong = [f"{location}: {name}" for location, name in said if name not in words]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "name, there",
    [
        ("nas.search.run.run_search", True),
        ("nas.Run.front", True),
        ("nas.train.reset_process", False),
        ("record.read_records", True),
        ("record.read_record", False),
        ("search.num_trials", True),
        ("search.num_trails", False),
        ("Genotype.from_json", True),
        ("Genotype.of_json", False),
        ("torch.nn.Module", True),
    ],
)
def test_the_check_tells_names_that_are_there_from_others(name, there):
    assert exists(name) == there
