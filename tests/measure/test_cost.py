"""Costs against hand-made counts, latency and memory of real networks, and the lock of a device between processes."""

from __future__ import annotations

import itertools
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import processes
from nas.base.locks import DeviceLock, file_lock
from nas.base.machine import processor
from nas.config.sections import ObjectiveConfig
from nas.measure.cost import COSTS, macs_by_module, measure, num_macs, num_params, profile
from nas.measure.latency import latency_of_parts, measure_latency
from nas.measure.memory import peak_memory_bytes
from nas.measure.shapes import Shapes
from nas.networks.model import build_model
from nas.operators import build_operator
from nas.space import specs
from nas.space.genotype import Genotype
from nas.space.published import PUBLISHED

OPERATORS = (
    specs.Conv(),
    specs.Involution(kernel_size=5),
    specs.ODConv(),
    specs.SCConv(pooling=2),
    specs.GnConv(order=3),
    specs.GnConv(order=3, filter="global", grid=(8, 5)),
)


def network(operator: specs.Operator = OPERATORS[0], width: int = 32) -> nn.Module:
    blocks = (specs.Basic(width=width, operator=operator), specs.Bottleneck(width=width, operator=operator))
    genotype = Genotype(stem=specs.Stem(kind="small", width=16), stages=(blocks,))
    return build_model(genotype, num_classes=10, in_channels=3)


def plain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),  # 16x16: 3*8*9 weights
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4),  # 8x8: 2*8*9 weights, 8 biases
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


def test_hand_counted():
    model = plain()
    assert num_params(model) == 216 + 16 + 144 + 8 + 90
    counts = macs_by_module(model, (3, 16, 16))
    assert counts["0"] == 216 * 256 and counts["3"] == 144 * 64 and counts["6"] == 80
    assert counts[""] == num_macs(model, (3, 16, 16)) == 216 * 256 + 144 * 64 + 80
    assert counts["1"] == counts["2"] == 0


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("conv", {"kernel_size": 3}, 256 * 9 * 32 * 32),
        # reduce to 8 channels, 25 weights for each of 2 groups, 25 products per value
        ("involution", {"kernel_size": 5}, 256 * (32 * 8 + 8 * 2 * 25 + 25 * 32)),
        # attention through 16 channels to 32, 32, 9 and 4 values; four kernels mixed; one convolution
        ("odconv", {"kernel_size": 3}, 16 * (32 + 32 + 32 + 9 + 4) + 4 * 9 * 32 * 32 + 256 * 9 * 32 * 32),
        # three convolutions of half the channels, one more on the 4x4 map
        ("scconv", {"pooling": 4}, (3 * 256 + 16) * 9 * 16 * 16),
        # in, depthwise 7x7 of 8+16+32 channels, two pointwise, out
        ("gnconv", {"order": 3}, 256 * (32 * 64 + 49 * 56 + 8 * 16 + 16 * 32 + 32 * 32)),
    ],
)
def test_operators_counted_by_hand(name, options, expected):
    assert num_macs(build_operator(name, 32, 32, **options), (32, 16, 16)) == expected


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.op)
def test_counts_depend_on_shapes_only(operator):
    model = network(operator).train()
    count = num_macs(model, (3, 16, 16))
    assert count > 0 and model.training and all(module.training for module in model.modules())
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    assert num_macs(model, (3, 16, 16)) == count < num_macs(model, (3, 32, 32))


@pytest.mark.parametrize(
    ("name", "giga", "millions"), [("resnet50", 4.1, 25.6), ("rednet26", 1.7, 9.2), ("scnet50", 4.0, 25.6)]
)
def test_published_figures(name, giga, millions):
    """Within rounding of the figures in the papers (2103.06255, table 1; SCNet, table 2)."""
    with torch.device("meta"):
        model = build_model(PUBLISHED[name])
    assert abs(num_macs(model, (3, 224, 224)) / 1e9 - giga) < 0.1
    assert abs(num_params(model) / 1e6 - millions) < 0.1


def test_an_operation_without_a_formula_is_refused():
    with pytest.raises(ValueError, match=r"_fft_r2c.default has no FLOP formula"):
        num_macs(_Fourier(), (3, 8, 8))


class _Fourier(nn.Module):
    def forward(self, x):
        return torch.fft.irfft2(torch.fft.rfft2(x))


# --- latency and memory -----------------------------------------------------------------------------------------------


class Sleeper(nn.Module):
    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return x


def test_latency_is_the_time_of_a_run():
    result = measure_latency(Sleeper(0.004), (1, 4, 4), "cpu")
    assert 4 <= result.p20_ms <= result.median_ms <= result.p80_ms < 40
    assert result.num_runs >= 20 and (result.device, result.batch_size, result.num_threads) == ("cpu", 1, 1)


def test_latency_is_bounded_in_time():
    begin = time.perf_counter()
    slow = measure_latency(Sleeper(0.3), (1, 4, 4), "cpu")
    assert 2 <= slow.num_runs < 10 and time.perf_counter() - begin < 10
    begin = time.perf_counter()
    fast = measure_latency(nn.Identity(), (1, 4, 4), "cpu")
    assert 0.25 < time.perf_counter() - begin < 6 and fast.num_runs > 100 and fast.median_ms < 1


def test_a_latency_that_others_slowed_is_measured_again_and_marked():
    """A processor that this process does not get, here because it sleeps, and runs that scatter."""
    held: list[int] = []

    @contextmanager
    def alone():
        held.append(0)
        yield

    slow = measure_latency(Sleeper(0.004), (1, 4, 4), "cpu", exclusive=alone)
    assert slow.disturbed and held == [0] and slow.device_name == processor()
    turns = itertools.cycle((10_000, 10_000, 10_000, 40_000))
    model = nn.Sequential(nn.Identity())
    model[0].register_forward_hook(lambda *_: sum(range(next(turns))) and None)
    assert measure_latency(model, (1, 4, 4), "cpu").disturbed


def test_latency_leaves_everything_as_it_was():
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.set_num_threads(2)
    measure_latency(model, (3, 8, 8), "cpu", batch_size=2)
    assert torch.get_num_threads() == 2 and model.training and torch.is_grad_enabled()
    torch.set_num_threads(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not torch.is_inference_mode_enabled()


def test_larger_work_takes_longer():
    wide, narrow = (measure_latency(network(width=width), (3, 16, 16), "cpu", 16).median_ms for width in (128, 16))
    assert wide > 2 * narrow


def test_only_the_measurement_is_alone():
    """The first run, which may compile, is outside the exclusive part, everything else inside."""
    events: list[str] = []

    class Exclusive:
        def __enter__(self):
            events.append("enter")

        def __exit__(self, *reason):
            events.append("leave")

    model = nn.Sequential(Sleeper(0.001))
    model[0].register_forward_hook(lambda *_: events.append("run"))
    measure_latency(model, (1, 4, 4), "cpu", exclusive=Exclusive)
    assert events[:2] == ["run", "enter"] and events[-1] == "leave" and events.count("run") > 20


def test_parts_add_up():
    model = nn.Sequential(Sleeper(0.002), nn.Sequential(Sleeper(0.006)))
    times = latency_of_parts(model, ["0", "1"], (1, 4, 4), "cpu")
    assert 2 <= times["0"] < 5 and 6 <= times["1"] < 12
    assert not any(module._forward_hooks for module in model.modules())


def test_profile_covers_the_network():
    model = network()
    parts = profile(model, (3, 16, 16), "cpu", batch_size=2)  # type: ignore[arg-type]
    assert [part.name for part in parts] == ["stem", "stages.0.0", "stages.0.1", "head"]
    assert sum(part.num_params for part in parts) == num_params(model)
    assert sum(part.num_macs for part in parts) == 2 * num_macs(model, (3, 16, 16))
    assert all(part.latency_ms > 0 for part in parts)


def test_peak_memory_by_hand():
    """Two maps of 64 channels at most are alive at once, beside weights and input."""
    model = nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 4, 1))
    weights = 4 * num_params(model)
    pixels = 2 * 32 * 32 * 4
    assert peak_memory_bytes(model, (3, 32, 32), "cpu", batch_size=2) == weights + pixels * (3 + 2 * 64)
    inplace = nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU(inplace=True))
    assert peak_memory_bytes(inplace, (3, 32, 32), "cpu", 2) == 4 * num_params(inplace) + pixels * (3 + 64)
    view = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (3, 32, 32)))
    assert peak_memory_bytes(view, (3, 32, 32), "cpu", 2) == pixels * 3


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.op)
@pytest.mark.parametrize("name", COSTS)
def test_every_cost_of_every_operator(name, operator):
    """The contract of COSTS: positive, finite, plain numbers, more for a batch where batches count, model untouched."""
    model = network(operator)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    costs = measure(model, (3, 8, 8), [ObjectiveConfig(name=name)], torch.device("cpu"))
    assert type(costs[name]) in (int, float) and 0 < costs[name] < 1e9
    if name == "latency_ms":
        assert costs["latency"]["p20_ms"] <= costs[name] <= costs["latency"]["p80_ms"]
    if name == "peak_memory_mb":
        larger = measure(model, (3, 8, 8), [ObjectiveConfig(name=name, batch_size=8)], "cpu")
        assert larger[name] > costs[name] > 4e-6 * num_params(model)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


def test_wrong_names_list_what_is_allowed():
    with pytest.raises(ValueError, match="num_params, num_macs, latency_ms, peak_memory_mb"):
        measure(plain(), (3, 8, 8), [ObjectiveConfig(name="top1")], "cpu")
    with pytest.raises(ValueError, match="dtype = 'int8': allowed are float32, bfloat16, float16"):
        measure_latency(plain(), (3, 8, 8), "cpu", dtype="int8")


# --- the lock of a device ---------------------------------------------------------------------------------------------


def step_for_ever(path: Path, log: Path, step_seconds: float) -> None:
    lock = DeviceLock(path)
    with log.open("a", buffering=1) as file:
        while True:
            with lock.shared():
                begin = time.monotonic()
                time.sleep(step_seconds)
                file.write(f"{begin} {time.monotonic()}\n")


def hold(path: Path, ready: Path, kind: str) -> None:
    with getattr(DeviceLock(path), kind)():
        ready.touch()
        time.sleep(600)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists() or (path.suffix == ".log" and len(path.read_text().splitlines()) < 5):
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_measurement_gets_in_promptly_and_is_alone(tmp_path):
    """Two trainers that never leave a gap: each measurement starts within a few steps, no step overlaps with one."""
    logs = [tmp_path / f"{number}.log" for number in range(2)]
    trainers = [processes.start(step_for_ever, tmp_path / "gpu", log, 0.02) for log in logs]
    for log in logs:
        wait_for(log)
    lock, waits, measured = DeviceLock(tmp_path / "gpu"), [], []
    for _ in range(10):
        begin = time.monotonic()
        with lock.exclusive():
            waits.append(time.monotonic() - begin)
            start = time.monotonic()
            time.sleep(0.03)
            measured.append((start, time.monotonic()))
        time.sleep(0.05)
    for trainer in trainers:
        processes.kill(trainer)
    assert sorted(waits)[5] < 0.25 and max(waits) < 2
    lines = [line for log in logs for line in log.read_text().splitlines() if line.count(" ") == 1]
    steps = [tuple(map(float, line.split())) for line in lines]
    assert not [(step, span) for step in steps for span in measured if step[0] < span[1] and span[0] < step[1]]
    assert any(start > measured[0][1] for start, _ in steps)  # the trainers went on
    both = [[tuple(map(float, line.split())) for line in log.read_text().splitlines()[:-1]] for log in logs]
    assert any(a[0] < b[1] and b[0] < a[1] for a in both[0] for b in both[1])  # and did share the device


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_a_killed_holder_lets_go(tmp_path, kind):
    holder = processes.start(hold, tmp_path / "gpu", tmp_path / "ready", kind)
    wait_for(tmp_path / "ready")
    waiter = processes.start(hold, tmp_path / "gpu", tmp_path / "second", "exclusive")
    time.sleep(0.3)
    assert not (tmp_path / "second").exists()
    processes.kill(holder)
    wait_for(tmp_path / "second")
    processes.kill(waiter)
    with DeviceLock(tmp_path / "gpu").exclusive():
        pass


def test_gate_costs_microseconds(tmp_path):
    lock = DeviceLock(tmp_path / "gpu")
    begin = time.process_time()
    for _ in range(1000):
        with lock.shared():
            pass
    assert time.process_time() - begin < 0.5  # half a millisecond each, on the slowest machine


def test_an_exception_lets_go(tmp_path):
    lock = DeviceLock(tmp_path / "gpu")
    for held in (lock.shared, lock.exclusive, lambda: file_lock(tmp_path / "file")):
        with pytest.raises(RuntimeError), held():
            raise RuntimeError
    with lock.exclusive(), file_lock(tmp_path / "file"):
        pass


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


ON_MAPS = {
    "broadcast": lambda x: x * x.mean((2, 3), keepdim=True) + x[:1, :, :, :1],
    "wider": lambda x: x[:, :1] / x,
    "number": lambda x: (2 * x + 1.5) / 3,
    "gaps": lambda x: F.relu(x[:, ::2]) * x[:, ::2],
    "gaps in rows": lambda x: F.relu(x[..., ::2].transpose(1, 2)),
    "gaps around one": lambda x: F.relu(x[:, 1:2, ::2]),
    "gaps in one image": lambda x: F.relu(x[:1, :, :, ::2]) * x[:1, :, :, ::2],
    "gaps in one channel": lambda x: F.relu(x[:, :1].transpose(0, 1)[..., :1]),
    "permuted": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2) * x,
    "mean": lambda x: x.mean((1, -1)),
    "mean of all": lambda x: x.mean(dim=[0, 1, 2, 3], keepdim=True),
    "cat": lambda x: torch.cat([x, x[:, :1] + 1, x], 1),
    "cat at the end": lambda x: torch.cat([x, x[..., :2]], -1),
    "linear": lambda x: F.linear(x.mean((2, 3)), x.new_empty(7, 4), x.new_empty(7)),
    "mm": lambda x: x.mean((2, 3)) @ x.new_empty(4, 7),
    "softmax": lambda x: x.mean((2, 3)).softmax(1),
    "multiplied": lambda x: x.add(1).mul_(x[:1]).mul_(2)[:, 1:].mul_(x[:, :1]),
    "nearest": lambda x: F.interpolate(x, (7, 11)),
    "pool": lambda x: F.avg_pool2d(x, 2),
    "pool of all there is": lambda x: F.avg_pool2d(x, (3, 2), (2, 3), (1, 0), True, False),
    "pool behind the map": lambda x: F.avg_pool2d(x, 2, 4, 1, True),
    "convolution": lambda x: F.conv2d(x, x.new_empty(6, 2, 3, 2), x.new_empty(6), (2, 1), (1, 2), (1, 2), 2),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ON_MAPS)
def test_shapes_that_are_told_at_once_are_those_of_torch(name, layout):
    x = torch.empty(2, 4, 6, 5, device="meta").to(memory_format=layout)
    expected = ON_MAPS[name](x)
    with Shapes():
        found = ON_MAPS[name](x)
    assert (found.shape, found.stride(), found.dtype) == (expected.shape, expected.stride(), expected.dtype)


@pytest.mark.parametrize(
    "wrong",
    [
        nn.Conv2d(4, 8, 1),
        nn.Conv2d(3, 8, 40),
        nn.Sequential(nn.Flatten(), nn.Linear(5, 2)),
        Calls(lambda x: x * torch.empty(1, 2, 1, 1, device="meta")),
        Calls(lambda x: torch.cat([x, x[:, :, :2]], 1)),
        Calls(lambda x: x.mean((2, 3)) @ torch.empty(4, 2, device="meta")),
        Calls(lambda x: x.add(1).mul_(torch.empty(1, 2, 1, 1, device="meta"))),
        nn.AvgPool2d(17),
        nn.AvgPool2d(2, 1, 2),
    ],
)
def test_what_does_not_fit_is_said_by_torch(wrong):
    with pytest.raises(RuntimeError):
        num_macs(wrong, (3, 16, 16))
