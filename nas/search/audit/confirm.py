"""confirm: trains the networks in question of a run again, beyond what its search asked for."""

from __future__ import annotations

from pathlib import Path

from nas.base.errors import UserError
from nas.base.ray_session import refuse_running_ray
from nas.base.signals import stoppable
from nas.config.evaluators import TRAINED
from nas.runs.folder import plan_resume, resumed
from nas.search.run import check_machine, run_search


def confirm(run_dir: Path, replicates: int = 1, ray_address: str | None = None) -> None:
    """Train each network of the front of a run, and each that noise alone may keep from it, `replicates` times again
    with seeds of their own; those that are there already count.

    Their records lie in the run, whose report takes them into account. Interrupted, the same call goes on. Raises
    UserError where the objectives have no accuracy, or the run is searched at the moment.
    """
    config, space = resumed(run_dir, [f"search.replicates={replicates}"])
    if all(objective.name not in TRAINED for objective in config.objectives):
        raise UserError(f"{run_dir}: its objectives have no {config.trained}, so that there is no training to repeat")
    refuse_running_ray()
    check_machine(config, space, ray_address is not None)
    folder = plan_resume(run_dir, config)
    with stoppable():
        run_search(config, space, folder, run_dir / "resolved.yaml", True, ray_address, only_replicates=True)
