"""The driver of a search: Ray Tune, set up to run the trials of a searcher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from nas.base.extensions import kept
from nas.config.sections import ExperimentConfig
from nas.search.cluster.fair_share import FairShare
from nas.search.cluster.hosts import Newcomers
from nas.search.cluster.nodes import selector, trial_bundle
from nas.search.cluster.places import Places
from nas.search.scheduler import make_scheduler
from nas.search.searcher import StudySearcher


class _Hopeless(tune.Stopper):
    """Stops all trials where the searcher has no hope for them."""

    def __init__(self, searcher: StudySearcher):
        self.searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.searcher.hopeless


def fit(
    config: ExperimentConfig,
    searcher: StudySearcher,
    run_dir: Path,
    worker: type[tune.Trainable],
    fair_share: FairShare,
    storage: tuple[str, str] | None = None,
    newcomers: Newcomers | None = None,
    choices: Mapping[str, str] | None = None,
) -> None:
    """Run trials until the searcher has no more; each has a worker, an actor that lives for many of them.

    `storage` is what the `Store` of the trials is made of, if they have one; `newcomers` has the nodes of a cluster
    given by its address; `choices` are the forms of kernels that all trials compute with (see
    `nas.search.cluster.choices`).
    """
    resources, code = config.resources, kept(run_dir)
    trainable = tune.with_parameters(
        worker,
        experiment=config.model_dump_json(),
        run_dir=str(run_dir.resolve()),
        num_threads=max(1, int(resources.cpus_per_trial)),
        on_gpu=resources.gpus_per_trial > 0,
        **({"code": code} if code else {}),
        **({"storage": storage} if storage else {}),
        **({"choices": choices} if choices else {}),
    )

    def request(trial: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([trial_bundle(resources)], **selector(resources, trial["avoided"]))

    tuner = tune.Tuner(
        tune.with_resources(trainable, request),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=make_scheduler(config, searcher.stopping, searcher.on_trial_error),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: _name(trial.config),
            trial_dirname_creator=lambda trial: _name(trial.config),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str((run_dir / "ray").resolve()),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials write their own
            failure_config=tune.FailureConfig(max_failures=-1),  # the searcher counts, and gives up
            stop=_Hopeless(searcher),
            callbacks=[Places(resources, searcher, fair_share, newcomers)],
            progress_reporter=tune.CLIReporter(),  # silent; the one for notebooks clears what a cell has said
            verbose=0,
        ),
    )
    tuner.fit()


def _name(task: Mapping[str, Any]) -> str:
    of = task.get("replicate_of")
    return f"trial-{task['number']}" if of is None else f"replicate-{of}-{task['number']}"
