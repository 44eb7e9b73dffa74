"""Zero-cost scores against hand-made values, on networks of every operator."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.measure.zero_cost import PARTS, SCORES, zero_cost_scores
from nas.networks.model import build_model
from nas.space import specs
from nas.space.genotype import Genotype
from nas.training.process_state import reset_process

OPERATORS = (specs.Conv(), specs.Involution(), specs.ODConv(), specs.SCConv(pooling=2), specs.GnConv(order=3))


class Two(nn.Module):
    """Two dense layers with a ReLU and a norm between them, on images of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(3, 256, bias=False), nn.BatchNorm1d(256)
        self.act, self.last = nn.ReLU(), nn.Linear(256, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.act(self.norm(self.first(x.flatten(1)))))


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(16, 3, 1, 1, generator=random), torch.randint(4, (16,), generator=random)


@pytest.fixture
def model() -> Two:
    torch.manual_seed(0)
    return Two()


def score(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], name: str) -> float:
    images, labels = batch
    return zero_cost_scores(network, images, labels, [name])[name]


def test_scores_of_gradients_are_those_of_the_loss(model, batch):
    images, labels = batch
    F.cross_entropy(model(images), labels).backward()
    pairs = [(weight.detach(), weight.grad) for weight in (model.first.weight, model.last.weight)]
    found = zero_cost_scores(model, images, labels, ["grad_norm", "snip"])
    assert found["grad_norm"] == pytest.approx(sum(float(gradient.norm()) for _, gradient in pairs), rel=1e-6)
    assert found["snip"] == pytest.approx(sum(float((w * gradient).abs().sum()) for w, gradient in pairs), rel=1e-6)


def test_synflow_sums_the_products_along_all_paths(model, batch):
    """Each layer's weights carry the whole flow once; the norm, which a batch statistic would change, is out."""
    paths = model.last.weight.detach().abs().double() @ model.first.weight.detach().abs().double()
    with torch.no_grad():
        model.norm.running_var.fill_(7.0)
    assert score(model, batch, "synflow") == pytest.approx(math.log(2 * float(paths.sum())))


def test_naswot_compares_the_signs_of_activations(model, batch):
    images, labels = batch
    with torch.no_grad():
        code = (model.norm(model.first(images.flatten(1))) > 0).double()
    equal = torch.tensor([[float((a == b).sum()) for b in code] for a in code], dtype=torch.float64)
    found = zero_cost_scores(model, images, labels, ["naswot"])["naswot"]
    expected = float(torch.linalg.slogdet(equal)[1])
    assert math.isfinite(found) and found == pytest.approx(expected)
    model.act = nn.Identity()
    assert math.isnan(zero_cost_scores(model, images, labels, ["naswot"])["naswot"])


def test_jacob_cov_is_low_where_all_images_have_one_gradient(batch):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3, 4))
    alike = score(linear, batch, "jacob_cov")
    values = torch.tensor([16.0] + [0.0] * 15, dtype=torch.float64) + 1e-5
    assert alike == pytest.approx(-float((values.log() + 1 / values).sum()), rel=1e-3)
    assert score(Two(), batch, "jacob_cov") > alike


def test_zico_compares_the_gradients_of_parts(batch):
    images, labels = batch
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3, 4, bias=False))
    (weight,) = linear.parameters()
    parts = zip(images.chunk(PARTS), labels.chunk(PARTS), strict=True)
    losses = [F.cross_entropy(x.flatten(1) @ weight.T, y) for x, y in parts]
    together = torch.stack([torch.autograd.grad(loss, weight)[0].abs().double() for loss in losses])
    expected = float((together.mean(0) / together.std(0, correction=0)).sum().log())
    assert zero_cost_scores(linear, images, labels, ["zico"])["zico"] == pytest.approx(expected, rel=1e-5)
    assert math.isnan(zero_cost_scores(linear, images[:1].expand(8, 3, 1, 1), labels[:1].expand(8))["zico"])


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.op)
@pytest.mark.parametrize("block", [specs.Bottleneck, specs.Gated])
def test_every_operator_has_every_score_again_and_stays_as_it_is(operator, block):
    genotype = Genotype(stem=specs.Stem(kind="small", width=16), stages=((block(width=16, operator=operator),),))
    reset_process(0, num_threads=1)
    model = build_model(genotype, 10, 1)
    images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = zero_cost_scores(model, images, labels)
    assert list(found) == list(SCORES) and all(math.isfinite(value) for value in found.values()), found
    assert zero_cost_scores(model, images, labels) == found
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_asked_wrongly_is_named(model, batch):
    with pytest.raises(ValueError, match="zero-cost score = 'luck': allowed are synflow, naswot"):
        score(model, batch, "luck")
    with pytest.raises(ValueError, match="images: 7: zero-cost scores need at least 8"):
        zero_cost_scores(model, batch[0][:7], batch[1][:7])
