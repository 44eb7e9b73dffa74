"""SearchSpace: the choices of an experiment file, and the way from chosen parameters to a genotype and back."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from nas.space import specs
from nas.space.genotype import Genotype, short_name
from nas.space.pyramid import LEVELS_USED, Dense
from nas.space.sections import STEM_WIDTHS, DenseConfig, SpaceConfig, StageConfig
from nas.space.training import PREFIX

DENSE_SLOTS = ("dense.neck", "dense.head")
"""Parameters that choose the operators of a detector beyond its stages."""
Value = str | int | float
Problem = tuple[tuple[str | int, ...], str]


@dataclass(frozen=True)
class SearchSpace:
    """The choices of one `space:` section, and of `proxy:` where entries there are lists.

    Every parameter is always present, whatever the others say, because samplers cross and model only parameters that
    all trials have; `decode` drops what a network does not use (the operators of blocks beyond the depth), so that
    equal networks have equal keys.
    """

    config: SpaceConfig
    training: Mapping[str, Sequence[Value]] = dataclasses.field(default_factory=dict)
    """Option of `proxy` -> the values to choose from."""

    def __post_init__(self):
        if found := [f"{'.'.join(map(str, ('space', *steps)))}: {text}" for steps, text in problems(self.config)]:
            raise ValueError("; ".join(found))

    def choices(self) -> dict[str, list[Value]]:
        """Parameter name (joined by ".") -> the values to choose from; also those with a single value."""
        return dict(self._choices)

    @cached_property
    def _choices(self) -> dict[str, list[Value]]:
        result: dict[str, list[Value]] = {}
        for i, stage in enumerate(self.config.stages):
            prefix = f"stages.{i}"
            result[f"{prefix}.block"] = _values(stage.block)
            result[f"{prefix}.depth"] = _values(stage.depth)
            result[f"{prefix}.width"] = _values(stage.width)
            if stage.pointwise is not None:
                result[f"{prefix}.pointwise"] = _values(stage.pointwise)
            slots = range(max(map(int, _values(stage.depth)))) if self.config.mix == "per_block" else [None]
            for slot in slots:
                for block in _values(stage.block):
                    result[self._operator_name(i, str(block), slot)] = _fitting(self.config, stage, str(block))
        if self.config.dense is not None:
            entries = {name: getattr(self.config.dense, name) for name in ("neck", "head", "fpn_channels")}
            result |= {f"dense.{name}": _values(entry) for name, entry in entries.items()}
        return result | {PREFIX + name: list(values) for name, values in self.training.items()}

    def decode(self, params: dict[str, Value]) -> Genotype:
        """The genotype that chosen parameters stand for. Raises KeyError for a missing parameter."""
        config = self.config
        stem = (
            specs.Stem(kind=config.stem, width=STEM_WIDTHS[config.stem])
            if isinstance(config.stem, str)
            else config.stem
        )
        stages = tuple(self._decode_stage(i, stage, params) for i, stage in enumerate(config.stages))
        if config.dense is not None:
            return Genotype(stem=stem, stages=stages, dense=self._decode_dense(config.dense, params))
        if isinstance(config.head, specs.Head):
            head = config.head
        else:
            gated = stages[-1][-1].kind == "gated"
            kind = config.head or ("norm" if gated else "linear")
            head = specs.Head(kind=kind, width=1280 if kind == "mobilenet" else None)
        return Genotype(stem=stem, stages=stages, head=head)

    def active(self, params: dict[str, Value]) -> dict[str, Value]:
        """The parameters that the network of `params` uses; not operators of absent blocks or other kinds."""
        found: dict[str, Value] = {}
        for i, stage in enumerate(self.config.stages):
            prefix, kind = f"stages.{i}", str(params[f"stages.{i}.block"])
            names = [f"{prefix}.block", f"{prefix}.depth", f"{prefix}.width"]
            if stage.pointwise is not None and specs.has_pointwise(kind):
                names.append(f"{prefix}.pointwise")
            per_block = self.config.mix == "per_block"
            slots = range(int(params[f"{prefix}.depth"])) if per_block else [None]
            names += [self._operator_name(i, kind, slot) for slot in slots]
            found |= {name: params[name] for name in names}
        if self.config.dense is not None:
            found |= {name: params[name] for name in (*DENSE_SLOTS, "dense.fpn_channels")}
        return found | {PREFIX + name: params[PREFIX + name] for name in self.training}

    def encode(self, genotype: Genotype) -> dict[str, Value]:
        """Parameters that decode to `genotype`; raises ValueError that says where it leaves this space."""
        if len(genotype.stages) != len(self.config.stages):
            raise ValueError(f"it has {len(genotype.stages)} stages, the space has {len(self.config.stages)}")
        params: dict[str, Value] = {name: values[0] for name, values in self.choices().items()}
        for i, stage in enumerate(genotype.stages):
            prefix = f"stages.{i}"
            params |= {
                f"{prefix}.block": stage[0].kind,
                f"{prefix}.depth": len(stage),
                f"{prefix}.width": stage[0].width,
            }
            pointwise = getattr(stage[0], "pointwise", None)
            if f"{prefix}.pointwise" in params:
                params[f"{prefix}.pointwise"] = self.label(pointwise or specs.Conv(kernel_size=1))
            for j, block in enumerate(stage):
                slot = j if self.config.mix == "per_block" else None
                params[self._operator_name(i, block.kind, slot)] = self.label(block.operator)
        if (dense := genotype.dense) is not None:
            params["dense.neck"], params["dense.head"] = self.label(dense.neck), self.label(dense.head)
            params["dense.fpn_channels"] = dense.channels
        for name, values in self.choices().items():
            if params[name] not in values:
                raise ValueError(f"{name} is {params[name]!r}; the space offers {', '.join(map(str, values))}")
        if self.decode(params) != genotype:
            raise ValueError("its stem, head, strides, block or detector options differ from those of the space")
        return params

    def uniform(self, label: str) -> dict[str, Value] | None:
        """Parameters of a middle-sized network that uses one operator wherever it can; None where it fits nowhere.

        Of what a training may have, the value that is listed first.
        """
        params = {}
        for name, values in self.choices().items():
            if name.endswith(".block"):
                values = [kind for kind in values if specs.fits(str(kind), self.config.operators[label])] or values
            is_operator = (".operator" in name or name in DENSE_SLOTS) and label in values
            middle = 0 if name.startswith(PREFIX) else len(values) // 2
            params[name] = label if is_operator else values[middle]
        genotype = self.decode(params)
        operators = {block.operator for block in genotype.blocks}
        if genotype.dense is not None:
            operators |= {genotype.dense.neck, genotype.dense.head}
        return params if self.config.operators[label] in operators else None

    def label(self, operator: specs.Operator) -> str:
        """The label of an operator in this space, or a name made from its options."""
        return self._labels.get(operator) or short_name(operator)

    @cached_property
    def _labels(self) -> dict[specs.Operator, str]:
        return {spec: label for label, spec in self.config.operators.items()}

    def num_points(self) -> int:
        """Number of parameter combinations; at least the number of distinct genotypes."""
        return math.prod(len(values) for values in self.choices().values())

    def _operator_name(self, i: int, block: str, slot: int | None) -> str:
        """The parameter of an operator slot; block kinds that take different operators have parameters of their own."""
        name = f"stages.{i}.operator" if slot is None else f"stages.{i}.blocks.{slot}.operator"
        return f"{name}.{block}" if self._kinds_differ[i] else name

    @cached_property
    def _kinds_differ(self) -> list[bool]:
        """Of each stage, whether its block kinds take different operators."""
        return [
            len({tuple(_fitting(self.config, stage, str(kind))) for kind in _values(stage.block)}) > 1
            for stage in self.config.stages
        ]

    def _decode_dense(self, dense: DenseConfig, params: dict[str, Value]) -> Dense:
        operators = self.config.operators
        return Dense(
            kind=dense.kind,
            neck=operators[str(params["dense.neck"])],
            head=operators[str(params["dense.head"])],
            channels=int(params["dense.fpn_channels"]),
            anchors=None if dense.anchors is None else tuple(dense.anchors),
            norm=dense.norm,
        )

    def _decode_stage(self, i: int, stage: StageConfig, params: dict[str, Value]) -> tuple[specs.Block, ...]:
        kind = str(params[f"stages.{i}.block"])
        stride = stage.stride or (1 if i == 0 else 2)
        block = specs.BLOCKS.find(kind)
        told = {field.name for field in fields(block)}
        options: dict[str, Any] = {"width": params[f"stages.{i}.width"]}
        if stage.expansion is not None and "expansion" in told:
            options["expansion"] = stage.expansion
        if stage.pointwise is not None and specs.has_pointwise(kind):
            options["pointwise"] = self.config.operators[str(params[f"stages.{i}.pointwise"])]
        if "zero_init" in told:
            options["zero_init"] = self.config.zero_init
        if "layer_scale" in told:
            options["layer_scale"] = self.config.layer_scale
        blocks = []
        for j in range(int(params[f"stages.{i}.depth"])):
            slot = j if self.config.mix == "per_block" else None
            label = params[self._operator_name(i, kind, slot)]
            operator = self.config.operators[str(label)]
            blocks.append(block(operator=operator, stride=stride if j == 0 else 1, **options))
        return tuple(blocks)


def notes(config: SpaceConfig) -> Iterator[str]:
    """What is allowed in a `space:` section and probably not meant: labels that change nothing."""
    first: dict[specs.Operator, str] = {}
    for label, spec in config.operators.items():
        if (same := first.setdefault(spec, label)) != label:
            yield f"space.operators.{label} is the same operator as {same}: networks of either have one key"
    offered = {label for values in SearchSpace(config).choices().values() for label in values}
    for label in config.operators:
        if label not in offered:
            yield f"space.operators.{label} is offered by no stage"


def problems(config: SpaceConfig) -> Iterator[Problem]:
    """What makes a `space:` section impossible although each entry is allowed: (path inside the section, message)."""
    for i, stage in enumerate(config.stages):
        found = list(_label_problems(config, stage)) or list(_block_problems(config, stage))
        yield from ((("stages", i, *steps), text) for steps, text in found)
    if config.dense is not None:
        yield from ((("dense", *steps), text) for steps, text in _dense_problems(config, config.dense))


def _fitting(config: SpaceConfig, stage: StageConfig, block: str) -> list[Value]:
    """Labels that may fill the slot of a block kind; a 1x1 operator is for pointwise slots unless it is asked for."""
    if stage.operator is None:
        spatial = [label for label, spec in config.operators.items() if getattr(spec, "kernel_size", 3) > 1]
        return [label for label in spatial if specs.fits(block, config.operators[label])]
    return [label for label in _values(stage.operator) if specs.fits(block, config.operators[str(label)])]


def _label_problems(config: SpaceConfig, stage: StageConfig) -> Iterator[Problem]:
    """Labels that are unknown, or that no slot of the stage can take."""
    kinds = [str(kind) for kind in _values(stage.block)]
    if stage.pointwise is not None and not any(specs.has_pointwise(kind) for kind in kinds):
        yield ("pointwise",), f"{', '.join(kinds)} has no 1x1 slots; bottleneck and inverted_residual have"
    for field in ("operator", "pointwise"):
        entry = getattr(stage, field)
        for j, label in enumerate(_values(entry) if entry is not None else []):
            steps = (field, j) if isinstance(entry, list) else (field,)
            spec = config.operators.get(str(label))
            if spec is None:
                yield steps, _unknown(config, label)
            elif field == "pointwise" and getattr(spec, "kernel_size", None) != 1:
                yield steps, f"{label!r} is no 1x1 operator; allowed is conv or odconv of kernel_size 1"
            elif field == "operator" and not any(specs.fits(kind, spec) for kind in kinds):
                why = "; ".join(specs.what_fits(kind) for kind in kinds)
                yield steps, f"{label!r} fits no block of the stage: {why}"


def _unknown(config: SpaceConfig, label: Value) -> str:
    close = difflib.get_close_matches(str(label), config.operators, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown operator {label!r}; space.operators has {', '.join(config.operators)}{hint}"


def _dense_problems(config: SpaceConfig, dense: DenseConfig) -> Iterator[Problem]:
    """Labels that are unknown, a head that a detector does not have, and too few stages for its pyramid."""
    for field in ("neck", "head"):
        entry = getattr(dense, field)
        for j, label in enumerate(_values(entry)):
            if str(label) not in config.operators:
                yield (field, j) if isinstance(entry, list) else (field,), _unknown(config, label)
    if config.head is not None:
        yield (), "the networks are detectors, which have no classifier: leave out space.head"
    stem = config.stem if isinstance(config.stem, str) else config.stem.kind
    given, needed = len(config.stages) + (stem in specs.POOLED_STEMS), LEVELS_USED.get(dense.kind, 4)
    if given < needed:
        yield ("kind",), f"{dense.kind!r} needs {needed} stages for its pyramid, the space has {given}"


def _block_problems(config: SpaceConfig, stage: StageConfig) -> Iterator[Problem]:
    """Block kinds without any operator, and widths that a block cannot have."""
    for j, kind in enumerate(map(str, _values(stage.block))):
        fitting = _fitting(config, stage, kind)
        if not fitting:
            steps = ("block", j) if isinstance(stage.block, list) else ("block",)
            yield steps, f"no operator offered here fits {kind!r}: {specs.what_fits(kind)}"
            continue
        block = specs.BLOCKS.get(kind)  # that of others is not loaded where a run is read
        options: dict[str, Any] = {"operator": config.operators[str(fitting[0])]}
        if block and stage.expansion is not None and "expansion" in {field.name for field in fields(block)}:
            options["expansion"] = stage.expansion
        for k, width in enumerate(_values(stage.width) if block else ()):
            steps = ("width", k) if isinstance(stage.width, list) else ("width",)
            try:
                block(width=width, **options)  # type: ignore[misc]
            except ValidationError as error:
                yield steps, f"{kind}: {'; '.join(specs.explain(error, block))}"  # type: ignore[arg-type]


def _values(entry: Any) -> list[Value]:
    return list(entry) if isinstance(entry, list) else [entry]
