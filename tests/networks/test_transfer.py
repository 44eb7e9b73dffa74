"""Weights that a network takes over from a trained one of other widths, windows, depths and operators."""

from __future__ import annotations

import random

import pytest
import torch

from helpers.run_samples import experiment
from nas.networks.model import build_model
from nas.networks.shared.transfer import inherit
from nas.space import specs
from nas.space.genotype import Genotype
from nas.space.search_space import SearchSpace


def network(*widths: int, kind=specs.Basic, stem: int = 8, **operators) -> Genotype:
    """A stage of one block for each width; `operator` of all."""
    operator = operators.get("operator", specs.Conv())
    return Genotype(
        stem=specs.Stem(kind="small", width=stem), stages=tuple((kind(width=w, operator=operator),) for w in widths)
    )


def trained(genotype: Genotype):
    """With statistics that are not those of the start."""
    model = build_model(genotype, 5, 3).train()
    for _ in range(3):
        model(torch.randn(8, 3, 16, 16))
    return model.eval()


def heir(genotype: Genotype, model, donor: Genotype):
    made = build_model(genotype, 5, 3)
    return made, inherit(made, genotype, model.state_dict(), donor, 5, 3)


IMAGES = torch.randn(4, 3, 16, 16)


def test_the_same_network_is_the_donor():
    genotype = network(8, 16)
    donor = trained(genotype)
    model, share = heir(genotype, donor, genotype)
    assert share == 1.0
    for name, tensor in donor.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor) or name.endswith("num_batches_tracked"), name


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_a_wider_network_computes_what_the_donor_does(kernel_size):
    """Channels that the donor does not have, and outer pixels of windows, begin without a say."""
    small, large = network(8, 12), network(16, 24, stem=16, operator=specs.Conv(kernel_size=kernel_size))
    donor = trained(small)
    model, share = heir(large, donor, small)
    assert 0.05 < share < 0.5
    torch.testing.assert_close(model.eval()(IMAGES), donor(IMAGES), rtol=1e-4, atol=1e-5)
    assert model.get_parameter("stages.1.0.conv1.weight")[12:, :8].abs().sum() > 0, "new filters are not dead"


def test_a_larger_window_that_a_network_makes_itself_begins_as_the_smaller():
    small, large = (network(8, 12, operator=specs.Involution(kernel_size=size)) for size in (3, 5))
    donor = trained(small)
    model, share = heir(large, donor, small)
    assert 0.5 < share < 1
    torch.testing.assert_close(model.eval()(IMAGES), donor(IMAGES), rtol=1e-4, atol=1e-5)


def test_new_filters_begin_as_they_would():
    small, large = network(8), network(16)
    fresh = build_model(large, 5, 3)
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    donor = trained(small)
    inherit(fresh, large, donor.state_dict(), small, 5, 3)
    weight, of_donor = fresh.get_parameter("stages.0.0.conv2.weight"), donor.get_parameter("stages.0.0.conv2.weight")
    assert torch.equal(weight[:8, :8], of_donor) and weight[:, 8:].abs().sum() == 0
    assert torch.equal(weight[8:, :8], before["stages.0.0.conv2.weight"][8:, :8])
    variance = fresh.state_dict()["stages.0.0.norm2.running_var"]
    assert torch.equal(variance[:8], donor.state_dict()["stages.0.0.norm2.running_var"])


def test_a_narrower_network_has_the_first_channels_and_the_middle_of_windows():
    large, small = network(16, operator=specs.Conv(kernel_size=5)), network(8, operator=specs.Conv(kernel_size=3))
    donor = trained(large)
    model, share = heir(small, donor, large)
    assert share == 1.0
    weight = donor.get_parameter("stages.0.0.conv2.weight")
    assert torch.equal(model.get_parameter("stages.0.0.conv2.weight"), weight[:8, :8, 1:4, 1:4])


def test_what_is_not_in_common_begins_afresh():
    """Another operator, another kind of block, a stage that the donor does not have."""
    donor_genotype = network(8, operator=specs.Involution())
    donor = trained(donor_genotype)
    genotype = network(8, 8)
    model = build_model(genotype, 5, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    share = inherit(model, genotype, donor.state_dict(), donor_genotype, 5, 3)
    assert 0 < share < 0.5
    for name in ("stages.0.0.conv1.weight", "stages.1.0.conv2.weight"):
        assert torch.equal(model.state_dict()[name], before[name]), name
    assert torch.equal(model.state_dict()["stem.0.weight"], donor.state_dict()["stem.0.weight"])


def test_random_networks_of_a_space_inherit_from_one_another():
    """All kinds, operators and sizes: a finite network, trainable, with a share of what it has."""
    space, draw = SearchSpace(experiment().space), random.Random(0)
    shares = []
    for _ in range(30):
        one, other = (
            space.decode({name: draw.choice(values) for name, values in space.choices().items()}) for _ in range(2)
        )
        model, share = heir(one, trained(other), other)
        shares.append(share)
        loss = model.train()(IMAGES).square().sum()
        loss.backward()
        assert torch.isfinite(loss)
    assert min(shares) > 0 and max(shares) < 1
