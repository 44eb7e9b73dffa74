"""Registry: the operators, or the blocks, that there are: what each can be told, and where its layer is.

Those of the package and those of others are entered by the same call. What is named `module:class` and not entered is
taken as it is written: a run can be read without running anybody's code.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Union

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, PydanticUserError, TypeAdapter
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema, core_schema

from nas.base.extensions import OWN, ExtensionError, full_name, is_own, load, load_callable, short_names

STRICT = ConfigDict(extra="forbid", strict=True, defer_build=True)


class Registry(dict[str, type]):
    """Name -> the frozen dataclass of what it can be told, in which the field `tag` has the name."""

    def __init__(self, tag: str, noun: str, common: type, arguments: Iterable[str], by_name: bool):
        """`common` is a dataclass of what those of others are told besides their own options. A layer is called with
        `arguments`, and with its options by their names if `by_name`."""
        super().__init__()
        self.tag, self.noun, self.common, self.arguments, self.by_name = tag, noun, common, arguments, by_name
        self.group = f"nas.{noun}s"
        self._layers: dict[str, str] = {}

    def register(self, name: str, options: type, layer: str) -> None:
        """Enter a name with its options and the `module:class` of its layer, which is imported when one is built."""
        self[name] = options
        self._layers[name] = layer

    def layer(self, name: str) -> Any:
        """The class of the layer. Raises ValueError for an unknown name."""
        self.find(name)
        return load(self._layers[name])

    def find(self, name: str) -> type:
        """What a name can be told; one of others is imported and entered. Raises ValueError for an unknown name."""
        name = full_name(self.group, name) if name not in self else name
        if name not in self:
            if not is_own(name):
                allowed = [*(shipped for shipped in self if not is_own(shipped)), *short_names(self.group)]
                raise ValueError(f"{self.noun} = {name!r}: allowed is one of {', '.join(allowed)}, or MODULE:CLASS")
            self.register(name, _options_of(self, name), name)
        return self[name]

    def read(self, data: Mapping[str, Any]) -> Any:
        """The spec that plain data stands for, of what is entered; of what is not, the data as it is written.

        Raises ValidationError and ValueError.
        """
        name = data.get(self.tag)
        if isinstance(name, str) and name not in self:
            name = full_name(self.group, name)
            if is_own(name) and name not in self:
                return as_written({**data, self.tag: name})
            data = {**data, self.tag: name}
        # pydantic's strict mode takes objects for dataclasses, and lists for tuples, from JSON only
        return _union(tuple(self.values()), self.tag).validate_json(json.dumps(data))


class Registered:
    """Pydantic's view of a field that takes whatever a registry has when a value is checked."""

    def __init__(self, registry: Registry):
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        entered = handler(_union(tuple(self.registry.values()), self.registry.tag).core_schema)
        own = {"type": "object", "properties": {self.registry.tag: {"type": "string", "pattern": OWN}}}
        return {"anyOf": [entered, own | {"required": [self.registry.tag]}]}

    def _check(self, value: Any, info: core_schema.ValidationInfo) -> Any:
        if isinstance(value, dict) and info.mode == "json":
            return self.registry.read(value)
        if isinstance(value, AsWritten):
            return value
        return _union(tuple(self.registry.values()), self.registry.tag).validate_python(value)


class AsWritten:
    """What something that is not entered was told, unchecked; equal data make equal objects."""

    def __reduce__(self):
        return as_written, ({field.name: getattr(self, field.name) for field in dataclasses.fields(self)},)  # type: ignore[arg-type]


def as_written(data: Mapping[str, Any]) -> Any:
    """Plain data as a frozen object with an attribute per entry. Raises ValueError for what cannot be one."""
    told = {str(name): _frozen(name, value) for name, value in data.items() if value is not None}
    return _unchecked(tuple(sorted(told)))(**told)


@cache
def _unchecked(names: tuple[str, ...]) -> type:
    try:
        return dataclasses.make_dataclass(
            "AsWritten", [(name, Any) for name in names], bases=(AsWritten,), frozen=True, kw_only=True
        )
    except TypeError as error:
        raise ValueError(str(error)) from None


def _frozen(name: str, value: Any) -> Any:
    if isinstance(value, dict) and OPERATORS.tag in value:
        return OPERATORS.read(value)
    if isinstance(value, dict):
        raise ValueError(f"{name}: an option is a number, text, true, false or a list of these")
    return tuple(_frozen(name, item) for item in value) if isinstance(value, list) else value


@cache
def _union(kinds: tuple[type, ...], tag: str) -> TypeAdapter:
    union: Any = Annotated[Union[kinds], Field(discriminator=tag)]  # type: ignore[valid-type]  # noqa: UP007
    return TypeAdapter(union)


def _options_of(registry: Registry, name: str) -> type:
    """What an operator or a block of others can be told, as one dataclass: its `Options` and what all of its sort are.

    Raises ExtensionError for what does not provide what it must.
    """
    layer = load(name)
    if not isinstance(layer, type):
        raise ExtensionError(f"{name!r} must be a class, a torch.nn.Module; it is of type {type(layer).__name__}")
    told = getattr(layer, "Options", registry.common)
    is_frozen = dataclasses.is_dataclass(told) and told.__dataclass_params__.frozen  # type: ignore[attr-defined]
    if not isinstance(told, type) or not is_frozen:
        raise ExtensionError(f"{name!r}: its Options must be a frozen dataclass: @dataclass(frozen=True)")
    common = {registry.tag, "name", *registry.arguments, *(field.name for field in dataclasses.fields(registry.common))}
    names = [field.name for field in dataclasses.fields(told) if told is not registry.common]
    if taken := [word for word in names if word in common]:
        raise ExtensionError(f"{name!r}: Options.{taken[0]}: the name is taken, every {registry.noun} has one")
    load_callable(name, registry.arguments, names if registry.by_name else ())
    bases = (told,) if told is registry.common else (told, registry.common)
    body = {
        "__annotations__": {registry.tag: Literal[name]},  # type: ignore[valid-type]
        "__doc__": told.__doc__,
        "__module__": __name__,
        "__post_init__": _checked(bases),
        "__reduce__": _reduced,
        registry.tag: name,
    }
    try:
        options = dataclass(frozen=True, kw_only=True, config=STRICT)(type(layer.__name__, bases, body))
        TypeAdapter(options).rebuild()
    except (PydanticUserError, NameError, TypeError) as error:
        raise ExtensionError(f"{name!r}: Options: {str(error).splitlines()[0]}") from None
    return options


def _checked(bases: tuple[type, ...]) -> Callable[[Any], None]:
    """What is checked of a spec of others: what its bases check, and that it can be part of a genotype."""

    def check(self: Any) -> None:
        for base in bases:
            getattr(base, "__post_init__", lambda self: None)(self)
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is None and field.default is not None:  # a genotype leaves out what is None
                raise ValueError(f"{field.name} = None: allowed only where it is the default")
        try:
            hash(self)
        except TypeError as error:
            raise ValueError(f"{error}; an option is a number, text, bool, None or a tuple of these") from None

    return check


def _reduced(self: Any) -> tuple[Any, ...]:
    """How it is pickled: its class is made again from the module of its layer."""
    tag = next(tag for tag in REGISTRIES if hasattr(self, tag))
    return _restored, (tag, {field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


def _restored(tag: str, told: dict[str, Any]) -> Any:
    return REGISTRIES[tag].find(told[tag])(**told)


@dataclasses.dataclass(frozen=True)
class _Operator:
    """What operators are told besides their own options: nothing."""


OPERATORS = Registry("op", "operator", _Operator, ("in_channels", "out_channels", "stride"), by_name=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Block:
    """What blocks are told besides their own options."""

    width: int
    operator: Annotated[Any, Registered(OPERATORS)]
    stride: Literal[1, 2] = 1
    has_pointwise: ClassVar[bool] = False

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width = {self.width!r}: allowed is 1 or more")

    @staticmethod
    def fits(operator: Any) -> bool:
        """Whether an operator can fill the slots."""
        return True


BLOCKS = Registry("kind", "block", _Block, ("in_channels", "spec", "drop_path"), by_name=False)
REGISTRIES = {"op": OPERATORS, "kind": BLOCKS}
