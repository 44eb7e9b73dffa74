"""run_search: one search from its experiment to its last record, going on where an earlier one stopped."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.base.errors import MachineError, UserError
from nas.base.extensions import is_own
from nas.base.locks import RunLock
from nas.base.ray_session import prepare_environment, quiet, ray_folder
from nas.config.evaluators import TRAINED
from nas.config.own import own_names
from nas.config.sections import FREE_COSTS, ExperimentConfig
from nas.runs.folder import LATENCY_TABLE, LATENCY_TABLES, begun_run, has_trained, run_id, shared_cache
from nas.runs.noise.replicates import accuracies, left_to_repeat, most_replicates
from nas.runs.record import TrialRecord, scan_records, set_aside
from nas.runs.under_way import trials_under_way
from nas.search.progress import Progress
from nas.space.published import named_genotype
from nas.space.search_space import SearchSpace
from nas.training.loggers import Loggers, check_loggers

if TYPE_CHECKING:
    from nas.search.searcher import StudySearcher
    from nas.search.study import Study
    from nas.search.surrogate.known_costs import KnownCosts

Start = tuple[str, dict[str, Any], str | None]
"""Name, parameters and, of a network outside the space, the genotype of what is proposed first."""


def run_search(
    config: ExperimentConfig,
    space: SearchSpace,
    run_dir: Path,
    source: Path,
    resume: bool,
    ray_address: str | None = None,
    worker: type | None = None,
    ship: bool = False,
    retry_failed: bool = False,
    only_replicates: bool = False,
    starts: Sequence[Start] | None = None,
) -> list[TrialRecord]:
    """Run, or go on with, a search in its run folder (see `folder.plan_run`) until it has its number of trainings.

    `source` is the file that `config` was read from, `worker` the Ray Tune trainable that runs the trials, if not
    `nas.search.cluster.worker.TrialActor`. `ship` sends this package to the hosts of the cluster. `retry_failed`
    has the trials that failed run again, under their numbers, from what they saved. At the end networks are trained
    again as `search.replicates` asks; with `only_replicates` nothing else is trained. `starts` are proposed
    first, in the place of `search.warm_start`. Returns all records. Raises
    locks.Locked where another driver has the run, which is then left as it is, ValueError where the machine lacks
    what the file asks for, HostError where a disk is full or a database gone, KeyboardInterrupt when stopped; going on
    later loses and repeats nothing.
    """
    with (
        RunLock(run_dir / "driver.lock"),
        begun_run(run_dir, source, config, resume),
        _explained(config, run_dir),
        quiet(),
    ):
        study, records = _open_study(config, space, run_dir, retry_failed)
        recovered = study.reconcile(records, trials_under_way(run_dir))
        trained = sum(record.state != "rejected" for record in records) >= config.search.num_trials
        if (trained or only_replicates) and not left_to_repeat(run_dir, config, records):
            return records
        progress = Progress(config.objectives, config.search.num_trials, records, _loggers(config, run_dir))
        prepare_environment(ray_address)
        from nas.base.ray_session import start_ray, stop_ray
        from nas.search.cluster.choices import pinned_choices
        from nas.search.cluster.fair_share import FairShare
        from nas.search.cluster.head import watch_ray
        from nas.search.cluster.hosts import Newcomers, collected, forget
        from nas.search.cluster.joining import checked_nodes
        from nas.search.cluster.nodes import fitting_nodes
        from nas.search.cluster.places import num_places
        from nas.search.cluster.store import Store, reach
        from nas.search.cluster.worker import TrialActor
        from nas.search.driver import fit
        from nas.search.replicates.searcher import ReplicatingSearcher
        from nas.search.stopping.choosing import make_stopping

        storage = _storage(config, run_dir)
        _enqueue(study, warm_starts(config, space) if starts is None else starts)
        fair_share: FairShare | None = None
        store: Store | None = None
        try:
            if storage:
                reach(storage)
                store = Store(*storage)
            shutil.rmtree(run_dir / "ray", ignore_errors=True)
            shutil.rmtree(ray_folder(run_dir), ignore_errors=True)
            (run_dir / "ray").mkdir(mode=0o700)  # Ray Tune pickles what it runs, the URL of the storage among it
            start_ray(ray_folder(run_dir), ray_address, collected(run_dir / "ray" / "sent") if ship else None)
            fair_share = FairShare()
            watch_ray(progress.say, given_address=ray_address is not None)
            newcomers: Newcomers | None = None
            if ray_address is not None:
                nodes = checked_nodes(config, run_dir, storage, progress.say)
                newcomers = Newcomers(config, run_dir, storage, nodes, progress.say)
            places = num_places(config.resources, fair_share)
            stopping = make_stopping(config, records, study.thaw)
            searcher = ReplicatingSearcher(
                config,
                space,
                study,
                run_dir,
                places,
                progress,
                records,
                recovered,
                stopping,
                store,
                only_replicates=only_replicates,
            )
            if not searcher.only_replicates:
                progress.say(f"{run_dir.name}: {_plan_in_words(config, searcher)}")
            choices = pinned_choices(config, run_dir, storage, progress.say)
            _prepare(config, run_dir, storage, choices, progress)
            fit(config, searcher, run_dir, worker or TrialActor, fair_share, storage, newcomers, choices)
            if storage:
                forget(fitting_nodes(config.resources), storage[1])
            if searcher.impossible:
                raise MachineError(searcher.impossible + (_way_out(run_dir, resume) if searcher.hopeless else ""))
        except MachineError:
            study.withdraw()
            if store is not None and not resume and not has_trained(run_dir):
                with suppress(UserError):  # it may be what cannot be reached any more
                    store.drop()
            raise
        finally:
            if fair_share is not None:
                fair_share.leave()
            stop_ray()
            shutil.rmtree(ray_folder(run_dir), ignore_errors=True)
            with suppress(OSError):  # the terminal may have gone
                progress.close()
        shutil.rmtree(run_dir / "ray", ignore_errors=True)
        if store is not None:
            store.drop()
        return _finished_records(run_dir)


def _prepare(
    config: ExperimentConfig,
    run_dir: Path,
    storage: tuple[str, str] | None,
    choices: dict[str, str],
    progress: Progress,
) -> None:
    """Have evaluators do what they need before the first trial; a training needs nothing, and no torch here."""
    if config.evaluator != "train":
        from nas.search.evaluators.preparing import prepare

        prepare(config, run_dir, storage, choices, progress.say)


def _enqueue(study: Study, starts: Iterable[Start]) -> None:
    for name, params, genotype in starts:
        study.enqueue(name, params, genotype)


def _loggers(config: ExperimentConfig, run_dir: Path) -> Loggers:
    """Those of `search.log`; they are told how is searched and trained, not where anything lies."""
    sections = {
        "search": config.search.model_dump(mode="json", exclude={"storage"}),
        "proxy": config.proxy.model_dump(),
    }
    settings = {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}
    return Loggers(config.search.log, "search.log", run_dir, run_dir.resolve().name, settings)


def _way_out(run_dir: Path, resume: bool) -> str:
    """How to go on after what the place did: the folder of a run that never trained anything goes."""
    again = "go on with --resume" if resume or has_trained(run_dir) else "the same command begins anew"
    return f"; {again} once that is mended"


def _plan_in_words(config: ExperimentConfig, searcher: StudySearcher) -> str:
    proxy, num_left = config.proxy, len(searcher.recovered) + len(searcher.waiting)
    to_measure = searcher.study.num_measured_first - searcher.num_measured
    first = f"; before, the costs of {to_measure} networks are measured" if to_measure > 0 else ""
    *filters, last = config.evaluators
    judged = f"{proxy.epochs} epochs" if config.trains else f"{last.label} from a batch"
    filtered = "".join(
        f"; {one.label} rejects nothing before {one.num_trained_first} trainings, then all but the best "
        f"{one.share_kept:.0%}, if these bear it out"
        for one in filters
    )
    if searcher.study.estimated:
        first = f"; latency as the table of parts says at first{first}"
    return (
        f"{config.search.num_trials} {'trainings' if config.trains else 'networks'} by {config.search.sampler}, "
        f"{searcher.places} at once, {searcher.num_trained} done, {num_left} interrupted to go on with; "
        f"each {judged} of {proxy.dataset} at {proxy.resolution} pixels on a "
        f"{'GPU' if config.resources.gpus_per_trial else 'CPU'}{filtered}{first}{_replicates_in_words(config)}"
    )


def _replicates_in_words(config: ExperimentConfig) -> str:
    replicates, noisy = config.search.replicates, any(objective.name in TRAINED for objective in config.objectives)
    if not noisy or replicates == 0:
        return ""
    if replicates is None:
        most = most_replicates(config)
        return f"; then up to {most} replicates" if most else ""
    times = "once" if replicates == 1 else f"{replicates} times"
    return f"; then each network of the front and within its noise {times} more"


def _finished_records(run_dir: Path) -> list[TrialRecord]:
    """All records; what is left of their trials' checkpoints is removed."""
    records, _ = scan_records(run_dir)
    for record in records:
        if record.state != "failed":  # a failed trial keeps its traceback
            shutil.rmtree(run_dir / "checkpoints" / str(record.number), ignore_errors=True)
    return records


def _open_study(
    config: ExperimentConfig, space: SearchSpace, run_dir: Path, retry_failed: bool
) -> tuple[Study, list[TrialRecord]]:
    """The study of a run and its records; with `retry_failed` those of failed trials are set aside."""
    from nas.search.storage import storage_url
    from nas.search.study import Study

    records, _ = scan_records(run_dir)
    if is_own(config.proxy.dataset):  # what is wrong with it is better said once than by every trial
        from nas.data.datasets import load_dataset

        load_dataset(config.proxy, config.search.seed, shared_cache(run_dir))
    again = [record.number for record in records if retry_failed and record.state == "failed"]
    url, known = storage_url(config, run_dir), _known(config, space, run_dir)
    estimated, repeats = known and known.estimated, accuracies(run_dir)
    study = Study(config, space, url, run_dir.name, known, run_id(run_dir), again, estimated, repeats)
    for number in again:
        set_aside(run_dir, number)
    records = [record for record in records if record.number not in again]
    return study, records


def _storage(config: ExperimentConfig, run_dir: Path) -> tuple[str, str] | None:
    """What the `Store` of a run is made of, if it has one: its path, and what keeps its files apart from others'."""
    path = config.resources.storage_path
    return (path, f"{run_dir.name}-{run_id(run_dir)}") if path else None


@contextmanager
def _explained(config: ExperimentConfig, run_dir: Path) -> Iterator[None]:
    """Raise what the surroundings of a search did to it as one message."""
    from nas.search.storage import explained, storage_url

    try:
        yield
    except Exception as error:
        ours = explained(error, storage_url(config, run_dir))
        if ours is None or ours is error:
            raise
        raise ours from None


def warm_starts(config: ExperimentConfig, space: SearchSpace) -> list[Start]:
    """Name, parameters, genotype JSON of every warm start; a network outside the space has the JSON, others not.

    Raises MachineError for a name that is neither published, nor a file, nor `each_operator`.
    """
    found = []
    for name in config.search.warm_start:
        if name == "each_operator":
            for label in config.space.operators:
                params = space.uniform(label)
                if params is not None:
                    found.append((f"each_operator {label}", params, None))
            continue
        try:
            genotype = named_genotype(name)
        except UserError as error:
            raise MachineError(f"search.warm_start: {error}; or each_operator") from None
        if (genotype.dense is None) != (config.space.dense is None):
            kinds = ("a classifier", "detectors") if genotype.dense is None else ("a detector", "classifiers")
            raise MachineError(f"search.warm_start: {name} is {kinds[0]}, the networks of space are {kinds[1]}")
        try:
            found.append((name, space.encode(genotype), None))
        except ValueError:
            found.append((name, {}, genotype.to_json()))
    return found


def _known(config: ExperimentConfig, space: SearchSpace, run_dir: Path) -> KnownCosts | None:
    """Costs that the surrogate, or a sampler of others, need not learn, or knows roughly."""
    asked = {*config.constraints, *(objective.name for objective in config.objectives)}
    learns = config.search.sampler == "surrogate" or is_own(config.search.sampler)
    tables = (run_dir / LATENCY_TABLE, shared_cache(run_dir) / LATENCY_TABLES)
    has_table = "latency_ms" in asked and any(path.exists() for path in tables)
    if not learns or not (has_table or asked & {*FREE_COSTS}):
        return None
    from nas.search.surrogate.known_costs import costs_of_run

    return costs_of_run(config, space, run_dir)


def check_start(
    config: ExperimentConfig, space: SearchSpace, run_dir: Path, ray_address: str | None, ship: bool
) -> None:
    """Raise MachineError with all for which `run_search` would refuse to start, on this host or on a cluster, whose
    hosts are asked; nothing stays of that."""
    wrong = _wrong(config, space, ray_address is not None)
    if ray_address is not None:
        prepare_environment(ray_address)
        from nas.search.cluster.joining import check_cluster

        wrong += check_cluster(config, run_dir, ray_address, ship, lambda text: print(text, file=sys.stderr))
    _refuse(wrong)


def check_machine(config: ExperimentConfig, space: SearchSpace, on_cluster: bool = False) -> None:
    """Raise MachineError for what would fail every trial, all of it at once: before a run folder is made."""
    _refuse(_wrong(config, space, on_cluster))


def _refuse(wrong: list[str]) -> None:
    if wrong:
        raise MachineError("\n     ".join(dict.fromkeys(wrong)))


def _wrong(config: ExperimentConfig, space: SearchSpace, on_cluster: bool) -> list[str]:
    checks = (
        *(_check_sampler, _check_scheduler, _check_starts, _check_own, _check_storage, _check_store, _check_data),
        *(_check_loggers, _check_runtimes, _check_evaluators),
    )
    wrong = []
    for check in checks:
        try:
            check(config, space)
        except ValueError as error:
            wrong.append(str(error))
    if not on_cluster and (problem := _missing_gpu(config)):
        wrong.append(problem)
    return wrong


def _check_sampler(config: ExperimentConfig, space: SearchSpace) -> None:
    from nas.search.samplers import check_sampler

    learns = any(objective.maximize for objective in config.objectives)
    check_sampler(config.search.sampler, len(config.objectives), space, learns)


def _check_scheduler(config: ExperimentConfig, space: SearchSpace) -> None:
    from nas.search.stopping.choosing import check_scheduler

    check_scheduler(config.search, len(config.objectives))


def _check_starts(config: ExperimentConfig, space: SearchSpace) -> None:
    warm_starts(config, space)


def _check_loggers(config: ExperimentConfig, space: SearchSpace) -> None:
    check_loggers(config.search.log, "search.log")


def _check_runtimes(config: ExperimentConfig, space: SearchSpace) -> None:
    for i, objective in enumerate(config.objectives):
        if objective.runtime != "torch":
            from nas.measure.runtimes import check_runtime

            try:
                check_runtime(objective.runtime)
            except MachineError as error:
                raise MachineError(f"objectives.{i}.runtime: {error}") from None


def _check_evaluators(config: ExperimentConfig, space: SearchSpace) -> None:
    if config.evaluator != "train":
        from nas.search.evaluators.registry import check_evaluators

        check_evaluators(config, space)


def _check_own(config: ExperimentConfig, space: SearchSpace) -> None:
    if own_names(config):
        from nas.networks.own import check_own

        check_own(config.space)


def _check_storage(config: ExperimentConfig, space: SearchSpace) -> None:
    from nas.search.storage import check_storage

    if config.search.storage:
        check_storage(config.search.storage)


def _check_store(config: ExperimentConfig, space: SearchSpace) -> None:
    if config.resources.storage_path:
        from nas.search.cluster.store import Store

        Store(config.resources.storage_path, "")


def _check_data(config: ExperimentConfig, space: SearchSpace) -> None:
    if config.proxy.task == "detection" and find_spec("faster_coco_eval") is None:
        raise MachineError("proxy.task: detection is judged by faster-coco-eval; pip install 'opnas[dense]'")
    if config.proxy.dataset == "imagefolder" and not (config.proxy.data_dir and Path(config.proxy.data_dir).is_dir()):
        folder = config.proxy.data_dir or "absent"
        raise MachineError(f"proxy.data_dir: {folder}: expected is a folder with one folder of images per class")


def _missing_gpu(config: ExperimentConfig) -> str | None:
    wants = {
        f"objectives.{i}.device: {objective.device}": objective.device
        for i, objective in enumerate(config.objectives)
        if (objective.device or "cpu") != "cpu"
    }
    if config.resources.gpus_per_trial:
        wants[f"resources.gpus_per_trial: {config.resources.gpus_per_trial:g}"] = "cuda"
    if not wants:
        return None
    import torch

    if torch.cuda.is_available():
        return None
    return f"{next(iter(wants))}: this machine has no usable GPU; take cpu and 0 GPUs, or --ray-address"
