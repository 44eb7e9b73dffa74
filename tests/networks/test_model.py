"""build_model: every block kind, stem and head; published parameter counts; small maps."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from nas.networks.blocks import DropPath
from nas.networks.model import build_model
from nas.networks.published import PUBLISHED
from nas.space import specs
from nas.space.genotype import Genotype

OPERATORS = {
    "conv": specs.Conv(),
    "depthwise": specs.Conv(groups="depthwise"),
    "involution": specs.Involution(kernel_size=3),
    "odconv": specs.ODConv(num_kernels=2),
    "scconv": specs.SCConv(pooling=2),
    "gnconv": specs.GnConv(order=2),
    "global": specs.GnConv(order=2, filter="global", grid=(4, 3)),
}


@pytest.mark.parametrize("block, operator", list(itertools.product(specs.BLOCKS, OPERATORS)))
def test_every_block_takes_every_operator_that_fits(block, operator):
    spec = OPERATORS[operator]
    if not specs.fits(block, spec):
        with pytest.raises(ValueError, match="depthwise"):
            specs.BLOCKS[block](width=16, operator=spec)
        return
    stages = (
        (specs.BLOCKS[block](width=16, operator=spec),),
        (specs.BLOCKS[block](width=32, operator=spec, stride=2), specs.BLOCKS[block](width=32, operator=spec)),
    )
    torch.manual_seed(0)
    model = build_model(Genotype(stem=specs.Stem(kind="small", width=16), stages=stages), 5, 1)
    features = model.forward_features(torch.randn(2, 1, 9, 7))
    assert features.shape[:2] == (2, 32)
    assert features.shape[2:] == ((4, 3) if block == "gated" else (5, 4))
    loss = model(torch.randn(2, 1, 9, 7)).square().sum()
    loss.backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not unused
    model.eval()
    assert model(torch.randn(1, 1, 1, 1)).shape == (1, 5)


@pytest.mark.parametrize(
    "kind, stride", [("resnet", 4), ("deep", 4), ("rednet", 4), ("patchify", 4), ("mobilenet", 2), ("small", 1)]
)
def test_stems(kind, stride):
    stem = specs.Stem(kind=kind, width=16)
    genotype = Genotype(stem=stem, stages=((specs.Basic(width=16, operator=specs.Conv()),),))
    model = build_model(genotype, 3)
    assert model.forward_features(torch.randn(1, 3, 32, 32)).shape == (1, 16, 32 // stride, 32 // stride)


@pytest.mark.parametrize("kind", ["linear", "norm", "mobilenet"])
def test_heads(kind):
    head = specs.Head(kind=kind, width=40 if kind == "mobilenet" else None, dropout=0.1)
    genotype = Genotype(
        stem=specs.Stem(kind="small", width=8), stages=((specs.Basic(width=8, operator=specs.Conv()),),), head=head
    )
    model = build_model(genotype, 3).eval()
    x = torch.randn(2, 3, 8, 8)
    assert model(x).shape == (2, 3)
    assert build_model(genotype, 0).eval()(x).shape == (2, 40 if kind == "mobilenet" else 8)


def test_zero_init_starts_at_the_shortcut():
    block = specs.Bottleneck(width=16, operator=specs.Involution(kernel_size=3), zero_init=True)
    model = build_model(Genotype(stem=specs.Stem(kind="small", width=16), stages=((block,),))).eval()
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(model.forward_features(x), model.stem(x))


def test_drop_path_grows_and_acts_in_training_only():
    block = specs.Basic(width=8, operator=specs.Conv())
    model = build_model(
        Genotype(stem=specs.Stem(kind="small", width=8), stages=((block, block, block),)), 2, drop_path=0.4
    )
    assert [part.rate for part in model.modules() if isinstance(part, DropPath)] == [0.0, 0.2, 0.4]
    x = torch.randn(64, 3, 8, 8)
    model.train()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_drop_path_keeps_the_mean():
    """Of a whole sample all or nothing, what is kept divided by the share that is."""
    found = DropPath(0.75).train()(torch.ones(20_000, 2, 1, 1))
    assert set(found.unique().tolist()) == {0.0, 4.0} and torch.equal(found[:, 0], found[:, 1])
    assert abs(found.mean().item() - 1) < 0.1


def test_published_genotypes_are_canonical():
    for name, genotype in PUBLISHED.items():
        again = Genotype.from_json(genotype.to_json())
        assert again == genotype and again.key == genotype.key, name
    assert len({genotype.key for genotype in PUBLISHED.values()}) == len(PUBLISHED)
    with pytest.raises(KeyError, match="rednet50"):
        PUBLISHED["rednet51"]


@pytest.mark.parametrize("name", ["rednet26", "od_resnet18_1x", "scnet50_v1d", "hornet_tiny_7x7", "hornet_tiny_gf"])
def test_a_network_builds_and_runs_without_memory(name):
    """As tools that plan memory do it: tensors that have a shape and a device alone."""
    with FakeTensorMode():
        logits = build_model(PUBLISHED[name], num_classes=7)(torch.empty(2, 3, 224, 224))
    assert isinstance(logits, FakeTensor) and logits.shape == (2, 7)


@pytest.mark.parametrize("name", ["od_resnet18_1x", "hornet_tiny_7x7"])
def test_a_seed_gives_the_same_weights_on_any_number_of_threads(name):
    drawn, before = [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(5)
        drawn.append(build_model(PUBLISHED[name]).state_dict())
    torch.set_num_threads(before)
    assert all(torch.equal(drawn[0][key], drawn[1][key]) for key in drawn[0])
    assert all(value.std() > 0 for key, value in drawn[0].items() if value.dim() > 1)
