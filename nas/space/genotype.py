"""Genotype: one architecture as frozen data, complete in itself, with a key that equal networks share."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any

from pydantic import Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from nas.base.extensions import is_own
from nas.space import specs
from nas.space.pyramid import Dense

FORMAT = 1
Stage = Annotated[tuple[specs.Block, ...], Strict(False)]
Stages = Annotated[tuple[Stage, ...], Strict(False)]


@dataclass(frozen=True, kw_only=True, config=specs.STRICT)
class Genotype:
    """Stem, blocks stage by stage, head; of a detector or segmenter `dense` in the place of the head.

    Strides, widths and operator options are all written out, so the network is rebuilt without the file that it was
    drawn from. `key` is a hash of the canonical form: options that have no effect are dropped before (see `specs`).
    """

    stem: specs.Stem
    stages: Stages
    head: specs.Head = specs.Head()
    dense: Dense | None = None

    def __post_init__(self):
        if not self.stages or not all(self.stages):
            raise ValueError("a genotype needs at least one stage, and every stage at least one block")
        if self.dense is not None:
            object.__setattr__(self, "head", specs.Head())  # which it does not have
            if self.num_features < (needed := self.dense.num_levels):
                raise ValueError(
                    f"dense.kind = {self.dense.kind!r}: needs {needed} stages, this network has {self.num_features}"
                )

    @cached_property
    def key(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the canonical JSON."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def num_features(self) -> int:
        """One per stage, and the map before the stem's max-pool where there is one."""
        return len(self.stages) + (self.stem.kind in specs.POOLED_STEMS)

    @property
    def blocks(self) -> tuple[specs.Block, ...]:
        """All blocks from input to output."""
        return tuple(block for stage in self.stages for block in stage)

    def own_operators(self) -> list[str]:
        """The operators of others, as `module:class`."""
        operators = [getattr(block, role, None) for block in self.blocks for role in ("operator", "pointwise")]
        ends = (self.head.operator, *([self.dense.neck, self.dense.head] if self.dense else []))
        names = [getattr(operator, "op", "") for operator in (*operators, *ends)]
        return list(dict.fromkeys(filter(is_own, names)))

    def own_blocks(self) -> list[str]:
        """The blocks of others, as `module:class`."""
        return list(dict.fromkeys(filter(is_own, (block.kind for block in self.blocks))))

    def loaded(self) -> Genotype:
        """The same with operators and blocks of others imported, their options checked and completed.

        Raises ValueError, of which ExtensionError says what is not there.
        """
        for registry, names in ((specs.OPERATORS, self.own_operators()), (specs.BLOCKS, self.own_blocks())):
            for name in names:
                registry.find(name)
        return Genotype.from_dict(self.to_dict()) if self.own_operators() or self.own_blocks() else self

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT} | _ADAPTER.dump_python(self, mode="json", exclude_none=True)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    @staticmethod
    def from_json(text: str) -> Genotype:
        """The inverse of `to_json`; absent options take their defaults.

        Raises ValueError that names the path of an unknown, missing or forbidden entry.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from None
        return Genotype.from_dict(data)

    @staticmethod
    def from_dict(data: Any) -> Genotype:
        """Like `from_json`, from parsed JSON."""
        if not isinstance(data, dict):
            raise ValueError(f"a genotype is a JSON object, not {type(data).__name__}")
        if (written := data.get("format", FORMAT)) != FORMAT:
            raise ValueError(f"format = {written!r}: this version reads genotypes of format {FORMAT}")
        # pydantic's strict mode takes objects for dataclasses from JSON only
        text = json.dumps({name: value for name, value in data.items() if name != "format"})
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            raise ValueError("; ".join(specs.explain(error, Genotype, {"dense": Dense}))) from None


_ADAPTER = TypeAdapter(Genotype)


def short_name(operator: specs.Operator) -> str:
    """A compact name for plots and tables where no label of an experiment applies, such as `involution7`."""
    size = (
        getattr(operator, "kernel_size", None) or getattr(operator, "order", None) or getattr(operator, "pooling", "")
    )
    depthwise = "dw" if getattr(operator, "groups", 1) == "depthwise" else ""
    return f"{depthwise}{operator.op.partition(':')[2] or operator.op}{size}"
