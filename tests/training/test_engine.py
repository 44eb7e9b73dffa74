"""A long training beyond a proxy: many processes, accumulation, the guard against NaN, stops, recomputation."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from helpers import processes
from helpers.trainings import TIMES, config, operator_net, run, small_net, weights
from nas.data.batches import Batch, Shard
from nas.data.sources import open_source
from nas.retrain.supervisor import free_port
from nas.training.engine import Engine
from nas.training.loop import NonFiniteLoss, Stopped, train
from nas.training.mixing import distillation
from nas.training.process_group import ProcessGroup, connected, group_from_environment, num_local

SIZE = 10


class Doubles:
    """Random images in float64, the same for every share."""

    num_classes, in_channels, steps_per_epoch, fingerprint = 10, 1, 10, "doubles"
    class_names = tuple("0123456789")
    num_train, num_validation = SIZE * steps_per_epoch, 50

    def __init__(self, shard: Shard | None = None):
        self.shard = shard or Shard()
        random = torch.Generator().manual_seed(0)
        self.images = torch.randn(self.num_train, 1, 8, 8, generator=random, dtype=torch.float64)
        self.labels = torch.randint(10, (self.num_train,), generator=random)

    def train_batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        for rows in torch.arange(self.num_train).tensor_split(self.steps_per_epoch)[start_step:]:
            for part in self.shard.batches(rows):
                yield self.images[part], self.labels[part]

    def validation_batches(self) -> Iterator[Batch]:
        rows = torch.arange(50).tensor_split(self.shard.world)[self.shard.rank]
        yield self.images[rows], self.labels[rows]


def frozen(model: nn.Module) -> nn.Module:
    """In float64 with batch norms that keep their statistics: what a batch consists of has then no influence."""
    for module in model.double().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().train = lambda mode=True: None  # type: ignore[method-assign]
    return model


def trained(shard: Shard, group: ProcessGroup | None = None) -> tuple[dict[str, torch.Tensor], list[dict]]:
    model = frozen(operator_net(drop_path=0.0))
    settings = config(epochs=2, optimizer="sgd", learning_rate=0.05, clip_grad=1.0)
    engine = Engine(group=group or ProcessGroup(), on_epoch=lambda row, networks: None)
    rows = list(train(model, Doubles(shard), settings, seed=1, device="cpu", engine=engine))
    return model.state_dict(), rows


def train_in_group(rank: int, port: int, parts: int, result: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    group = group_from_environment(os.environ)
    with connected(group, torch.device("cpu")):
        state, rows = trained(Shard(rank, 2, parts), group)
    if rank == 0:
        torch.save((state, rows), result)


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


def test_processes_and_parts_do_not_change_a_training(tmp_path):
    """All operators, float64, 20 steps: two processes, parts of a step, and both together agree to 1e-14."""
    whole, rows = trained(Shard())
    for parts in (2, 3):
        assert largest_difference(whole, trained(Shard(0, 1, parts))[0]) <= 1e-14
    for parts in (1, 2):
        port, result = free_port(), tmp_path / f"{parts}.pt"
        group = [processes.start(train_in_group, rank, port, parts, result) for rank in (0, 1)]
        for process in group:
            processes.finish(process, 300)
        state, group_rows = torch.load(result, weights_only=True)
        assert largest_difference(whole, state) <= 1e-14
        for row, other in zip(rows, group_rows, strict=True):
            for name in row.keys() - {*TIMES, "wait_share"}:
                assert row[name] == pytest.approx(other[name], rel=1e-9), name


def test_launchers_describe_the_group():
    assert group_from_environment({}) == ProcessGroup()
    assert group_from_environment({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}) == ProcessGroup(3, 4, 1)
    slurm = {"SLURM_PROCID": "2", "SLURM_NTASKS": "8", "SLURM_LOCALID": "2", "MASTER_ADDR": "n0"}
    assert group_from_environment(slurm) == ProcessGroup(2, 8, 2)
    assert group_from_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}) == ProcessGroup()
    assert num_local({}) is None and num_local({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}) == 4
    assert num_local(slurm) is None and num_local(slurm | {"SLURM_TASKS_PER_NODE": "4(x2)"}) == 4


# --- what is not finite -----------------------------------------------------------------------------------------------


def poisoned(model: nn.Module, calls: set[int]) -> nn.Module:
    """Its output is NaN in these of its forward passes in training, counted from 0."""
    count = itertools.count()

    def hook(module, _, output):
        return output * math.nan if module.training and next(count) in calls else output

    model.register_forward_hook(hook)
    return model


def test_a_bad_step_is_skipped(cache):
    """One of ten steps gives NaN: the other nine count, the statistics of batch norms stay clean."""
    rows = run(cache, model := poisoned(small_net(), {6}), config(), engine=skipping())
    assert [row["skipped_steps"] for row in rows] == [0, 1]
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert all(math.isfinite(row["train_loss"]) for row in rows)


def skipping(**options) -> Engine:
    return Engine(skip_nonfinite=True, on_epoch=lambda row, networks: None, **options)


def test_bad_steps_in_a_row_return_to_the_checkpoint(cache, tmp_path, caplog):
    model = poisoned(small_net(), {6, 7, 8, 9})
    rows = run(cache, model, config(epochs=3), engine=skipping(), checkpoint_dir=tmp_path, checkpoint_seconds=1000)
    assert "back to epoch 2, step 0" in caplog.text
    assert [row["epoch"] for row in rows] == [1, 2, 3] and rows[-1]["skipped_steps"] == 4


def test_what_never_recovers_ends_with_its_reason(cache, tmp_path):
    model = poisoned(small_net(), set(range(6, 1000)))
    with pytest.raises(NonFiniteLoss, match="3 returns to the last checkpoint did not help"):
        run(cache, model, config(epochs=9), engine=skipping(), checkpoint_dir=tmp_path)


# --- stop and go on, memory, compilation, teacher ---------------------------------------------------------------------


def test_a_stop_saves_and_resume_is_exact(cache, tmp_path):
    settings = config(epochs=2, mixup=0.2, cutmix=1.0, ema=0.9)
    run(cache, whole := small_net(), settings, engine=skipping())
    count = itertools.count(1)
    with pytest.raises(Stopped, match="epoch 2 after step 2"):
        engine = skipping(stop=lambda: next(count) == 7)
        run(cache, small_net(), settings, engine=engine, checkpoint_dir=tmp_path, checkpoint_seconds=1000)
    run(cache, resumed := small_net(), settings, engine=skipping(), checkpoint_dir=tmp_path)
    assert weights(resumed) == weights(whole)


def test_recomputation_changes_nothing(cache):
    settings = config(epochs=1, max_images_per_class=20)
    run(cache, plain := operator_net(), settings)
    run(cache, saving := operator_net(), settings, engine=Engine(recompute=True))
    assert weights(saving) == weights(plain)


def test_a_network_that_cannot_be_compiled_trains_as_it_is(cache, caplog):
    import torch._inductor.config as inductor

    run(cache, plain := small_net(), config(epochs=1))
    with inductor.patch({"cpp.cxx": ("/no/such/compiler",), "force_disable_caches": True}):
        run(cache, model := small_net(), config(epochs=1), engine=Engine(compile=True))
    assert "torch.compile failed, training goes on without" in caplog.text and weights(model) == weights(plain)


def test_a_teacher_shares_the_loss(cache):
    settings = config(epochs=1, batch_size=1000, augment="none")
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval().requires_grad_(False)
    engine = Engine(teacher=teacher, distillation=0.3, distillation_temperature=2.0)
    (row,) = run(cache, small_net(dropout=0), settings, engine=engine)
    source = open_source(settings, seed=0, device="cpu", cache_dir=cache)
    ((images, labels),) = source.train_batches(0)
    logits = small_net(dropout=0)(images)
    expected = 0.7 * functional.cross_entropy(logits, labels) + 0.3 * distillation(logits, teacher(images), 2.0)
    assert row["train_loss"] == pytest.approx(expected.item(), rel=1e-5)
