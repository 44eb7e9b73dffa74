"""Kill a search again and again, and count its trials. Usage: kill_campaign.py driver|worker [KILLS] [TRIALS]

driver: SIGKILLs the driver at random moments of its life, each time going on with --resume, then lets it end.
worker: SIGKILLs processes of trials at random moments. Prints JSON: trials by state in records and study, repeated
keys and numbers, trainings, attempts.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers.searches import kill_campaign, worker_kill_campaign

CAMPAIGNS = {"driver": (kill_campaign, 20, 40), "worker": (worker_kill_campaign, 10, 10)}

if __name__ == "__main__":
    campaign, kills, num_trials = CAMPAIGNS[sys.argv[1]]
    kills = int(sys.argv[2]) if len(sys.argv) > 2 else kills
    num_trials = int(sys.argv[3]) if len(sys.argv) > 3 else num_trials
    with tempfile.TemporaryDirectory(prefix="opnas-kills-") as folder:
        result = campaign(Path(folder), kills, num_trials)
    print(json.dumps({"command": " ".join(["scripts/kill_campaign.py", *sys.argv[1:]]), **result}, indent=1))
