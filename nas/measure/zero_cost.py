"""Zero-cost scores: what an untrained network says about how well it would train, from one batch of images.

Higher is better in all of them. A score is a guess: `nas bench evaluators` shows how well each ranks trained networks.

grad_norm, snip, synflow as in https://arxiv.org/abs/2101.08134; jacob_cov and naswot: the first and the last version of
https://arxiv.org/abs/2006.04647; zico: https://arxiv.org/abs/2301.11300.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish)
PARTS = 4
"""Parts of the batch between which zico compares gradients."""
SMALLEST_BATCH = 2 * PARTS


def zero_cost_scores(
    model: nn.Module, images: Tensor, labels: Tensor, names: Iterable[str] | None = None
) -> dict[str, float]:
    """Scores by name (all of `SCORES`, or `names`) of a network as it starts, on images [N, C, H, W] and class numbers
    [N] on its device. The network is left as it is, and the same inputs give the same scores.

    A score that the network does not have is NaN: naswot without an activation whose sign could be read, zico where no
    gradient varies. Raises ValueError for an unknown name and for fewer images than `SMALLEST_BATCH`.
    """
    wanted = list(SCORES if names is None else names)
    for name in wanted:
        if name not in SCORES:
            raise ValueError(f"zero-cost score = {name!r}: allowed are {', '.join(SCORES)}")
    if len(images) < SMALLEST_BATCH:
        raise ValueError(f"images: {len(images)}: zero-cost scores need at least {SMALLEST_BATCH}")
    found = {}
    for name in wanted:
        trial = copy.deepcopy(model).train()  # batch statistics: those of a fresh network say nothing
        with torch.enable_grad():
            value = SCORES[name](trial, images, labels)
        found[name] = value if math.isfinite(value) else math.nan
    return found


def grad_norm(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Sum over the weights of the Euclidean norm of their gradients."""
    return float(sum(gradient.norm() for _, gradient in _gradients(model, images, labels)))


def snip(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Sum over the weights of |weight x gradient|: what the loss would lose with them."""
    return float(sum((weight * gradient).abs().sum() for weight, gradient in _gradients(model, images, labels)))


def synflow(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Logarithm of the sum of weight x gradient of the outputs' sum, with all parameters made positive, norms taken out
    and an image of ones: of a plain network, the sum over all paths of the products of their weights."""
    model = without_norms(model).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    output = model(torch.ones_like(images[:1], dtype=torch.float64)).sum()
    weights = _weights(model)
    gradients = torch.autograd.grad(output, weights, allow_unused=True)
    pairs = zip(weights, gradients, strict=True)
    flow = sum(float((weight.detach() * gradient).abs().sum()) for weight, gradient in pairs if gradient is not None)
    return math.log(flow) if flow > 0 else math.nan


def naswot(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Logarithm of the determinant of the kernel that counts, for every two images, the activations with equal sign."""
    kernel = images.new_zeros(len(images), len(images), dtype=torch.float64)

    def compare(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        code = (inputs[0].detach().flatten(1) > 0).to(torch.float32)
        kernel.add_(code @ code.T + (1 - code) @ (1 - code).T)

    handles = [part.register_forward_pre_hook(compare) for part in model.modules() if isinstance(part, ACTIVATIONS)]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return float(torch.linalg.slogdet(kernel)[1]) if handles else math.nan


def jacob_cov(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """How little the gradients of different images correlate: - sum (log(e + k) + 1 / (e + k)) over the eigenvalues e
    of their correlation matrix, k = 1e-5."""
    images = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(images).sum(), images)
    correlation = torch.corrcoef(gradient.flatten(1).double())
    if not bool(correlation.isfinite().all()):
        return math.nan
    values = torch.linalg.eigvalsh(correlation) + 1e-5
    return -float((values.log() + 1 / values).sum())


def zico(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Sum over the weights of log(sum of mean |gradient| / its standard deviation), over `PARTS` parts of the batch."""
    parts = zip(images.chunk(PARTS), labels.chunk(PARTS), strict=True)
    by_part = [[gradient.abs() for _, gradient in _gradients(model, *part)] for part in parts]
    found = []
    for gradients in zip(*by_part, strict=True):
        together = torch.stack(gradients).double()
        spread = together.std(dim=0, correction=0)
        varies = spread > 0
        if bool(varies.any()):
            found.append(math.log(float((together.mean(dim=0)[varies] / spread[varies]).sum())))
    return sum(found) if found else math.nan


def combination(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Logarithm of snip x grad_norm x synflow."""
    flow = synflow(copy.deepcopy(model), images, labels)
    pairs = list(_gradients(model, images, labels))
    saliency = float(sum((weight * gradient).abs().sum() for weight, gradient in pairs))
    norm = float(sum(gradient.norm() for _, gradient in pairs))
    return flow + math.log(saliency * norm) if saliency * norm > 0 else math.nan


SCORES: dict[str, Callable[[nn.Module, Tensor, Tensor], float]] = {
    "synflow": synflow,
    "naswot": naswot,
    "jacob_cov": jacob_cov,
    "zico": zico,
    "snip": snip,
    "grad_norm": grad_norm,
    "combination": combination,
}


def without_norms(model: nn.Module) -> nn.Module:
    """The network, changed: nothing in the place of each norm."""
    for part in list(model.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, NORMS):
                setattr(part, name, nn.Identity())
    return model


def _weights(model: nn.Module) -> list[nn.Parameter]:
    """What convolutions and dense layers multiply by: not biases, nor the factors of norms and branches."""
    return [parameter for parameter in model.parameters() if parameter.dim() > 1]


def _gradients(model: nn.Module, images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights and gradients of the cross-entropy; zeros where the loss does not depend on a weight."""
    weights = _weights(model)
    found = torch.autograd.grad(F.cross_entropy(model(images), labels), weights, allow_unused=True)
    for weight, gradient in zip(weights, found, strict=True):
        yield weight.detach(), torch.zeros_like(weight) if gradient is None else gradient
