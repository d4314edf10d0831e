"""Collection through a real SLURM cluster that loses a job and a node on the way.

What happened is written to ``build/cluster/<lost>.json``; ``benchmarks/cluster.py`` runs this and
keeps the records for the chapter on clusters.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import psutil
import pytest
import yaml
from loopback import ask, power_off, processes_of, start, stop, wait_until_idle, what_is_missing

from uqlib.artifacts import write_text
from uqlib.paths import ROOT

pytestmark = pytest.mark.slow
LOST = ["machine", "daemon"]
PACKAGES = ["snakemake", "snakemake-executor-plugin-slurm"]
STATES = ["COMPLETED", "FAILED"]
SLURM = [
    "--profile=profiles/slurm",
    "--set-resources=collect_zoo:gpu=1",
    "--slurm-no-account",
    "--slurm-status-command=squeue",
    "--slurm-init-seconds-before-status-checks=2",
]


@pytest.fixture
def cluster(tmp_path):
    """Yield a running cluster: its `environment`, its `daemons` by name, its `folder`."""
    if reason := what_is_missing():
        pytest.skip(f"no cluster: {reason}")
    started = start(tmp_path / "slurm")
    try:
        wait_until_idle(started)
        yield started
    finally:
        stop(started)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Return a clone with profiles, alike but for their names, and the tables of one of them."""
    if reason := what_is_missing():
        pytest.skip(f"no cluster: {reason}")
    folder = tmp_path_factory.mktemp("clone") / "book"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    study = {
        "models": ["zoo/llama-0.3m-base", "zoo/llama-0.3m-instruct"],
        "questions": ["world_opinions"],
        "settings": {"device": "cpu", "batch_tokens": 1},
    }
    small = {"collect": {"zoo": study}, "published": [], "notebooks": {}, "chapters": []}
    for name in ("undisturbed", *LOST):
        (folder / f"config/{name}.yaml").write_text(yaml.safe_dump(small))
    (folder / "data").mkdir(exist_ok=True)
    status = collect(folder, "undisturbed", os.environ, "--cores=1").wait(300)
    assert status == 0, (folder / "undisturbed.log").read_text()[-5000:]
    return folder


def collect(clone, name, environment, *options):
    profile = yaml.safe_load((clone / f"config/{name}.yaml").read_text())
    models = [model.split("/")[-1] for model in profile["collect"]["zoo"]["models"]]
    tables = [f"build/{name}/responses/zoo/{model}/world_opinions.parquet" for model in models]
    command = [sys.executable, "-m", "snakemake", *tables, *options, f"--config=profile={name}"]
    own = {"UQLIB_DATA": str(clone / "data"), "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}
    with (clone / f"{name}.log").open("w") as log:
        return subprocess.Popen(
            command, cwd=clone, env=environment | own, stdout=log, stderr=subprocess.STDOUT
        )


def wait_for(condition, process, log, seconds=300):
    end = time.time() + seconds
    while not (found := condition()):
        assert process.poll() is None, log.read_text()[-5000:]
        assert time.time() < end, log.read_text()[-5000:]
        time.sleep(0.2)
    return found


def collecting(cluster, node, responses):
    """Return the process that runs a notebook on a node, once it has kept a batch."""
    for process in processes_of(cluster, node):
        try:
            words = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if words[1:4] == ["-m", "uqlib.pipeline", "run"] and "14_collect" in words[5]:
            model = Path(words[6]).stem
            if any((responses / model).glob(".shards/*/shard-*.parquet")):
                return process
    return None


def results(build):
    return {
        str(file.relative_to(build)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in [*build.glob("questions/*.parquet"), *build.glob("responses/**/*.parquet")]
    }


@pytest.mark.parametrize("lost", LOST)
def test_a_lost_job_and_a_lost_node_change_nothing(cluster, clone, lost):
    build, log = clone / f"build/{lost}", clone / f"{lost}.log"
    responses = build / "responses/zoo"
    started = time.time()
    process = collect(clone, lost, cluster.environment, "--cores=8", *SLURM)
    try:
        wait_for(lambda: collecting(cluster, "n1", responses), process, log).kill()
        events = [{"what": "a job on n1 killed", "second": time.time() - started}]
        wait_for(lambda: collecting(cluster, "n2", responses), process, log)
        if lost == "machine":
            power_off(cluster, "n2")
        else:
            cluster.daemons["n2"].kill()
        events.append({"what": f"{lost} n2 lost", "second": time.time() - started})
        assert process.wait(600) == 0, log.read_text()[-5000:]
        seconds = time.time() - started
    finally:
        process.kill()
        process.wait()

    expected = results(clone / "build/undisturbed")
    assert len(expected) == 3
    assert results(build) == expected

    shown = ask(cluster, "scontrol", "--oneliner", "show", "jobs").splitlines()
    jobs = [dict(re.findall(r"(\w+)=(\S*)", job)) for job in shown]
    print(
        *(f"{j['JobState']} {j['MinMemoryNode']} restarts {j['Restarts']}" for j in jobs), sep="\n"
    )
    memory = {
        state: {j["MinMemoryNode"] for j in jobs if j["JobState"] == state} for state in STATES
    }
    assert "4001M" in memory["FAILED"]
    assert "8000M" in memory["COMPLETED"]
    asked = [job for job in jobs if "TresPerJob" in job]
    assert all(job["TresPerJob"] == "gres:gpu:1" for job in asked)
    assert len(asked) == len(jobs) - 1
    if lost == "machine":
        assert max(int(job["Restarts"]) for job in jobs) == 1
    record = {
        "lost": lost,
        "seconds": seconds,
        "events": events,
        "identical_tables": len(expected),
        "slurm": ask(cluster, "sinfo", "--version").split()[-1],
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "options": SLURM,
        "jobs": [told(job, started) for job in jobs],
    }
    write_text(json.dumps(record, indent=1) + "\n", ROOT / f"build/cluster/{lost}.json")


def told(job, started):
    times = {}
    for key in ("SubmitTime", "StartTime", "EndTime"):
        when = job.get(key, "Unknown")
        times[key] = when != "Unknown" and datetime.fromisoformat(when).timestamp() - started
    return {
        "job": job["JobId"],
        "what": job.get("Comment", ""),
        "state": job["JobState"],
        "node": job.get("BatchHost", ""),
        "submitted": times["SubmitTime"],
        "started": times["StartTime"],
        "ended": times["EndTime"],
        "memory": job["MinMemoryNode"],
        "gpus": int(job.get("TresPerJob", "gres:gpu:0").rsplit(":", 1)[-1]),
        "restarts": int(job["Restarts"]),
    }
