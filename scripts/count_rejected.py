"""How many proposals of finished searches were rejected before any training, and why. Usage: count_rejected.py RUN...

Prints JSON. The figures of results/search/rejected.json are of
for s in random nsga2 surrogate; do
  nas search search_spaces/quickstart.yaml --name limited-$s --set search.sampler=$s \\
    --set 'constraints={latency_ms: {max: 1.0}}'
done
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from nas.runs.record import read_records


def counted(run_dir: Path) -> dict:
    records = read_records(run_dir)
    states = Counter(record.state for record in records)
    trained = [record.key for record in records if record.state != "rejected"]
    reasons = Counter((record.error or "").split(":")[0] for record in records if record.state == "rejected")
    return {
        "run": run_dir.name,
        "proposals": len(records),
        "states": dict(states),
        "rejected_for": dict(reasons),
        "share_rejected": round(states["rejected"] / len(records), 3),
        "trained_twice": len(trained) - len(set(trained)),
    }


if __name__ == "__main__":
    folders = [Path("results") / name for name in sys.argv[1:]]
    environment = json.loads((folders[0] / "environment.json").read_text(encoding="utf-8"))
    kept = {name: environment[name] for name in ("processor", "versions", "python", "git")}
    command = " ".join(["scripts/count_rejected.py", *sys.argv[1:]])
    print(json.dumps({"command": command, **kept, "runs": [counted(folder) for folder in folders]}, indent=1))
