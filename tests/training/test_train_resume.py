"""A training that is interrupted, killed or damaged goes on to the same bits, or is refused with its reason."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from helpers import retrainings
from helpers.trainings import FULL, Interrupted, config, operator_net, run, small_net, timeless, weights
from nas.data.sources import open_source


@pytest.mark.parametrize("build, steps, fewest", [(small_net, 3, 4), (operator_net, 3, 4), (operator_net, 5, 3)])
def test_resume_at_every_step_is_exact(cache, tmp_path, build, steps, fewest):
    """Each life makes so many steps, dies in the next, and the chain of lives ends with the same bits and curve. An
    epoch has five: what sets the temperature for its evaluation is not in the life that evaluates then."""
    settings = config(**FULL)
    rows = run(cache, whole := build(), settings)
    assert open_source(settings, seed=0, device="cpu", cache_dir=cache).steps_per_epoch == 5
    lives, pieces = 0, []
    while True:
        lives += 1
        steps_left = [steps + 1]

        @contextmanager
        def device_lock(steps_left=steps_left):
            steps_left[0] -= 1
            if steps_left[0] < 0:
                raise Interrupted
            yield

        resumed = build()
        try:
            pieces = run(
                cache, resumed, settings, checkpoint_dir=tmp_path, checkpoint_seconds=0, device_lock=device_lock
            )
            break
        except Interrupted:
            assert lives < 20
    assert lives >= fewest and timeless(pieces) == timeless(rows) and weights(resumed) == weights(whole)
    finished = build()
    again = run(cache, finished, settings, checkpoint_dir=tmp_path, checkpoint_seconds=0)
    assert again == pieces and weights(finished) == weights(whole)


def test_resume_between_epochs_yields_the_finished_rows(cache, tmp_path):
    settings = config(epochs=4)
    rows = run(cache, small_net(), settings)
    run(cache, small_net(), settings, epochs=2, checkpoint_dir=tmp_path, checkpoint_seconds=0)
    assert timeless(run(cache, small_net(), settings, checkpoint_dir=tmp_path)) == timeless(rows)


def test_a_damaged_checkpoint_costs_steps_not_exactness(cache, tmp_path):
    settings = config(**FULL)
    run(cache, whole := small_net(), settings)
    run(cache, small_net(), settings, epochs=1, checkpoint_dir=tmp_path, checkpoint_seconds=0)
    newest = max(tmp_path.glob("*.pt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    run(cache, resumed := small_net(), settings, checkpoint_dir=tmp_path, checkpoint_seconds=0)
    assert weights(resumed) == weights(whole)


@pytest.mark.parametrize("change", ["config", "key", "seed", "data"])
def test_a_checkpoint_of_another_training_is_refused(cache, tmp_path, change):
    run(cache, small_net(), config(), epochs=1, checkpoint_dir=tmp_path, checkpoint_seconds=0, key="a")
    options = {"config": {}, "key": {"key": "b"}, "seed": {"seed": 2}, "data": {"source_seed": 5}}[change]
    settings = config(learning_rate=1e-3) if change == "config" else config()
    with pytest.raises(ValueError, match="checkpoint of another training"):
        run(cache, small_net(), settings, checkpoint_dir=tmp_path, **{"key": "a", **options})


def test_sigkill_at_any_moment(tmp_path):
    """Five lives of one training end by SIGKILL, with none, one or two loader processes; then it is left alone."""
    found = retrainings.kills(tmp_path, 5, epochs=3)
    struck = found["last_checkpoint_at"]
    assert found["kills"] == 5 and struck == sorted(struck) and struck[-1] > struck[0]
    assert found["equal"] == {"model": True, "average": True, "optimizer": True, "curve": True}


def test_checkpoints_come_by_the_clock(cache, tmp_path):
    run(cache, small_net(), config(epochs=2), checkpoint_dir=tmp_path / "never", checkpoint_seconds=1000)
    assert not (tmp_path / "never").exists()
    run(cache, small_net(), config(epochs=2), checkpoint_dir=tmp_path / "always", checkpoint_seconds=0)
    steps = 2 * open_source(config(), seed=0, device="cpu", cache_dir=cache).steps_per_epoch
    assert max((tmp_path / "always").glob("*.pt")).stem == f"{steps + 2:08d}"  # each step and each epoch end


# --- failures ---------------------------------------------------------------------------------------------------------


def test_float16_resume_keeps_the_scale(cache, tmp_path):
    settings = config(epochs=2, amp="float16")
    run(cache, whole := small_net(), settings)
    run(cache, small_net(), settings, epochs=1, checkpoint_dir=tmp_path, checkpoint_seconds=0)
    run(cache, resumed := small_net(), settings, checkpoint_dir=tmp_path, checkpoint_seconds=0)
    assert weights(resumed) == weights(whole)
