"""Networks of a space that share one set of weights: who shares what, and that each computes what it would alone."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
import torch

from nas.config.reading import load_experiment
from nas.networks.model import build_model
from nas.networks.shared.parts import Part, first, indices, middle, put, taken, union
from nas.networks.shared.supernet import NotShared, Supernet
from nas.space.genotype import Genotype
from nas.space.published import PUBLISHED
from nas.space.search_space import SearchSpace
from nas.space.sections import SpaceConfig

SPACE = SearchSpace(
    SpaceConfig.model_validate_json(
        json.dumps(
            {
                "stem": {"kind": "small", "width": 8},
                "operators": {
                    **{f"conv{k}": {"op": "conv", "kernel_size": k} for k in (3, 5)},
                    "dw7": {"op": "conv", "kernel_size": 7, "groups": "depthwise"},
                    **{f"inv{k}": {"op": "involution", "kernel_size": k, "group_channels": 4} for k in (3, 5)},
                    **{f"od{n}": {"op": "odconv", "num_kernels": n} for n in (1, 4)},
                    "od5": {"op": "odconv", "kernel_size": 5, "num_kernels": 2},
                    "odp": {"op": "odconv", "kernel_size": 1},
                    "conv1": {"op": "conv", "kernel_size": 1},
                    "sc2": {"op": "scconv", "pooling": 2},
                    **{f"gn{order}": {"op": "gnconv", "order": order} for order in (2, 3, 4)},
                    "gf3": {"op": "gnconv", "order": 3, "filter": "global", "grid": [8, 5]},
                },
                "mix": "per_block",
                "stages": [
                    {"block": ["basic", "gated"], "depth": [1, 2], "width": [8, 12, 16]},
                    {
                        "block": ["bottleneck", "inverted_residual"],
                        "depth": [1, 2],
                        "width": [16, 24, 32],
                        "pointwise": ["conv1", "odp"],
                    },
                ],
            }
        )
    )
)


def drawn(count: int, seed: int = 0) -> list[Genotype]:
    draw = random.Random(seed)
    return [SPACE.decode({name: draw.choice(values) for name, values in SPACE.choices().items()}) for _ in range(count)]


@pytest.fixture(scope="module")
def net() -> Supernet:
    torch.manual_seed(0)
    return Supernet(SPACE, 5, 3)


def test_positions_of_a_smaller_one():
    """Group by group the middle of the window; parts by their names, wherever they lie."""
    full, mine = (Part((groups, side, side), (False, True, True)) for groups, side in ((2, 3), (1, 1)))
    assert indices(((full,),), ((mine,),)) == (slice(4, 5),)
    (found,) = indices(((full,),), ((Part((2, 1, 1), (False, True, True)),),))
    assert torch.is_tensor(found) and found.tolist() == [4, 13]
    named = (first(2, "a"), first(4, "b"))
    (found,) = indices((named,), ((first(1, "a"), first(2, "b")),))
    assert torch.is_tensor(found) and found.tolist() == [0, 2, 3]
    assert union((named,), ((first(5, "b"), first(1, "c")),)) == ((first(2, "a"), first(5, "b"), first(1, "c")),)
    with pytest.raises(ValueError, match="do not fit"):
        indices(((first(2),),), ((first(3),),))
    with pytest.raises(ValueError, match="a window and channels"):
        union(((first(2),),), ((middle(2),),))
    with pytest.raises(ValueError, match="1 dimensions and 2"):
        union(((first(2),),), ((first(2),), (first(2),)))


def test_what_is_put_is_taken_again():
    whole, values = torch.zeros(6, 5), torch.arange(1.0, 7).view(2, 3)
    where = (torch.tensor([1, 4]), slice(1, 4))
    put(whole, where, values)
    assert torch.equal(taken(whole, where), values) and whole.sum() == values.sum()


def test_each_network_computes_what_it_would_with_the_weights_that_it_inherits(net):
    images = torch.randn(4, 3, 8, 8)
    net.train()
    kinds: Counter[str] = Counter()
    for genotype in drawn(40):
        kinds.update(f"{block.kind} {block.operator.op}" for block in genotype.blocks)
        alone = build_model(genotype, 5, 3).train()
        missing, unexpected = alone.load_state_dict(net.inherited(genotype), strict=False)
        assert not unexpected and all("running" in name or "num_batches" in name for name in missing)
        torch.testing.assert_close(net.run(genotype, images), alone(images), rtol=1e-4, atol=1e-5)
    assert len(kinds) == 5 + 5 + 5 + 2, kinds  # an inverted residual takes what is linear in its channels


def test_operators_of_a_kind_share_their_weights_and_others_do_not(net):
    """The middle of the window, the first kernels, the last steps, the first channels."""

    def weights(label: str, width: int = 32) -> dict[str, torch.Tensor]:
        params = SPACE.uniform(label) or {}
        params |= {"stages.1.width": width, "stages.1.block": "bottleneck", "stages.1.pointwise": "conv1"}
        found = net.inherited(SPACE.decode(params))
        return {
            name.removeprefix("stages.1.0."): value for name, value in found.items() if name.startswith("stages.1.0.")
        }

    small, large = weights("conv3"), weights("conv5")
    assert torch.equal(small["conv2.weight"], large["conv2.weight"][:, :, 1:4, 1:4])
    assert torch.equal(small["conv1.weight"], weights("sc2")["conv1.weight"])
    assert torch.equal(weights("conv3", 16)["conv2.weight"], small["conv2.weight"][:4, :4])
    small, large = weights("od1"), weights("od4")
    assert torch.equal(small["conv2.weight"], large["conv2.weight"][:1])
    assert torch.equal(weights("od5")["conv2.weight"][:1, :, :, 1:4, 1:4], small["conv2.weight"])
    small, large = weights("inv3"), weights("inv5")
    windows = large["conv2.conv2.conv.bias"].view(2, 5, 5)
    assert torch.equal(small["conv2.conv2.conv.bias"].view(2, 3, 3), windows[:, 1:4, 1:4])
    small, large = weights("gn2"), weights("gn4")
    assert torch.equal(small["conv2.dwconv.weight"], large["conv2.dwconv.weight"][-12:])
    assert torch.equal(small["conv2.pws.0.weight"], large["conv2.pws.2.weight"])
    assert not torch.equal(weights("conv3")["conv2.weight"][:4, :1], weights("dw7")["conv2.weight"][:4, :, 2:5, 2:5])


def test_operators_start_as_they_do_alone(net):
    """gnConv's constants and involution's kernels are there for each order and window."""
    fresh = Supernet(SPACE, 5, 3)
    for label in SPACE.config.operators:
        params = SPACE.uniform(label)
        if params is None:
            continue
        genotype = SPACE.decode(
            params | {name: max(v) for name, v in SPACE.choices().items() if name.endswith("width")}
        )
        alone = dict(build_model(genotype, 5, 3).named_parameters())
        for name, value in fresh.inherited(genotype).items():
            if "bn" in name or "norm" in name:
                assert torch.equal(value, alone[name]), name
            elif label == "inv5" and name.endswith("conv2.conv2.conv.bias"):
                assert torch.equal(value, alone[name])
            elif value.numel() > 500 and value.std() > 0:
                assert 0.5 < float(value.std() / alone[name].std().detach()) < 2, (label, name)


def test_steps_use_the_largest_the_smallest_and_every_operator_alike(net):
    count = 4 * 12
    paths = [net._drawn(number) for number in range(count)]
    for name, values in SPACE.choices().items():
        used = [params[name] for params in paths]
        if name.endswith((".depth", ".width")):
            assert (
                {*used[::4]} == {max(values)}
                and {*used[1::4]} == {min(values)}
                and {*used[2::4], *used[3::4]} == {*values}
            )
        else:
            for cycle in range(count // len(values)):
                assert {*used[cycle * len(values) : (cycle + 1) * len(values)]} == {*values}, name
    with torch.device("meta"):
        same, other = (Supernet(SPACE, 5, 3, seed=seed) for seed in (0, 1))
    assert paths == [same._drawn(number) for number in range(count)]
    assert paths != [other._drawn(number) for number in range(count)]


def test_training_goes_on_after_an_evaluation_that_met_a_network_first():
    _, space = load_experiment("search_spaces/quickstart.yaml", [])
    fresh, images = Supernet(space, 10, 1, num_paths=1).eval(), torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        seen = [fresh(images) for _ in range(20)]
    fresh.eval()
    with torch.inference_mode():
        assert all(torch.equal(fresh(images), other) for other in seen)
    fresh.train()
    for _ in range(20):
        fresh(images).sum().backward()
    other = Supernet(space, 10, 1)
    other.load_state_dict(fresh.state_dict())
    assert other.passes == 20


def test_what_it_does_not_have_is_refused(net):
    with pytest.raises(NotShared, match=r"stem\.0\.weight"):
        net.inherited(PUBLISHED["rednet26"])
    _, space = load_experiment("search_spaces/quickstart.yaml", ["space.operators.conv3.groups=4"])
    assert Supernet(space, 10, 1)(torch.randn(2, 1, 32, 32)).shape == (2, 10)  # groups of other widths as well
