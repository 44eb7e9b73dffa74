"""Genotype: round trip through JSON, one key for equal networks, and errors that name their place."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys

import pytest

from nas.space import specs
from nas.space.genotype import Genotype, short_name

INVOLUTION = specs.Involution(kernel_size=7)
GENOTYPE = Genotype(
    stem=specs.Stem(kind="rednet", width=64, kernel_size=7),
    stages=(
        (
            specs.Bottleneck(width=256, operator=INVOLUTION),
            specs.Bottleneck(width=256, operator=specs.SCConv(), pointwise=specs.ODConv(kernel_size=1)),
        ),
        (specs.Basic(width=96, operator=specs.Conv(), stride=2, shortcut="avgpool", zero_init=True),),
        (specs.InvertedResidual(width=32, operator=specs.Conv(groups="depthwise"), stride=2),),
        (specs.Gated(width=64, operator=specs.GnConv(order=4, filter="global", grid=(14, 8)), layer_scale=1.0),),
    ),
    head=specs.Head(kind="mobilenet", width=1280, operator=specs.ODConv(kernel_size=1), dropout=0.2),
)


def with_block(block: specs.Block) -> Genotype:
    return dataclasses.replace(GENOTYPE, stages=((block,),))


def shuffled(data, rng):
    """The same JSON with the keys of every object in another order."""
    if isinstance(data, list):
        return [shuffled(item, rng) for item in data]
    if not isinstance(data, dict):
        return data
    return {key: shuffled(data[key], rng) for key in rng.sample(list(data), len(data))}


def test_round_trip():
    copy = Genotype.from_json(GENOTYPE.to_json())
    assert copy == GENOTYPE and copy.key == GENOTYPE.key and hash(copy) == hash(GENOTYPE)
    assert [block.kind for block in copy.blocks] == ["bottleneck", "bottleneck", "basic", "inverted_residual", "gated"]


def test_key_is_the_same_in_another_process():
    code = "import sys; from nas.space.genotype import Genotype; print(Genotype.from_json(sys.stdin.read()).key)"
    done = subprocess.run(
        [sys.executable, "-c", code], input=GENOTYPE.to_json(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == GENOTYPE.key


def test_key_knows_neither_order_nor_defaults():
    data = json.loads(GENOTYPE.to_json())
    rng = random.Random(0)
    for _ in range(20):
        assert Genotype.from_json(json.dumps(shuffled(data, rng))).key == GENOTYPE.key
    first, second = data["stages"][0]
    for name in ("stride", "expansion", "shortcut", "downsample", "zero_init"):
        del first[name]
    del first["operator"]["group_channels"], second["operator"]["pooling"], data["format"]
    assert Genotype.from_json(json.dumps(data)).key == GENOTYPE.key


CONV = specs.Conv()
SAME = {
    "plain pointwise": (
        specs.Bottleneck(width=64, operator=CONV, pointwise=specs.Conv(kernel_size=1)),
        specs.Bottleneck(width=64, operator=CONV),
    ),
    "grid of a filter without one": (
        specs.Gated(width=64, operator=specs.GnConv(grid=(14, 8))),
        specs.Gated(width=64, operator=specs.GnConv()),
    ),
    "shortcut without stride": (
        specs.Basic(width=64, operator=CONV, shortcut="avgpool"),
        specs.Basic(width=64, operator=CONV),
    ),
    "dilation of a 1x1 kernel": (
        specs.Basic(width=64, operator=specs.Conv(kernel_size=1, dilation=2)),
        specs.Basic(width=64, operator=specs.Conv(kernel_size=1)),
    ),
    "dilation of a dynamic 1x1 kernel": (
        specs.Basic(width=64, operator=specs.ODConv(kernel_size=1, dilation=2)),
        specs.Basic(width=64, operator=specs.ODConv(kernel_size=1)),
    ),
    "whole number for a fraction": (
        specs.Gated(width=64, operator=CONV, layer_scale=1),
        specs.Gated(width=64, operator=CONV, layer_scale=1.0),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_options_without_effect_leave_the_key(name):
    one, other = map(with_block, SAME[name])
    assert one == other and one.key == other.key and one.to_json() == other.to_json()


def test_stem_and_head_options_without_effect_leave_the_key():
    one = Genotype(stem=specs.Stem(kind="resnet", kernel_size=7), stages=GENOTYPE.stages)
    assert one.key == Genotype(stem=specs.Stem(), stages=GENOTYPE.stages).key
    linear = dataclasses.replace(GENOTYPE, head=specs.Head(kind="linear", width=64, operator=CONV))
    assert linear.key == dataclasses.replace(GENOTYPE, head=specs.Head()).key
    plain = specs.Head(kind="mobilenet", width=1280, operator=specs.Conv(kernel_size=1))
    assert plain == specs.Head(kind="mobilenet", width=1280)


def numbers(data, steps=()):
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        if isinstance(value, dict | list):
            yield from numbers(value, (*steps, key))
        elif isinstance(value, int | float) and not isinstance(value, bool) and key != "format":
            yield (*steps, key)


def test_every_number_counts_in_the_key():
    keys = {GENOTYPE.key}
    idle, fixed = [], []
    for steps in numbers(json.loads(GENOTYPE.to_json())):
        copy = json.loads(GENOTYPE.to_json())
        owner = copy
        for step in steps[:-1]:
            owner = owner[step]
        original = owner[steps[-1]]
        for value in (3, 4, 5, 7, 8, 0.25, 1, 2):
            if value == original:
                continue
            owner[steps[-1]] = value
            try:
                key = Genotype.from_json(json.dumps(copy)).key
            except ValueError:
                continue
            if key in keys:
                idle.append(steps[-3:])
            keys.add(key)
            break
        else:
            fixed.append(steps[-2:])
    # the only numbers without effect are the dilations of 1x1 kernels
    assert idle == [(1, "pointwise", "dilation"), ("head", "operator", "dilation")]
    assert fixed == [("pointwise", "kernel_size")] and len(keys) > 35


WRONG = {
    "no JSON": ("{", "not JSON"),
    "a list": ("[]", "a genotype is a JSON object, not list"),
    "later format": (json.dumps(GENOTYPE.to_dict() | {"format": 2}), "format = 2: .*format 1"),
    "no stages": (json.dumps({"stem": {}, "stages": []}), "at least one stage"),
    "empty stage": (json.dumps({"stem": {}, "stages": [[]]}), "every stage at least one block"),
    "missing stages": (json.dumps({"stem": {}}), "stages: missing"),
    "unknown option": (json.dumps({"stem": {"size": 3}, "stages": []}), "stem.size: unknown option; .*kernel_size"),
}
WRONG_OPERATORS = {
    '{"op": "conv", "kernel_size": 4}': "kernel_size = 4: allowed is an odd number",
    '{"op": "conv", "kernel": 3}': "stages.0.0.basic.operator.conv.kernel: unknown option; allowed are kernel_size",
    '{"op": "conv", "kernel_size": "3"}': "kernel_size.* = '3'",
    '{"op": "conv", "kernel_size": true}': "kernel_size.* = True",
    '{"op": "conv", "groups": 0}': "groups = 0: allowed is a positive number or 'depthwise'",
    '{"op": "gnconv", "order": 6}': "order = 6: allowed is 2, 3, 4 or 5",
    '{"op": "gnconv", "filter": "global"}': "grid = None: the global filter needs two positive numbers",
    '{"op": "odconv", "reduction": 0}': "reduction = 0.0: allowed is a number above 0",
    '{"op": "transformer"}': "transformer",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_genotype(name):
    text, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        Genotype.from_json(text)


@pytest.mark.parametrize("operator", WRONG_OPERATORS)
def test_wrong_operator(operator):
    text = f'{{"stem": {{}}, "stages": [[{{"kind": "basic", "width": 8, "operator": {operator}}}]]}}'
    with pytest.raises(ValueError, match=WRONG_OPERATORS[operator]):
        Genotype.from_json(text)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (specs.Bottleneck, {"width": 130, "operator": CONV}, "width = 130: allowed is a multiple of the expansion 4"),
        (specs.Bottleneck, {"width": 64, "operator": CONV, "pointwise": CONV}, "pointwise = .*`kernel_size: 1`"),
        (specs.InvertedResidual, {"width": 64, "operator": CONV}, "operator = .*groups: depthwise"),
        (specs.Gated, {"width": 64, "operator": CONV, "layer_scale": 2.0}, "layer_scale = 2.0: allowed is 0"),
        (specs.Basic, {"width": 0, "operator": CONV}, "width = 0: allowed is 1 or more"),
        (specs.Head, {"kind": "mobilenet"}, "width = None: the mobilenet head needs"),
        (specs.Head, {"dropout": 1.0}, "dropout = 1.0: allowed is 0 to below 1"),
    ],
)
def test_wrong_option_is_named(kind, options, message):
    with pytest.raises(ValueError, match=f"^it: {message}"):
        specs.make("it", kind, options)


def test_short_names_tell_operators_apart():
    operators = [CONV, specs.Conv(kernel_size=7, groups="depthwise"), INVOLUTION, specs.SCConv(), specs.GnConv(order=5)]
    assert [short_name(operator) for operator in operators] == [
        "conv3",
        "dwconv7",
        "involution7",
        "scconv4",
        "gnconv5",
    ]


def test_genotype_imports_no_torch():
    modules = "nas.space.genotype, nas.space.search_space, nas.runs.record, nas.config.reading"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
