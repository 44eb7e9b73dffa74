"""TrialActor: the Ray Tune trainable that runs trials one after the other in a process that lives for all of them."""

from __future__ import annotations

import gc
import logging
import socket
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from nas.base.errors import host_error
from nas.base.extensions import keep
from nas.config.sections import ExperimentConfig
from nas.runs.record import TrialRecord
from nas.runs.under_way import folder_of
from nas.search.cluster.drain import Drain
from nas.space.genotype import Genotype

if TYPE_CHECKING:
    from nas.search.evaluators.context import TrialContext

REPORT_SECONDS = 10.0


def made_context(
    experiment: str,
    run_dir: str,
    num_threads: int,
    on_gpu: bool,
    code: Mapping[str, str] | None = None,
    storage: tuple[str, str] | None = None,
) -> TrialContext:
    """Where this process runs trials. `code` has the files of modules that the experiment names, which are written
    where they are not yet; `storage` is what a `Store` is made of, for a run whose folder this host need not see."""
    import torch

    from nas.search.cluster.store import Store, made_scratch
    from nas.search.evaluators.context import TrialContext

    logging.getLogger("nas").setLevel(logging.WARNING)
    folder = made_scratch(storage[1]) / "run" if storage else Path(run_dir)
    keep(folder, code or {})
    return TrialContext(
        config=ExperimentConfig.model_validate_json(experiment),
        run_dir=folder,
        device=torch.device("cuda" if on_gpu else "cpu"),
        num_threads=num_threads,
        store=Store(*storage) if storage else None,
    )


class TrialActor(tune.Trainable):
    """One step is the epochs of at least ten seconds (a report costs some 20 ms), or up to the next at which trials are
    compared; the last has the record.

    The process is reused: torch is imported once, the data set is read once, and `process_state.reset_process` gives
    every trial a fresh start. The config holds a trial as plain data: number, genotype, params, seed.
    """

    def setup(  # type: ignore[override]
        self,
        config: dict[str, Any],
        experiment: str,
        run_dir: str,
        num_threads: int,
        on_gpu: bool,
        code: Mapping[str, str] | None = None,
        storage: tuple[str, str] | None = None,
        choices: Mapping[str, str] | None = None,
    ) -> None:
        """`choices` are the forms of kernels that the run was begun with; for the others see `made_context`."""
        from nas import kernels

        kernels.use(choices or {})
        self.context = made_context(experiment, run_dir, num_threads, on_gpu, code, storage)
        self.context.save_now = Drain().noticed
        self.rows = self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.rows.close()  # a trial that was stopped early lets go of its locks
        if not gc.get_freeze_count():
            gc.collect()
            gc.freeze()  # collecting between trials need not walk through all that the first one imported: 0.15 s
        self.rows = self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        begin, rows = time.monotonic(), []
        while time.monotonic() - begin < REPORT_SECONDS:
            try:
                row = next(self.rows)
            except Exception as problem:
                ours = host_error(problem)
                if ours is None:
                    raise
                return {"rows": rows, "host_error": f"{socket.gethostname()}: {ours}", "done": True}
            if "record" in row:
                trace = self._trace(row["record"])
                return {"rows": rows, "record": row["record"].to_json(), "trace": trace, "done": True}
            if self.task.replicate_of is not None:  # it is compared with no other
                continue
            rows.append(row)
            if row["epoch"] in self.context.rungs:
                break
        return {"rows": rows}

    def cleanup(self) -> None:
        self.rows.close()

    def _trace(self, record: TrialRecord) -> str | None:
        """Of a failed trial, for a driver that does not see the files of this host."""
        path = folder_of(self.task.kept_in(self.context.run_dir), record.number) / "traceback.txt"
        if self.context.store is None or record.state != "failed" or not path.exists():
            return None
        return path.read_text(encoding="utf-8")

    def _start(self, config: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        from nas.search.trial import TrialTask, run_trial

        task = TrialTask(
            number=config["number"],
            genotype=Genotype.from_json(config["genotype"]),
            params=config["params"],
            seed=config["seed"],
            dominating=config["dominating"],
            costs=config["costs"],
            only_costs=config["only_costs"],
            compared=config["compared"],
            donor=config.get("donor"),
            replicate_of=config.get("replicate_of"),
        )
        self.task = task
        return run_trial(task, self.context)
