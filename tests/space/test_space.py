"""SearchSpace: which parameters there are, and what they decode to and from."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from importlib import resources

import pytest

from nas.config.reading import load_experiment
from nas.space import specs
from nas.space.genotype import Genotype
from nas.space.search_space import SearchSpace, Value, notes, problems
from nas.space.sections import SpaceConfig

SHIPPED = sorted(
    (file for file in resources.files("search_spaces").iterdir() if file.name.endswith(".yaml")), key=lambda f: f.name
)
OPERATORS = {
    "conv3": {"op": "conv"},
    "dw3": {"op": "conv", "groups": "depthwise"},
    "inv7": {"op": "involution"},
    "gn3": {"op": "gnconv"},
    "pw": {"op": "conv", "kernel_size": 1},
    "odpw": {"op": "odconv", "kernel_size": 1},
}


def space(*stages: dict, **options) -> SearchSpace:
    data = {"stem": "small", "operators": OPERATORS, "stages": list(stages)} | options
    return SearchSpace(SpaceConfig.model_validate_json(json.dumps(data)))


def draw(space: SearchSpace, rng: random.Random) -> dict:
    return {name: rng.choice(values) for name, values in space.choices().items()}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_draws_of_shipped_spaces(file):
    _, space = load_experiment(file)
    rng = random.Random(0)
    choices = space.choices()
    assert all("/" not in name for name in choices)
    genotypes: dict[str, Genotype] = {}
    for _ in range(1000):
        genotype = space.decode(draw(space, rng))
        copy = Genotype.from_json(genotype.to_json())
        assert copy == genotype and copy.key == genotype.key
        assert genotypes.setdefault(genotype.key, genotype) == genotype
        params = space.encode(genotype)
        assert params.keys() == choices.keys()
        assert space.decode(params) == genotype
    assert len(genotypes) > 100


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_spaces_offer_all_five_operators(file):
    _, space = load_experiment(file)
    assert {spec.op for spec in space.config.operators.values()} == {"conv", "involution", "odconv", "scconv", "gnconv"}
    for label, spec in space.config.operators.items():
        params = space.uniform(label)
        if getattr(spec, "kernel_size", 3) > 1:
            assert params is not None
            genotype = space.decode(params)
            dense = {genotype.dense.neck, genotype.dense.head} if genotype.dense else set()
            assert spec in {block.operator for block in genotype.blocks} | dense


def test_all_parameters_are_always_there():
    flat = space(
        {"block": "bottleneck", "depth": [1, 3], "width": [64, 128], "operator": ["conv3", "inv7"]},
        {"block": ["basic", "gated"], "depth": 2, "width": 64},
    )
    assert flat.choices() == {
        "stages.0.block": ["bottleneck"],
        "stages.0.depth": [1, 3],
        "stages.0.width": [64, 128],
        "stages.0.operator": ["conv3", "inv7"],
        "stages.1.block": ["basic", "gated"],
        "stages.1.depth": [2],
        "stages.1.width": [64],
        "stages.1.operator": ["conv3", "dw3", "inv7", "gn3"],
    }
    assert flat.num_points() == 2 * 2 * 2 * 2 * 4
    with pytest.raises(KeyError, match=r"stages\.1\.width"):
        flat.decode({name: values[0] for name, values in flat.choices().items() if name != "stages.1.width"})


def test_blocks_that_take_different_operators_have_parameters_of_their_own():
    mixed = space({"block": ["inverted_residual", "gated"], "depth": 1, "width": 32})
    choices = mixed.choices()
    assert choices["stages.0.operator.inverted_residual"] == ["dw3", "inv7"]
    assert choices["stages.0.operator.gated"] == ["conv3", "dw3", "inv7", "gn3"]
    params = {"stages.0.block": "gated", "stages.0.depth": 1, "stages.0.width": 32}
    labels = {"stages.0.operator.inverted_residual": "dw3", "stages.0.operator.gated": "gn3"}
    genotype = mixed.decode(params | labels)
    assert [block.operator.op for block in genotype.blocks] == ["gnconv"]
    # what the network does not use leaves its key
    assert genotype.key == mixed.decode(params | labels | {"stages.0.operator.inverted_residual": "inv7"}).key


def test_per_block_chooses_each_block_and_drops_those_beyond_the_depth():
    per_block = space(
        {"block": "basic", "depth": [1, 3], "width": 16, "operator": ["conv3", "inv7", "gn3"]}, mix="per_block"
    )
    assert [name for name in per_block.choices() if "operator" in name] == [
        "stages.0.blocks.0.operator",
        "stages.0.blocks.1.operator",
        "stages.0.blocks.2.operator",
    ]
    assert per_block.num_points() == 2 * 3**3
    params = {"stages.0.block": "basic", "stages.0.depth": 3, "stages.0.width": 16}
    params |= {f"stages.0.blocks.{i}.operator": label for i, label in enumerate(("conv3", "gn3", "inv7"))}
    genotype = per_block.decode(params)
    assert [block.operator.op for block in genotype.blocks] == ["conv", "gnconv", "involution"]
    assert per_block.encode(genotype) == params
    short = params | {"stages.0.depth": 1}
    assert per_block.decode(short).key == per_block.decode(short | {"stages.0.blocks.2.operator": "gn3"}).key
    rng = random.Random(1)
    keys = {per_block.decode(draw(per_block, rng)).key for _ in range(2000)}
    assert len(keys) == 3 + 3**3


def test_pointwise_operators():
    stage = {"block": ["bottleneck", "gated"], "depth": 1, "width": 64, "operator": "inv7", "pointwise": ["pw", "odpw"]}
    both = space(stage)
    params: dict[str, Value] = {name: values[0] for name, values in both.choices().items()}
    assert both.choices()["stages.0.pointwise"] == ["pw", "odpw"]
    plain, dynamic = both.decode(params), both.decode(params | {"stages.0.pointwise": "odpw"})
    assert [block.pointwise for block in (*plain.blocks, *dynamic.blocks) if block.kind == "bottleneck"] == [
        None,
        specs.ODConv(kernel_size=1),
    ]
    assert both.encode(plain)["stages.0.pointwise"] == "pw"
    assert both.encode(dynamic)["stages.0.pointwise"] == "odpw"
    gated = params | {"stages.0.block": "gated"}
    assert both.decode(gated).key == both.decode(gated | {"stages.0.pointwise": "odpw"}).key


def test_strides_stem_head_and_block_options():
    stages = [{"block": kind, "depth": 2, "width": 32, "operator": "inv7"} for kind in ("bottleneck", "gated")]
    built = space(*stages, zero_init=True, layer_scale=0.5)
    genotype = built.decode({name: values[0] for name, values in built.choices().items()})
    assert [block.stride for block in genotype.blocks] == [1, 1, 2, 1]
    assert (genotype.stem, genotype.head) == (specs.Stem(kind="small", width=32), specs.Head(kind="norm"))
    assert genotype.blocks[0] == specs.Bottleneck(width=32, operator=specs.Involution(), zero_init=True)
    assert genotype.blocks[3] == specs.Gated(width=32, operator=specs.Involution(), layer_scale=0.5)
    stages[0] |= {"stride": 2, "expansion": 2}
    stem = {"kind": "deep", "width": 24}
    built = space(*reversed(stages), stem=stem, head="mobilenet")
    genotype = built.decode({name: values[0] for name, values in built.choices().items()})
    assert [block.stride for block in genotype.blocks] == [1, 1, 2, 1]
    assert genotype.blocks[2] == specs.Bottleneck(width=32, operator=specs.Involution(), stride=2, expansion=2)
    assert genotype.stem == specs.Stem(kind="deep", width=24)
    assert genotype.head == specs.Head(kind="mobilenet", width=1280)
    assert space(*stages).config.head is None


def test_uniform_uses_one_operator_wherever_it_fits():
    stages = [
        {"block": ["basic", "inverted_residual"], "depth": [1, 2, 3], "width": [16, 32, 48]},
        {"block": "basic", "depth": 1, "width": 16, "operator": ["conv3", "inv7"]},
    ]
    built = space(*stages)

    def operators(label):
        params = built.uniform(label)
        assert params is not None and params.keys() == built.choices().keys()
        return [built.label(block.operator) for block in built.decode(params).blocks]

    assert operators("conv3") == ["conv3", "conv3", "conv3"]
    assert operators("inv7") == ["inv7", "inv7", "inv7"]
    assert operators("gn3") == ["gn3", "gn3", "inv7"]  # where it is not offered, the middle of what is
    assert built.uniform("pw") is None


def test_encode_says_where_a_network_leaves_the_space():
    built = space({"block": "basic", "depth": [1, 2], "width": 16, "operator": ["conv3", "inv7"]})
    params: dict[str, Value] = {name: values[0] for name, values in built.choices().items()}
    good = built.decode(params)
    wide = space({"block": "basic", "depth": 1, "width": 32, "operator": "conv3"})
    gated = space({"block": "basic", "depth": 1, "width": 16, "operator": "gn3"})
    strided = space({"block": "basic", "depth": 1, "width": 16, "operator": "conv3", "stride": 2})

    def only(other):
        return other.decode({name: values[0] for name, values in other.choices().items()})

    assert built.encode(good) == params
    with pytest.raises(ValueError, match=r"stages\.0\.width is 32; the space offers 16"):
        built.encode(only(wide))
    with pytest.raises(ValueError, match=r"stages\.0\.operator is 'gn3'; the space offers conv3, inv7"):
        built.encode(only(gated))
    with pytest.raises(ValueError, match="its stem, head, strides, block or detector options differ"):
        built.encode(only(strided))
    with pytest.raises(ValueError, match="it has 2 stages, the space has 1"):
        built.encode(Genotype(stem=good.stem, stages=good.stages * 2))


DETECTOR = {"neck": ["dw3", "inv7", "gn3"], "head": ["dw3", "gn3"], "fpn_channels": [16, 32]}
THREE = [{"block": "basic", "depth": [1, 2], "width": [8, 16], "operator": ["dw3", "inv7"]}] * 3


def test_a_detector_has_neck_head_and_channels_in_genotype_and_key():
    detectors, rng = space(*THREE, dense=DETECTOR | {"anchors": [8, 16, 24, 32, 64]}), random.Random(0)
    choices = detectors.choices()
    assert {name: choices[name] for name in choices if name.startswith("dense.")} == {
        f"dense.{name}": values for name, values in DETECTOR.items()
    }
    for _ in range(200):
        params = draw(detectors, rng)
        genotype = detectors.decode(params)
        assert detectors.active(params).items() >= {name: params[name] for name in params if "dense" in name}.items()
        copy = Genotype.from_json(genotype.to_json())
        assert copy == genotype and copy.key == genotype.key
        assert detectors.decode(detectors.encode(genotype)) == genotype
        for name in ("dense.neck", "dense.head", "dense.fpn_channels"):
            other = detectors.decode(params | {name: next(v for v in choices[name] if v != params[name])})
            assert other.key != genotype.key
        classifier, dense = replace(genotype, dense=None), genotype.dense
        assert dense is not None
        assert "dense" not in classifier.to_dict() and classifier.key != genotype.key
        assert replace(classifier, head=specs.Head(kind="norm"), dense=genotype.dense).key == genotype.key
        with pytest.raises(ValueError, match="block or detector options differ"):
            detectors.encode(replace(genotype, dense=replace(dense, anchors=None)))
    only = detectors.decode(detectors.uniform("gn3") or {})
    assert only.dense and {only.dense.neck, only.dense.head} == {specs.GnConv()}
    assert all(block.operator != specs.GnConv() for block in only.blocks)
    assert detectors.uniform("pw") is None


@pytest.mark.parametrize(
    "change, path, message",
    [
        ({"dense": DETECTOR | {"neck": ["dw3", "gn4"]}}, "dense.neck.1", "unknown operator 'gn4'; space.operators has"),
        ({"dense": DETECTOR | {"head": "gn"}}, "dense.head", "did you mean 'gn3'?"),
        ({"head": "linear"}, "dense", "detectors, which have no classifier: leave out space.head"),
        ({"stages": THREE[:2]}, "dense.kind", "'retinanet' needs 3 stages for its pyramid, the space has 2"),
        ({"dense": DETECTOR | {"kind": "faster_rcnn"}}, "dense.kind", "'faster_rcnn' needs 4 stages"),
    ],
)
def test_impossible_detectors_are_refused_where_they_stand(change, path, message):
    data = {"stem": "small", "operators": OPERATORS, "stages": THREE, "dense": DETECTOR} | change
    (steps, text), *others = problems(SpaceConfig.model_validate_json(json.dumps(data)))
    assert not others and ".".join(map(str, steps)) == path and message in text


def test_a_detector_of_a_genotype_file_is_checked():
    data = space(*THREE, dense=DETECTOR).decode(draw(space(*THREE, dense=DETECTOR), random.Random(0))).to_dict()
    for part, message in (
        ({"nek": 1}, "dense.nek: unknown option; allowed are neck, head, channels, anchors, norm"),
        ({"anchors": [8, 16]}, r"dense: anchors = \[8, 16\]: allowed are 5 numbers, one per level"),
        ({"kind": "upernet"}, "dense: head: upernet has no 3x3 slots in its head; leave it out"),
    ):
        with pytest.raises(ValueError, match=message):
            Genotype.from_dict(data | {"dense": data["dense"] | part})
    with pytest.raises(ValueError, match=r"dense.kind = 'retinanet': needs 3 stages, this network has 2"):
        Genotype.from_dict(data | {"stages": data["stages"][:2]})


def test_labels_that_change_nothing_are_noted():
    conv, inv = {"op": "conv"}, {"op": "involution"}
    operators = {"conv3": conv, "again": conv | {"kernel_size": 3}, "inv": inv, "conv1": conv | {"kernel_size": 1}}
    stage = {"block": "bottleneck", "depth": 1, "width": 32, "operator": ["conv3", "again"]}
    config = SpaceConfig.model_validate_json(json.dumps({"stem": "small", "operators": operators, "stages": [stage]}))
    assert list(notes(config)) == [
        "space.operators.again is the same operator as conv3: networks of either have one key",
        "space.operators.inv is offered by no stage",
        "space.operators.conv1 is offered by no stage",
    ]


def test_impossible_space_is_refused_with_all_mistakes():
    data = {
        "operators": OPERATORS,
        "stages": [
            {"block": "basic", "depth": 1, "width": 16, "operator": ["conv3", "conv9"]},
            {"block": "inverted_residual", "depth": 1, "width": 16, "operator": "gn3"},
            {"block": ["basic", "bottleneck"], "depth": 1, "width": [16, 18]},
        ],
    }
    config = SpaceConfig.model_validate_json(json.dumps(data))
    assert [steps for steps, _ in problems(config)] == [
        ("stages", 0, "operator", 1),
        ("stages", 1, "operator"),
        ("stages", 2, "width", 1),
    ]
    with pytest.raises(ValueError, match=r"^space\.stages\.0\.operator\.1: unknown operator 'conv9'.*stages\.2\.width"):
        SearchSpace(config)
