"""fuse_for_inference: the same outputs for every operator in every block, and what is gone from the network."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from test_model import OPERATORS
from torch import nn

from nas.config.sections import ObjectiveConfig
from nas.measure.cost import measure
from nas.measure.latency import measure_latency
from nas.networks.blocks import GatedBlock
from nas.networks.model import Network, build_model, fuse_for_inference
from nas.networks.published import PUBLISHED
from nas.operators.gnconv import GlobalLocalFilter
from nas.space import specs
from nas.space.genotype import Genotype

FITTING = [(b, o) for b, o in itertools.product(specs.BLOCKS, OPERATORS) if specs.fits(b, OPERATORS[o])]


ACTIVATIONS_LEFT = {
    ("basic", "conv"): 0,
    ("basic", "depthwise"): 3,
    ("basic", "involution"): 3,
    "basic": 4,
    ("bottleneck", "conv"): 0,
    "bottleneck": 2,
    "inverted_residual": 2,
    "gated": 0,
}
"""How many no convolution took over: those behind other operators, and behind their sums with a shortcut."""


def scrambled(model: nn.Module) -> nn.Module:
    """Statistics, factors and shifts of norms, and layer scales, away from where they start."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, GatedBlock):
            for scale in (module.scale1, module.scale2):
                if scale is not None:
                    nn.init.uniform_(scale, 0.5, 1.5)
    return model.eval()


def small(block: str, operator: str, width: int = 32) -> Network:
    spec, kind = OPERATORS[operator], specs.BLOCKS[block]
    stages = ((kind(width=16, operator=spec),), (kind(width=width, operator=spec, stride=2),))
    torch.manual_seed(0)
    return build_model(Genotype(stem=specs.Stem(kind="small", width=16), stages=stages), 5, 3)


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def activations(model: nn.Module) -> int:
    return sum(isinstance(module, nn.ReLU | nn.ReLU6) for module in model.modules())


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("block", "operator"), FITTING)
@torch.no_grad()
def test_the_same_outputs(block, operator):
    model = scrambled(small(block, operator)).double()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    expected = model(x)
    fused = fuse_for_inference(model)
    assert relative(fused(x), expected) < 1e-12
    # nothing stands before a norm behind an involution of equal widths; its own norms are gone
    left = {"basic": 3, "bottleneck": 2, "inverted_residual": 2}.get(block, 0) if operator == "involution" else 0
    assert norms(fused) == left
    assert norms(model) > norms(fused) or block == "gated"
    assert all(module.scale1 is module.scale2 is None for module in fused.modules() if isinstance(module, GatedBlock)
               and operator not in ("involution", "scconv"))  # fmt: skip
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert activations(fused) == ACTIVATIONS_LEFT.get((block, operator), ACTIVATIONS_LEFT[block])
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize(
    ("block", "operator"), [("bottleneck", "odconv"), ("bottleneck", "scconv"), ("gated", "gnconv"), ("basic", "conv")]
)
@torch.no_grad()
def test_half_precision_loses_no_more(block, operator):
    model, x = scrambled(small(block, operator)), torch.randn(4, 3, 9, 7)
    exact, fused = copy.deepcopy(model).double()(x.double()), fuse_for_inference(model)
    with torch.autocast("cpu", torch.bfloat16):
        plain, folded = (relative(form(x).double(), exact) for form in (model, fused))
    assert folded < 1.5 * plain + 1e-3


@torch.no_grad()
def test_a_published_network():
    model, x = scrambled(build_model(PUBLISHED["od_mobilenetv2_050_1x"], 10)), torch.randn(1, 3, 33, 32)
    fused = fuse_for_inference(model)
    assert norms(fused) == 0 and relative(fused(x), model(x)) < 1e-4


@pytest.mark.parametrize(("grid", "kept"), [((2, 2), True), ((4, 3), False), ((2, 3), False)])
@torch.no_grad()
def test_global_filters_keep_their_matrices_where_one_image_is_filtered_by_them(grid, kept):
    """On a CPU those of maps of four pixels, on a GPU up to 256."""
    torch.manual_seed(0)
    model = GlobalLocalFilter(6, grid).eval()
    fused = fuse_for_inference(model)
    assert (fused.matrices is not None) == kept and fused.state_dict().keys() == model.state_dict().keys()
    for size in ((2, 2), (2, 3), (4, 4)):
        x = torch.randn(3, 6, *size)
        torch.testing.assert_close(fused(x), model(x))
    other = GlobalLocalFilter(6, grid).eval()
    fused.load_state_dict(other.state_dict())
    x = torch.randn(3, 6, 2, 2)
    torch.testing.assert_close(fused(x), other(x))


def test_latency_of_the_fused_form():
    model = small("bottleneck", "odconv")
    seen = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda *_: seen.append("norm"))
    for form, ran in (("fused", False), ("plain", True)):
        seen.clear()
        costs = measure(model, (3, 8, 8), [ObjectiveConfig.model_validate({"name": "latency_ms", "form": form})], "cpu")
        assert costs["latency_ms"] > 0 and bool(seen) == ran
    with pytest.raises(ValueError, match="form: fused is for latency_ms, num_macs has plain only"):
        ObjectiveConfig(name="num_macs", form="fused")


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_cpu_has_no_graph_to_replay(device):
    with pytest.raises(ValueError, match="runtime: graph replays a CUDA graph, which a CPU does not have; it goes"):
        ObjectiveConfig(name="latency_ms", runtime="graph", device=device)
    assert ObjectiveConfig(name="latency_ms", runtime="graph", device="cuda").runtime == "graph"
    with pytest.raises(ValueError, match="runtime = graph on cpu: allowed is cuda"):
        measure_latency(small("bottleneck", "conv"), (3, 8, 8), "cpu", runtime="graph")
