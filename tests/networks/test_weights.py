"""Weights in networks that differ from where they come from: what fits, what is adapted, what is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.retrainings import mixed_network
from nas.networks.model import Network, build_model
from nas.networks.published_checkpoint import CheckpointError
from nas.networks.weights import load_exactly, load_fitting, resized_filter
from nas.operators.gnconv import GlobalLocalFilter
from nas.space import specs
from nas.space.genotype import Genotype
from nas.space.published import PUBLISHED
from nas.training.checkpoint import save_checkpoint
from nas.training.result import save_weights


@pytest.fixture(scope="module")
def trained() -> Network:
    """Ten classes, three channels, weights that are none of a start."""
    return other_weights(build_model(mixed_network(8), 10, 3))


def other_weights(model: Network) -> Network:
    torch.manual_seed(1)
    for tensor in model.parameters():
        tensor.data.add_(0.1 * torch.randn_like(tensor))
    return model


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_weights(trained, path)
    return path


def test_another_number_of_classes_keeps_all_but_the_classifier(trained, file):
    model = build_model(mixed_network(8), 4, 3)
    start = model.head.fc.weight.clone()  # type: ignore[union-attr, operator]
    fit = load_fitting(model, file)
    assert torch.equal(model.head.fc.weight, start)  # type: ignore[union-attr]
    own, theirs = model.state_dict(), trained.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in own if not name.startswith("head.fc."))
    assert fit.fresh == ("head.fc.weight [4, 8], there [10, 8]", "head.fc.bias [4], there [10]") and not fit.unused
    assert f"weights: {len(own) - 2} of {len(own)} entries from x" in fit.lines("x")[0]


def test_classes_that_both_know_keep_their_rows(trained, file):
    """Also where there are as many classes, in another order: a row belongs to a name, not to a number."""
    theirs = [f"c{number}" for number in range(10)]
    for names in (["c7", "new", "c2"], theirs[::-1]):
        model = build_model(mixed_network(8), len(names), 3)
        start = model.head.fc.weight.clone()  # type: ignore[union-attr, operator]
        load_fitting(model, file, names, theirs)
        for row, name in enumerate(names):
            expected = trained.head.fc.weight[theirs.index(name)] if name in theirs else start[row]  # type: ignore[union-attr, index]
            assert torch.equal(model.head.fc.weight[row], expected)  # type: ignore[union-attr, index]


@pytest.mark.parametrize("channels", [1, 4])
def test_the_first_convolution_takes_other_channels_as_timm_adapts_it(trained, file, channels):
    """So that grey images give with one channel what they give with three."""
    from timm.models import adapt_input_conv

    model = build_model(mixed_network(8), 10, channels)
    fit = load_fitting(model, file)
    assert len(fit.adapted) == 1 and fit.adapted[0].startswith("stem.") and not fit.fresh
    own, theirs = model.state_dict(), trained.state_dict()
    assert torch.allclose(own["stem.0.weight"], adapt_input_conv(channels, theirs["stem.0.weight"]))
    if channels == 1:
        grey = torch.randn(2, 1, 16, 16)
        with torch.no_grad():
            assert torch.allclose(model.eval()(grey), trained.eval()(grey.expand(-1, 3, -1, -1)), atol=1e-5)


def test_a_global_filter_of_another_grid_computes_what_the_first_does_at_that_size(tmp_path):
    def network(grid: tuple[int, int]) -> Network:
        block = specs.Gated(width=8, operator=specs.GnConv(order=2, filter="global", grid=grid), layer_scale=1.0)
        return build_model(Genotype(stem=specs.Stem(kind="small", width=8), stages=((block,),)), 3, 1)

    small, large = other_weights(network((8, 5))), network((12, 7))
    save_weights(small, tmp_path / "small.safetensors")
    fit = load_fitting(large, tmp_path / "small.safetensors")
    assert [line.split()[1:] for line in fit.adapted] == [
        ["[6,", "8,", "5,", "2]", "->", "[6,", "12,", "7,", "2]"]
    ] and not fit.fresh
    images = torch.randn(2, 1, 12, 12)
    with torch.no_grad():
        assert torch.allclose(large.eval()(images), small.eval()(images), atol=1e-5)
    layer = next(module for module in small.modules() if isinstance(module, GlobalLocalFilter))
    assert torch.equal(resized_filter(layer.complex_weight, (12, 7)), layer._weight(12, 7))


def test_files_of_torch_of_authors_and_of_a_training_are_read(trained, tmp_path):
    """Wrapped as torch programs do; a checkpoint of a training gives its average; RedNet in its authors' names."""
    state = trained.state_dict()
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "wrapped.pth")
    other = {name: value + 1 for name, value in state.items()}
    saved = save_checkpoint(tmp_path / "checkpoints", {"model": other, "average": state, "progress": {}})
    for path in (tmp_path / "wrapped.pth", saved):
        model = build_model(mixed_network(8), 10, 3)
        load_exactly(model, path)
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    network = build_model(PUBLISHED["mobilenetv2_050"], 1000, 3)
    theirs = other_weights(build_model(PUBLISHED["mobilenetv2_050"], 1000, 3)).state_dict()
    from nas.networks.published_keys import published_keys

    keys = published_keys("mobilenetv2_050", network.genotype, list(theirs))
    torch.save({parts[0]: theirs[own] for own, parts in keys.items()}, tmp_path / "authors.pth")
    assert load_fitting(network, tmp_path / "authors.pth").num_loaded == len(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in network.state_dict().items())


def test_what_does_not_fit_is_said_and_nothing_at_all_is_refused(trained, file, tmp_path):
    narrow = build_model(mixed_network(4), 10, 3)
    with pytest.raises(CheckpointError, match=r"not the weights of this network: head.* is \[10, 8\], not \[10, 4\]"):
        load_exactly(narrow, file)
    genotype = mixed_network(8)
    first, second = genotype.stages
    deeper = build_model(replace(genotype, stages=(first, (*second, replace(second[0], stride=1)))), 10, 3)
    fit = load_fitting(deeper, file)
    assert fit.fresh and all(name.startswith("stages.1.1.") for name in fit.fresh) and not fit.unused
    shallow = build_model(replace(genotype, stages=(first[:2],)), 10, 3)
    assert all(
        name.startswith(("stages.0.2.", "stages.0.3.", "stages.1.")) for name in load_fitting(shallow, file).unused
    )
    torch.save({"other.weight": torch.ones(3)}, tmp_path / "other.pth")
    before = [value.clone() for value in narrow.state_dict().values()]
    with pytest.raises(CheckpointError, match=r"nothing in it fits the stages of this network; it has other\.weight"):
        load_fitting(narrow, tmp_path / "other.pth")
    assert all(torch.equal(value, kept) for value, kept in zip(narrow.state_dict().values(), before, strict=True))
