"""Collection through a real SLURM cluster that loses a job and a node on the way."""

import hashlib
import os
import re
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from loopback import ask, power_off, processes_of, start, stop, wait_until_idle, what_is_missing

from uqlib.paths import ROOT

pytestmark = pytest.mark.slow
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


@pytest.fixture
def clone(tmp_path):
    """Return a clone with two profiles, alike but for their names, of a small collection."""
    folder = tmp_path / "book"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    profile = yaml.safe_load((folder / "config/classroom.yaml").read_text())
    study = {
        "models": profile["collect"]["zoo"]["models"][:2],
        "questions": ["world_opinions"],
        "settings": {"device": "cpu", "batch_tokens": 256},
    }
    small = {"collect": {"zoo": study}, "published": [], "notebooks": {}, "chapters": []}
    for name in ("plain", "cluster"):
        (folder / f"config/{name}.yaml").write_text(yaml.safe_dump(small))
    (folder / "data").mkdir(exist_ok=True)
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
        time.sleep(0.1)
    return found


def collecting(cluster, node):
    """Return the process on a node that runs a collection's notebook, once it has begun."""
    for process in processes_of(cluster, node):
        try:
            line = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if "-m uqlib.pipeline run" in line and "14_collect" in line and "snakemake" not in line:
            return process
    return None


def shards(clone, process):
    model = process.cmdline()[process.cmdline().index("run") + 3].split("/")[-1]
    folder = clone / "build/cluster/responses/zoo" / model.removesuffix(".ipynb")
    return len(list(folder.glob(".shards/*/shard-*.parquet")))


def results(build):
    return {
        str(file.relative_to(build)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in [*build.glob("questions/*.parquet"), *build.glob("responses/**/*.parquet")]
    }


def test_a_lost_job_and_a_lost_node_change_nothing(cluster, clone):
    assert collect(clone, "plain", os.environ, "--cores=1").wait(300) == 0
    expected = results(clone / "build/plain")
    assert len(expected) == 3

    log = clone / "cluster.log"
    process = collect(clone, "cluster", cluster.environment, "--cores=8", *SLURM)
    try:
        for node in ("n1", "n2"):
            notebook = wait_for(lambda node=node: collecting(cluster, node), process, log)
            wait_for(lambda notebook=notebook: shards(clone, notebook), process, log)
        collecting(cluster, "n1").kill()
        power_off(cluster, "n2")
        assert process.wait(600) == 0, log.read_text()[-5000:]
    finally:
        process.kill()
        process.wait()

    jobs = ask(cluster, "scontrol", "--oneliner", "show", "jobs").splitlines()
    told = [dict(re.findall(r"(\w+)=(\S*)", job)) for job in jobs]
    print(*sorted((j["JobState"], j["MinMemoryNode"], j["Restarts"]) for j in told), sep="\n")
    assert results(clone / "build/cluster") == expected
    lost = [job for job in told if job["JobState"] == "FAILED"]
    assert [job["MinMemoryNode"] for job in lost] == ["4001M"]
    assert "8000M" in {job["MinMemoryNode"] for job in told if job["JobState"] == "COMPLETED"}
    assert max(int(job["Restarts"]) for job in told) >= 1
