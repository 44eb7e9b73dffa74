"""The training of a supernet by the one loop, and networks with what they inherit."""

from __future__ import annotations

import torch

from helpers.trials import CONFIG, SPACE
from nas.data.batches import MemorySource
from nas.data.datasets import load_dataset
from nas.networks.shared.supernet import Supernet
from nas.training.loop import measure_score
from nas.training.supernet import CALIBRATION_IMAGES, inheriting, train_supernet

CPU = torch.device("cpu")


def test_all_networks_learn_at_once_and_norms_have_statistics_of_their_own(tmp_path):
    proxy = CONFIG.proxy.model_copy(update={"epochs": 10, "learning_rate": 1e-2, "max_images_per_class": 60})
    source = MemorySource(load_dataset(proxy, 0, tmp_path), proxy, seed=0, device=CPU)
    torch.manual_seed(0)
    net = Supernet(SPACE, 10, 1, num_paths=2)
    fresh = [inheriting(net, net.genotype(number), source, CPU) for number in range(4)]
    *_, last = train_supernet(net, source, proxy, 0.3, seed=0, device=CPU)
    assert last["epoch"] == 10 and net.passes == 10 * 2 * source.steps_per_epoch
    inherited = [inheriting(net, net.genotype(number), source, CPU) for number in range(4)]
    before, after = ([measure_score(model, source).top1 for model in models] for models in (fresh, inherited))
    assert sum(after) / 4 > sum(before) / 4 + 0.08, (before, after)

    model, batches = inherited[0], list(source.train_batches(0))
    assert sum(len(images) for images, _ in batches) < CALIBRATION_IMAGES
    seen = torch.stack([model.stem[0](images).mean((0, 2, 3)) for images, _ in batches]).mean(0)
    torch.testing.assert_close(model.stem[1].running_mean, seen, rtol=1e-4, atol=1e-5)
    assert model.stem[1].momentum == 0.1
