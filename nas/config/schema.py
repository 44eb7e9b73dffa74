"""The JSON Schema of an experiment file, with the descriptions that stand below its fields."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
from typing import Any

from nas.base.extensions import is_own
from nas.base.section import Section
from nas.config.sections import ExperimentConfig
from nas.config.training import TrainConfig
from nas.space import specs


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 7, which editors read) of an experiment file."""
    found = _draft7(schema(tuple(specs.OPERATORS)))
    return {"$schema": "http://json-schema.org/draft-07/schema#"} | found | {"title": "opnas experiment"}


@functools.cache
def schema(operators: tuple[str, ...]) -> dict[str, Any]:
    """The JSON Schema of an experiment as pydantic makes it (draft 2020-12), with descriptions; made anew where
    `operators`, all that are entered, are others."""
    found = ExperimentConfig.model_json_schema()
    sections = {"ExperimentConfig": found, **found["$defs"]}
    shipped = [options for name, options in specs.OPERATORS.items() if not is_own(name)]
    described = (*Section.__subclasses__(), *TrainConfig.__subclasses__(), *shipped)
    for section in (*described, specs.Stem, specs.Head):
        if section.__name__ in sections:
            for name, text in _descriptions(section).items():
                sections[section.__name__]["properties"][name].setdefault("description", text)
    return found


def _descriptions(section: type) -> dict[str, str]:
    """Field -> the text below it in the source. Pydantic can find these itself, but takes its time at every start."""
    found: dict[str, str] = {}
    for owner in reversed([owner for owner in section.__mro__ if owner.__module__.startswith("nas.")]):
        (definition,) = ast.parse(inspect.getsource(owner)).body
        assert isinstance(definition, ast.ClassDef)
        for pair in itertools.pairwise(definition.body):
            match pair:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = inspect.cleandoc(text)
    return found


def _draft7(node: Any) -> Any:
    """From draft 2020-12: lists of fixed length are plain `items`, and `$ref` hides what stands beside it."""
    if isinstance(node, list):
        return [_draft7(item) for item in node]
    if not isinstance(node, dict):
        return node
    result = {name: _draft7(value) for name, value in node.items()}
    if "prefixItems" in result:
        result["items"] = result.pop("prefixItems")
    if "$ref" in result and len(result) > 1:
        result["allOf"] = [{"$ref": result.pop("$ref")}]
    return result
