"""Run the cluster's test and keep what happened, for the chapter on running on a cluster.

    .venv/bin/python benchmarks/cluster.py

Needs root and Debian's munge, slurmctld, slurmd and slurm-client, and the extra `slurm`; takes
minutes. Writes ``benchmarks/results/cluster.json``.
"""

import json
import subprocess
import sys
from pathlib import Path

from uqlib.artifacts import write_text
from uqlib.paths import ROOT

RESULTS = Path(__file__).parent / "results/cluster.json"


def main():
    kept = ROOT / "build/cluster"
    for record in kept.glob("*.json"):
        record.unlink()
    command = [sys.executable, "-m", "pytest", "-m", "slow", "-rs", "tests/cluster"]
    status = subprocess.run(command, cwd=ROOT).returncode
    records = [json.loads(path.read_text()) for path in sorted(kept.glob("*.json"))]
    if status or not records:
        raise SystemExit("the test did not pass, or was skipped: nothing is kept")
    write_text(json.dumps(records, indent=1) + "\n", RESULTS)


if __name__ == "__main__":
    main()
