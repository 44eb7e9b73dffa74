"""The training loop: schedules, resume bit for bit, failures, overhead; and that it learns."""

from __future__ import annotations

import itertools
import math
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from helpers.trainings import FULL, Interrupted, config, conv_net, operator_net, run, small_net, timeless, weights
from nas.base.seeds import keyed_seed
from nas.config.sections import RetrainConfig, TrainConfig
from nas.data.batches import Shard
from nas.data.sources import open_source
from nas.networks.precision import to_device, training_dtype
from nas.operators import ODConv2d
from nas.training.engine import Engine, Stepper
from nas.training.loop import NonFiniteLoss, evaluate, train
from nas.training.optimizer import WeightAverage, build_optimizer
from nas.training.process_state import reset_process
from nas.training.schedule import learning_rate, temperature


def test_rows(cache):
    settings = config(epochs=3)
    model, sizes = small_net(), []
    model[0].register_forward_hook(lambda module, inputs, _: sizes.append(len(inputs[0])) if module.training else None)
    rows = run(cache, model, settings)
    assert [row["epoch"] for row in rows] == [1, 2, 3] and sum(sizes) == 3 * 320 and len(sizes) == 3 * 5
    assert all(isinstance(value, int | float) and math.isfinite(value) for row in rows for value in row.values())
    source = open_source(settings, seed=0, device="cpu", cache_dir=cache)
    loss, top1 = evaluate(model, source)
    assert (loss, top1) == (rows[-1]["val_loss"], rows[-1]["top1"])
    model.eval()
    images, labels = (torch.cat(parts) for parts in zip(*source.validation_batches(), strict=True))
    with torch.no_grad():
        assert top1 == pytest.approx((model(images).argmax(1) == labels).double().mean().item())
        assert loss == pytest.approx(functional.cross_entropy(model(images), labels).item(), rel=1e-5)


def test_first_step_is_what_torch_computes(cache):
    """One step with mixup and smoothing off equals the step written out by hand."""
    settings = config(epochs=1, batch_size=1000, augment="none", warmup_epochs=0, clip_grad=None)
    by_loop, by_hand = small_net(dropout=0), small_net(dropout=0)
    rows = run(cache, by_loop, settings)
    source = open_source(settings, seed=0, device="cpu", cache_dir=cache)
    ((images, labels),) = source.train_batches(0)
    optimizer = build_optimizer(by_hand, settings)
    loss = functional.cross_entropy(by_hand(images), labels)
    loss.backward()
    optimizer.step()
    assert rows[0]["train_loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert weights(by_loop) == weights(by_hand)


def test_mixup_and_smoothing_loss(cache):
    """The loss of a mixed batch equals cross entropy with the mixed, smoothed label distributions."""
    settings = config(epochs=1, batch_size=1000, augment="none", mixup=0.4, label_smoothing=0.1)
    rows = run(cache, small_net(dropout=0), settings, seed=4)
    random = np.random.RandomState(keyed_seed(4, "mixup", 0) % 2**32)
    random.rand()
    share = random.beta(0.4, 0.4)
    source = open_source(settings, seed=0, device="cpu", cache_dir=cache)
    ((images, labels),) = source.train_batches(0)
    mixed = share * images + (1 - share) * images.flip(0)
    one_hot = functional.one_hot(labels, 10).double()
    target = 0.9 * (share * one_hot + (1 - share) * one_hot.flip(0)) + 0.1 / 10
    expected = functional.cross_entropy(small_net(dropout=0)(mixed).double(), target)
    assert 0.01 < share < 0.99 and rows[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("option", ["dropout", "mixup", "cutmix"])
def test_every_step_draws_anew(cache, option):
    """Of one batch, with steps of no size, the loss is another at every step, and the same where a step is repeated."""
    mixed = {} if option == "dropout" else {option: 1.0}
    settings = config(learning_rate=1e-20, weight_decay=0, augment="none", **mixed)
    batch = next(open_source(settings, seed=0, device="cpu", cache_dir=cache).train_batches(0))
    stepper = Stepper(
        small_net(dropout=0.5 if option == "dropout" else 0),
        settings,
        Engine(),
        seed=1,
        device=torch.device("cpu"),
        shard=Shard(),
        num_train=len(batch[1]),
        steps_per_epoch=1,
    )
    losses = [stepper.step(iter([batch]), step)[0].item() for step in (0, 1, 2, 1)]
    assert len({round(loss, 6) for loss in losses}) == 3 and losses[1] == losses[3]


def test_a_training_may_evaluate_rarely_end_early_and_mix_its_images_for_a_while(cache):
    """Where nothing changes, the first evaluation is the best; patience counts epochs from there."""
    still = {"epochs": 9, "batch_size": 1000, "augment": "none", "learning_rate": 1e-20, "weight_decay": 0}
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    engine = Engine(evaluate_every=2, patience=3, mixup_epochs=2)
    rows = run(cache, plain, config(**still, mixup=1.0), engine=engine)
    assert ["top1" in row for row in rows] == [False, True] * 3
    losses = [round(row["train_loss"], 6) for row in rows]
    assert len({*losses[:2]}) == 2 and len({*losses[2:]}) == 1
    last = run(cache, plain, config(**still | {"epochs": 3}), engine=Engine(evaluate_every=2))
    assert ["top1" in row for row in last] == [False, True, True]


def test_learning_rate_follows_timm():
    """Equal to timm's cosine with a warm-up prefix at every step of the cosine; the warm-up rises linearly to it."""
    from timm.scheduler.cosine_lr import CosineLRScheduler  # slow to import

    settings = TrainConfig(epochs=7, warmup_epochs=2, learning_rate=0.3)
    steps = 11
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    reference = CosineLRScheduler(
        optimizer, t_initial=5 * steps, warmup_t=2 * steps, warmup_prefix=True, t_in_epochs=False
    )
    ours = [learning_rate(settings, step, steps) for step in range(7 * steps)]
    for step in range(2 * steps, 7 * steps):
        reference.step_update(step)
        assert ours[step] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert np.allclose(np.diff(ours[: 2 * steps]), 0.3 / (2 * steps)) and ours[2 * steps - 1] == 0.3
    assert 0 < ours[-1] < 0.001
    assert max(learning_rate(TrainConfig(epochs=1, warmup_epochs=5), step, 10) for step in range(10)) == 2e-3


def test_temperature_falls_from_30_to_1():
    settings = TrainConfig(epochs=5, temperature_epochs=2)
    values = [temperature(settings, step, 10) for step in range(50)]
    assert values[0] == 30 and values[10] == 15.5 and values[20:] == [1.0] * 30
    assert np.allclose(np.diff(values[:21]), -29 / 20)
    assert temperature(TrainConfig(temperature_epochs=0), 0, 10) == 1.0


@pytest.mark.parametrize("epochs", [2, 8, 100])
def test_temperature_falls_over_a_tenth_of_every_training(epochs):
    """Of proxy and retraining, without being asked for; the paper's 10 of 100 epochs among them."""
    for settings in (TrainConfig(epochs=epochs), RetrainConfig(epochs=epochs)):
        values = [temperature(settings, step, 50) for step in range(epochs * 50)]
        assert values[0] == 30 and values.index(1.0) == epochs * 5


def test_temperature_reaches_every_odconv_and_the_average(cache):
    model = operator_net()
    found = [module for module in model.modules() if isinstance(module, ODConv2d)]
    seen = []
    found[-1].register_forward_pre_hook(lambda module, _: seen.append((module.training, module.temperature)))
    run(cache, model, config(epochs=2, temperature_epochs=2, ema=0.9))
    training = [value for is_training, value in seen if is_training]
    evaluating = [value for is_training, value in seen if not is_training]
    assert training[0] == 30 and all(a > b for a, b in itertools.pairwise(training))
    assert set(evaluating) == {training[len(training) // 2 - 1], training[-1]}
    assert len(found) >= 2 and {module.temperature for module in found} == {training[-1]}


def test_only_weights_decay():
    model = operator_net()
    groups = build_optimizer(model, config(weight_decay=0.1)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = ({names[id(parameter)] for parameter in group["params"]} for group in groups)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert len(decayed) + len(spared) == len(names)
    assert not any("norm" in name or name.endswith("bias") or "gamma" in name for name in decayed)
    modules = dict(model.named_modules())
    for name in spared:
        owner = modules[name.rpartition(".")[0]]
        kinds = nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm
        assert name.endswith("bias") or isinstance(owner, kinds) or "scale" in name or "gamma" in name, name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_optimizers(optimizer):
    built = build_optimizer(small_net(), config(optimizer=optimizer, momentum=0.8))
    expected = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    assert type(built).__bases__ == (expected,)
    if optimizer == "sgd":
        assert built.param_groups[0]["nesterov"] and built.param_groups[0]["momentum"] == 0.8


def test_average_is_the_formula():
    model = small_net()
    average = WeightAverage(model, 0.7)
    expected = {name: tensor.clone().double() for name, tensor in model.state_dict().items()}
    for step in range(30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
            model.train()(torch.randn(4, 1, 8, 8))
        average.update(step)
        decay = min(0.7, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            counts = not tensor.is_floating_point()
            expected[name] = tensor.double() if counts else decay * expected[name] + (1 - decay) * tensor.double()
    for name, tensor in average.model.state_dict().items():
        assert torch.allclose(tensor.double(), expected[name], rtol=1e-4, atol=1e-5), name


def test_average_is_evaluated_and_kept(cache):
    settings = config(epochs=2, ema=0.9)
    rows = run(cache, averaged := small_net(), settings)
    raw_rows = run(cache, raw := small_net(), settings.model_copy(update={"ema": None}))
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in raw_rows]
    assert weights(averaged) != weights(raw) and rows[-1]["val_loss"] != raw_rows[-1]["val_loss"]
    source = open_source(settings, seed=0, device="cpu", cache_dir=cache)
    assert evaluate(averaged, source) == (rows[-1]["val_loss"], rows[-1]["top1"])


# --- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [small_net, operator_net])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_equal_seeds_train_equal_networks(cache, build, optimizer):
    settings = config(optimizer=optimizer, **FULL)
    first, second, other = build(), build(), build()
    rows = run(cache, first, settings)
    torch.manual_seed(99)  # what the process did before has no influence
    assert timeless(run(cache, second, settings)) == timeless(rows) and weights(first) == weights(second)
    run(cache, other, settings, seed=2)
    assert weights(other) != weights(first)


def test_nan_ends_the_training_with_epoch_and_step(cache):
    model = small_net()
    model[0].register_forward_hook(_poison_after(7))
    with pytest.raises(NonFiniteLoss, match="loss nan in epoch 2, step 3"):
        run(cache, model, config(epochs=9))  # five steps per epoch


def _poison_after(steps: int):
    calls = [0]

    def hook(module, _, output):
        calls[0] += module.training
        return output * math.nan if calls[0] > steps else output

    return hook


def test_divergence_ends_the_training(cache):
    settings = config(epochs=50, optimizer="sgd", learning_rate=1e30, clip_grad=None, warmup_epochs=0)
    with pytest.raises(NonFiniteLoss, match="epoch 1"):
        run(cache, small_net(), settings)


def test_nonfinite_evaluation_ends_the_training(cache):
    model = small_net()
    model[-1].register_forward_hook(_poison_evaluation)
    with pytest.raises(NonFiniteLoss, match=r"validation loss .* in epoch 1"):
        run(cache, model, config())


def _poison_evaluation(module, _, output):
    return output if module.training else output * math.nan


def test_gate_is_held_around_every_step_and_released(cache):
    events = []

    @contextmanager
    def device_lock():
        events.append("enter")
        try:
            yield
        finally:
            events.append("leave")

    model = small_net()
    model[0].register_forward_pre_hook(lambda *_: events.append("forward"))
    run(cache, model, config(epochs=1), device_lock=device_lock)
    assert len(events) > 9 and events == ["enter", "forward", "leave"] * (len(events) // 3)
    model[0].register_forward_hook(_poison_after(0))
    events.clear()
    with pytest.raises(NonFiniteLoss):
        run(cache, model, config(epochs=1), device_lock=device_lock)
    assert events == ["enter", "forward", "leave"]
    model[0].register_forward_pre_hook(_fail)
    events.clear()
    with pytest.raises(Interrupted):
        run(cache, model, config(epochs=1), device_lock=device_lock)
    assert events == ["enter", "forward", "leave"]


def _fail(*_):
    raise Interrupted


# --- precision, placement, processes ----------------------------------------------------------------------------------


def test_auto_precision_follows_the_hardware():
    cpu = torch.device("cpu")
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    native = "avx512_bf16" in flags or "amx_bf16" in flags
    assert training_dtype("auto", cpu) == (torch.bfloat16 if native else None)
    assert training_dtype("off", cpu) is None and training_dtype("float16", cpu) == torch.float16


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_16_bit_training_learns(cache, amp):
    rows = run(cache, conv_net(), config(epochs=2, amp=amp, learning_rate=1e-2))
    exact = run(cache, conv_net(), config(epochs=2, learning_rate=1e-2))
    assert rows[-1]["train_loss"] == pytest.approx(exact[-1]["train_loss"], rel=0.05)
    assert rows[-1]["train_loss"] != exact[-1]["train_loss"] and rows[-1]["top1"] > 0.5


def test_to_device_takes_weights_of_any_dimension():
    model = nn.ModuleList([ODConv2d(4, 8, 3), nn.Conv2d(3, 4, 3), nn.Linear(3, 2)])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    to_device(model, torch.device("cpu"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_reset_process_undoes_what_a_trial_left(cache):
    reset_process(5)
    fresh = weights(_trained_after_reset(cache))
    np.random.seed(1)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_autocast_enabled("cpu", True)
    torch.set_autocast_dtype("cpu", torch.float16)
    torch.use_deterministic_algorithms(True)
    torch.set_default_device("meta")
    torch.set_float32_matmul_precision("medium")
    torch.autograd.set_detect_anomaly(True)
    torch.backends.cudnn.benchmark = True
    torch.set_num_threads(2)
    assert weights(_trained_after_reset(cache)) == fresh
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert not torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    assert not torch.are_deterministic_algorithms_enabled() and not torch.is_anomaly_enabled()
    assert torch.get_float32_matmul_precision() == "highest" and torch.get_num_threads() == 1
    assert torch.empty(1).device.type == "cpu" and not torch.backends.cudnn.benchmark


def _trained_after_reset(cache) -> nn.Module:
    reset_process(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Dropout(0.2), nn.Linear(20, 10))
    run(cache, model, config(epochs=1))
    return model


# --- it learns, and costs little --------------------------------------------------------------------------------------


def test_learns_digits(cache):
    """97 % of 300 held-out real digits after four epochs."""
    settings = RetrainConfig(
        dataset="digits", epochs=4, batch_size=64, resolution=8, augment="shift", amp="off", learning_rate=1e-2
    )
    rows = run(cache, conv_net(), settings)
    assert rows[-1]["top1"] > 0.97


def test_loop_costs_little_above_torch(cache):
    """A step takes at most 1 ms of CPU time more than the bare five lines do; medians, interleaved, of a small net."""
    settings = config(epochs=1, batch_size=32, augment="none", max_images_per_class=None)
    source = open_source(settings, seed=0, device="cpu", cache_dir=cache)
    model = small_net()

    def bare() -> float:
        optimizer = build_optimizer(model, settings)
        begin = time.process_time()
        for images, labels in source.train_batches(0):
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        evaluate(model, source)
        return time.process_time() - begin

    def looped() -> float:
        begin = time.process_time()
        list(train(model, source, settings, seed=0, device="cpu"))
        return time.process_time() - begin

    pairs = [(bare(), looped()) for _ in range(8)][1:]
    extra = np.median([after - before for before, after in pairs]) / source.steps_per_epoch
    assert extra < 1e-3, f"{1000 * extra:.2f} ms per step"
