"""Kill a search again and again, and count what became of its trials. Usage: kill_campaign.py [KILLS] [TRIALS]

SIGKILLs the driver at random moments of its life, each time going on with --resume, then lets it end. Prints JSON:
trials by state in records and study, repeated keys and numbers, trainings, attempts.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from searches import kill_campaign

if __name__ == "__main__":
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    num_trials = int(sys.argv[2]) if len(sys.argv) > 2 else 40
    with tempfile.TemporaryDirectory(prefix="opnas-kills-") as folder:
        print(json.dumps(kill_campaign(Path(folder), kills, num_trials), indent=1))
