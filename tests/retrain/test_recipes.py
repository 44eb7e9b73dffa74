"""Recipes against timm: the learning rate of every step, parameter groups, optimizers, mixing, losses, averages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from helpers.trainings import operator_net
from nas.base.errors import UserError
from nas.config.document import ConfigError
from nas.config.reading import loads
from nas.config.sections import RetrainConfig
from nas.config.training import recipe, recipe_names, resolution
from nas.training.mixing import LOSSES, distillation, mix, soft_targets
from nas.training.optimizer import WeightAverage, build_optimizer, layer_numbers, parameter_groups
from nas.training.schedule import learning_rate, temperature

STEPS = 3
PAPERS = {  # optimizer, learning rate, weight decay, batch size, epochs: once more, from the papers
    "a1": ("lamb", 5e-3, 0.01, 2048, 600),
    "a2": ("lamb", 5e-3, 0.02, 2048, 300),
    "a3": ("lamb", 8e-3, 0.02, 2048, 100),
    "convnext300": ("adamw", 4e-3, 0.05, 4096, 300),
    "hornet": ("adamw", 4e-3, 0.05, 4096, 300),
    "rednet130": ("sgd", 0.8, 1e-4, 2048, 130),
    "odconv100": ("sgd", 0.1, 1e-4, 256, 100),
    "scnet100": ("sgd", 0.1, 1e-4, 256, 100),
    "mobilenet150": ("sgd", 0.05, 4e-5, 256, 150),
    "short": ("sgd", 1.7, 1e-4, 1024, 16),
    "finetune": ("adamw", 5e-4, 0.05, 512, 30),
    "hornet384": ("adamw", 5e-5, 1e-8, 512, 30),
}


def named(name: str, **changes) -> RetrainConfig:
    return RetrainConfig.model_validate({"recipe": name, **changes})


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return operator_net(drop_path=0.0)


def test_all_recipes_are_there():
    assert recipe_names() == sorted(PAPERS)


@pytest.mark.parametrize("name", PAPERS)
def test_values_are_the_published_ones(name):
    config = named(name)
    found = config.optimizer, config.learning_rate, config.weight_decay, config.batch_size, config.epochs
    assert found == PAPERS[name]


@pytest.mark.parametrize("name", PAPERS)
def test_every_learning_rate_is_timms(name):
    """Each step of the whole training and of a cool-down, against the scheduler that timm builds from equal values."""
    from timm.scheduler import create_scheduler_v2

    config = named(name, cooldown_epochs=2)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=config.schedule,
        num_epochs=config.epochs,
        decay_epochs=30,
        decay_rate=config.decay_rate,
        min_lr=config.final_learning_rate,
        warmup_epochs=int(config.warmup_epochs),
        warmup_lr=config.warmup_learning_rate or 0.0,
        cooldown_epochs=0,
        step_on_epochs=config.update == "epoch",
        updates_per_epoch=STEPS,
    )
    assert scheduler is not None
    expected = []
    for step in range(config.num_epochs * STEPS):
        if config.update == "epoch":
            scheduler.step(step // STEPS)
        else:
            scheduler.step_update(step)
        expected.append(optimizer.param_groups[0]["lr"])
    ours = [learning_rate(config, step, STEPS) for step in range(config.num_epochs * STEPS)]
    assert np.allclose(ours, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", PAPERS)
def test_three_steps_of_the_optimizer_are_timms(name, network):
    """Groups, weight decay and update rule: the weights agree after steps with the same gradients."""
    import copy

    from timm.optim import create_optimizer_v2

    config = named(name)
    ours, theirs = copy.deepcopy(network), copy.deepcopy(network)
    mine = build_optimizer(ours, config)
    opt = {"sgd": "sgd" if config.nesterov else "momentum"}.get(config.optimizer, config.optimizer)
    reference = create_optimizer_v2(
        theirs,
        opt=opt,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        filter_bias_and_bn=not config.decay_all,
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for first, second in zip(ours.parameters(), theirs.parameters(), strict=True):
            first.grad = torch.randn(first.shape, generator=generator) * 1e-2
            second.grad = first.grad.clone()
        mine.step()
        reference.step()
    for (label, first), second in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(first, second, rtol=1e-5, atol=1e-7), label


@pytest.mark.parametrize("name", ["rmsproptf", "lion", "nadamw", "lookahead_sgd"])
def test_what_timm_knows_by_name_takes_its_steps(name, network):
    """With the groups of ours: what decays does, and the rate is that of the schedule."""
    import copy

    ours = copy.deepcopy(network)
    config = RetrainConfig.model_validate({"optimizer": name, "learning_rate": 1e-3, "weight_decay": 0.1})
    optimizer = build_optimizer(ours, config)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}
    before = copy.deepcopy(ours.state_dict())
    for parameter in ours.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(not torch.equal(value, before[label]) for label, value in ours.named_parameters())


def test_betas_and_eps_reach_the_optimizer_and_unknown_names_are_refused(network):
    given = {"optimizer_betas": [0.8, 0.9], "optimizer_eps": 1e-3}
    for name in ("adamw", "lamb", "nadamw"):
        config = RetrainConfig.model_validate({"optimizer": name} | given)
        (group, *_) = build_optimizer(network, config).param_groups
        assert [*group["betas"]] == [0.8, 0.9] and group["eps"] == 1e-3
    for name, message in (
        ("adamv", "'adamv' is unknown; .* such as .*adamw"),
        ("lars", "optimizer_betas: lars has none"),
    ):
        with pytest.raises(UserError, match=message):
            build_optimizer(network, RetrainConfig.model_validate({"optimizer": name} | given))


@pytest.mark.parametrize("optimizer, expected", [("sgd", 0.1), ("lamb", 0.4 * 0.5), ("adamw", 0.4 * 0.5)])
def test_the_learning_rate_follows_the_batch_size_from_the_one_that_it_is_meant_for(optimizer, expected):
    """A quarter of the images: in proportion, or by the square root, as timm's train.py has it."""
    settings = {"optimizer": optimizer, "learning_rate": 0.4, "batch_size": 512, "warmup_epochs": 0}
    config = RetrainConfig.model_validate(settings | {"learning_rate_batch_size": 2048})
    assert learning_rate(config, 0, 10) == pytest.approx(expected)
    assert learning_rate(RetrainConfig.model_validate(settings), 0, 10) == pytest.approx(0.4)
    assert named("a3", batch_size=512).peak_learning_rate == pytest.approx(4e-3)


def test_layer_decay_is_counted_from_the_head(network):
    config = named("hornet", layer_decay=0.5)
    numbers = layer_numbers([label for label, _ in network.named_parameters()])
    groups = parameter_groups(network, config)
    scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    last = max(numbers.values())
    assert last == 4 + 1 and set(numbers.values()) == set(range(last + 1))
    for label, parameter in network.named_parameters():
        assert scale[id(parameter)] == 0.5 ** (last - numbers[label]), label


@pytest.mark.parametrize("mixup, cutmix", [(0.8, 1.0), (0.2, 0.0), (0.0, 1.0)])
def test_mixing_is_timms(mixup, cutmix):
    from timm.data.mixup import Mixup

    config = RetrainConfig(mixup=mixup, cutmix=cutmix, label_smoothing=0.1)
    seen = set()
    for key in range(12):
        images = torch.rand(6, 3, 13, 17, generator=torch.Generator().manual_seed(key))
        labels = torch.tensor([0, 3, 2, 1, 4, 4])
        mixed, share = mix(images, config, key)
        np.random.seed(key)
        theirs, targets = Mixup(mixup, cutmix, label_smoothing=0.1, num_classes=5)(images.clone(), labels)
        assert torch.allclose(mixed, theirs, atol=1e-6)
        assert torch.allclose(soft_targets(labels, 5, share, 0.1), targets, atol=1e-6)
        seen.add(bool(torch.isin(mixed, images).all()))
    assert seen >= {pasted for pasted, alpha in ((True, cutmix), (False, mixup)) if alpha}


@pytest.mark.parametrize("threshold", [None, 0.2])
def test_losses_are_timms(threshold):
    from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy

    config = RetrainConfig(loss="bce", bce_threshold=threshold, label_smoothing=0.1)
    logits, labels = torch.randn(8, 5), torch.randint(5, (8,))
    for share in (1.0, 0.7):
        targets = soft_targets(labels, 5, share, 0.1)
        expected = BinaryCrossEntropy(target_threshold=threshold)(logits, targets)
        assert LOSSES["bce"](logits, labels, share, config) == pytest.approx(expected.item(), rel=1e-5)
        expected = SoftTargetCrossEntropy()(logits, targets)
        assert LOSSES["cross_entropy"](logits, labels, share, config) == pytest.approx(expected.item(), rel=1e-5)


def test_distillation_is_the_formula():
    logits, taught = torch.randn(4, 6), torch.randn(4, 6)
    p, q = (functional.softmax(values.double() / 3, dim=1) for values in (taught, logits))
    expected = (p * (p / q).log()).sum(1).mean() * 9
    assert distillation(logits, taught, 3.0).item() == pytest.approx(expected.item(), rel=1e-5)
    assert distillation(logits, logits, 2.0).item() == pytest.approx(0, abs=1e-6)


def test_the_average_of_hornet_is_timms():
    from timm.utils import ModelEmaV3

    config = named("hornet", ema=0.99)
    assert config.ema is not None and not config.ema_warmup
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    ours, theirs = WeightAverage(small, config.ema, config.ema_warmup), ModelEmaV3(small, decay=config.ema)
    for step in range(20):
        with torch.no_grad():
            for parameter in small.parameters():
                parameter.add_(torch.randn_like(parameter))
            small(torch.randn(2, 3, 5, 5))
        ours.update(step)
        theirs.update(small)
    for mine, reference in zip(ours.model.state_dict().values(), theirs.module.state_dict().values(), strict=True):
        assert torch.allclose(mine, reference, rtol=1e-5, atol=1e-6)


def test_temperatures_of_odconv100():
    config = named("odconv100")
    values = [temperature(config, step, 10) for step in range(120)]
    assert values[0] == 30 and values[50] == 15.5 and set(values[100:]) == {1.0}
    assert temperature(named("finetune"), 0, 10) == temperature(named("hornet384"), 0, 10) == 1


def test_hornets_fine_tuning_learns_as_its_authors_groups_of_two_blocks():
    """HorNet-L: 2, 3, 18 and 2 blocks in 12 groups, each 0.7 times as fast as the next; no mixing, clipped at 1."""
    config = named("hornet384")
    names = [f"stages.{stage}.{block}.w" for stage, count in enumerate((2, 3, 18, 2)) for block in range(count)]
    numbers = layer_numbers(["stem.w", *names, "head.w"])
    scales = {label: config.layer_decay ** (26 - number) for label, number in numbers.items()}
    assert scales["stages.2.17.w"] == pytest.approx(0.7 * scales["stages.3.1.w"], rel=0.2)
    for block in range(2, 18):
        ratio = scales[f"stages.2.{block - 2}.w"] / scales[f"stages.2.{block}.w"]
        assert ratio == pytest.approx(0.7, abs=1e-3)
    assert scales["stem.w"] == pytest.approx(0.7**13, rel=0.01)
    assert (config.mixup, config.cutmix, config.clip_grad, config.drop_path, config.resolution) == (0, 0, 1, 0.4, 384)


def test_short_grows_its_images():
    sizes = [resolution(named("short"), epoch) for epoch in range(16)]
    assert sizes[0] == 160 and sizes[-1] == 192 and sizes == sorted(sizes) and all(size % 32 == 0 for size in sizes)
    small = RetrainConfig(first_resolution=8, resolution=16, resolution_epochs=4, epochs=6)
    assert [resolution(small, epoch) for epoch in range(6)] == [8, 8, 12, 16, 16, 16]


HEAD = """
space: {stem: small, operators: {c: {op: conv}}, stages: [{block: basic, depth: 1, width: 8}]}
objectives: [{name: top1}]
"""


def test_a_file_overrides_its_recipe():
    config = loads(HEAD + "retrain: {recipe: a3, epochs: 7}", "file").retrain
    assert config.epochs == 7 and config.optimizer == "lamb" and config.recipe == "a3"
    assert config.evaluation_resolution == 224 and recipe("a3")["epochs"] == 100


@pytest.mark.parametrize(
    "section, message",
    [
        ("{recipe: a9}", "retrain.recipe: 'a9': allowed are a1, a2, a3, convnext300"),
        ("{schedule: step}", "decay_epochs"),
        ("{bce_threshold: 0.2}", "loss: bce"),
        ("{auto_augment: rand-m9}", "augment: imagenet"),
        ("{crop_area: [0.5, 0.1]}", "crop_area: 0.5 is above 0.1"),
        ("{layer_decay: 1.5}", "layer_decay"),
        ("{optimizer: sgd, optimizer_eps: 1e-3}", "sgd has neither"),
    ],
)
def test_mistakes_are_named(section, message):
    with pytest.raises(ConfigError, match=message) as caught:
        loads(HEAD + f"retrain: {section}", "file")
    assert "file:4" in str(caught.value)
