"""The hosts of a cluster that trials may run on, asked before the first trial whether they can."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.base.errors import MachineError
from nas.config.sections import ExperimentConfig
from nas.search.cluster import probe
from nas.search.cluster.store import reach

ANSWER_SECONDS = 180.0
PACKAGE = Path(__file__).parents[2]


def check_hosts(
    config: ExperimentConfig,
    run_dir: Path,
    nodes: Sequence[Mapping[str, Any]],
    storage: tuple[str, str] | None = None,
) -> None:
    """Raise MachineError where one of `nodes` (of `ray.nodes`) cannot run trials, with a line for each that cannot.

    Asked is whether the package is there, in the same version, and starts, whether the run folder is the same one
    there, or else the storage of the checkpoints, of which a `Store` is made, and the data; and whether those that
    start would measure latencies on like devices.
    """
    answers = _asked(config, run_dir, nodes, storage)
    lines = [
        f"{name_of(node)}: {'; '.join(answer['wrong'])}"
        for node, answer in zip(nodes, answers, strict=True)
        if answer["wrong"]
    ]
    wrong = ["\n  ".join(["--ray-address: not every host can run trials", *sorted(lines)])] if lines else []
    answered = zip(nodes, answers, strict=True)
    if unlike := _unlike(config, [(node, answer["processor"]) for node, answer in answered if answer["processor"]]):
        wrong.append(unlike)
    if wrong:
        raise MachineError("\n".join(wrong))


class Newcomers:
    """Nodes that join a running search: each is asked what the first ones were asked before its places count.

    What one lacks is said once; trials that begin from then on keep away from it.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        run_dir: Path,
        storage: tuple[str, str] | None,
        nodes: Sequence[Mapping[str, Any]],
        say: Callable[[str], None],
    ):
        """`nodes` have been asked already."""
        self.config, self.run_dir, self.storage, self.say = config, run_dir, storage, say
        self.refused: set[str] = set()
        """By their IDs."""
        self._accepted = {node["NodeID"] for node in nodes}
        self._asking: threading.Thread | None = None

    def accepted(self, nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Those of `nodes` that can run trials; others are asked meanwhile."""
        new = [node for node in nodes if node["NodeID"] not in self._accepted | self.refused]
        if new and (self._asking is None or not self._asking.is_alive()):
            self._asking = threading.Thread(target=self._ask, args=(new,), name="newcomers", daemon=True)
            self._asking.start()
        return [node for node in nodes if node["NodeID"] in self._accepted]

    def _ask(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        try:
            answers = _asked(self.config, self.run_dir, nodes, self.storage)
        except MachineError:  # the store does not answer now; they are asked again
            return
        for node, answer in zip(nodes, answers, strict=True):
            (self.refused if answer["wrong"] else self._accepted).add(node["NodeID"])
            if answer["wrong"]:
                self.say(f"{name_of(node)} has joined and is not used: {'; '.join(answer['wrong'])}")


def _asked(
    config: ExperimentConfig, run_dir: Path, nodes: Sequence[Mapping[str, Any]], storage: tuple[str, str] | None
) -> list[dict[str, Any]]:
    """What `probe.look` says of each node, or what became of it."""
    text = secrets.token_hex(8)
    seen = run_dir.resolve() / "ray" / f"seen-{text}"
    seen.touch()
    if storage is not None:
        reach(storage, text)
    data = config.proxy.data_dir if config.proxy.dataset == "imagefolder" else None
    asked = {"code": probe.code_of(PACKAGE), "file": None if config.resources.storage_path else str(seen), "data": data}
    asked |= {"storage": storage, "text": text}
    answers = on_every(nodes, "look", asked)
    seen.unlink()
    return [{"wrong": [answer], "processor": None} if isinstance(answer, str) else answer for answer in answers]


def _unlike(config: ExperimentConfig, processors: Sequence[tuple[Mapping[str, Any], str]]) -> str | None:
    """What is wrong where latencies that are compared would be measured on unlike devices of these nodes."""
    measured = next((objective for objective in config.objectives if objective.name == "latency_ms"), None)
    if measured is None and "latency_ms" not in config.constraints:
        return None
    on_gpu = config.resources.gpus_per_trial > 0
    if measured is not None and measured.device is not None:
        on_gpu = measured.device != "cpu"
    kinds: dict[str, list[str]] = {}
    for node, name in processors:
        gpus = [kind.partition(":")[2] for kind in node["Resources"] if kind.startswith("accelerator_type:")]
        kinds.setdefault(", ".join(gpus) if on_gpu else name, []).append(name_of(node))
    if len(kinds) < 2:
        return None
    found = "\n  ".join(f"{kind or 'GPUs of unknown kind'}: {', '.join(hosts)}" for kind, hosts in kinds.items())
    return (
        "latency_ms: the hosts would measure on unlike devices, whose latencies cannot be compared; choose one "
        f"kind by resources.accelerator, resources.labels or resources.custom\n  {found}"
    )


def collected(folder: Path) -> Path:
    """Copies of the folders that this package needs, in one folder that can be sent to hosts."""
    for package in probe.packages_of(PACKAGE):
        shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder.resolve()


def on_every(nodes: Sequence[Mapping[str, Any]], function: str, argument: Any) -> list[Any]:
    """What a function of `probe` returns on each node; a text that says why where a node does not answer."""
    cloudpickle.register_pickle_by_value(probe)
    try:
        task = ray.remote(num_cpus=0, max_retries=0)(getattr(probe, function))
        waited = [
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                argument
            )
            for node in nodes
        ]
        ready, _ = ray.wait(waited, num_returns=len(waited), timeout=ANSWER_SECONDS)
    finally:
        cloudpickle.unregister_pickle_by_value(probe)
    return [_answer(reference) if reference in ready else f"no answer in {ANSWER_SECONDS:g} s" for reference in waited]


def _answer(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayError as error:
        return str(error).strip().splitlines()[-1]


def forget(nodes: Sequence[Mapping[str, Any]], run: str) -> None:
    """Remove from the nodes what their workers kept of a run with a `Store`."""
    on_every(nodes, "forget", run)


def name_of(node: Mapping[str, Any]) -> str:
    """Host name and address of a node of `ray.nodes`."""
    host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
    return host if host == address else f"{host} ({address})"
