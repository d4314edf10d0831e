"""A real SLURM cluster on one machine: munge, a controller and two nodes on the loopback."""

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import psutil

PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo"]
NODES = ["n1", "n2"]
CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
SlurmdTimeout=10
KillWait=5
MinJobAge=3600
NodeName=DEFAULT CPUs=1 RealMemory=16000 Gres=gpu:1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=INFINITE
"""


def what_is_missing() -> str:
    """Say why no cluster can be started here; empty if one can."""
    if os.geteuid() != 0:
        return "its daemons are started as root"
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        packages = "apt-get install munge slurmctld slurmd slurm-client"
        return f"{', '.join(missing)} not found ({packages})"
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return "Snakemake's executor is not installed (pip install '.[slurm]')"
    return ""


def start(folder: Path) -> SimpleNamespace:
    for name in ("state", "spool", "log"):
        (folder / name).mkdir(parents=True)
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o600)
    host = socket.gethostname().split(".")[0]
    text = CONFIGURATION.format(folder=folder, host=host, ports=free_ports(3))
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    configured = {"SLURM_CONF": str(folder / "slurm.conf")}
    wrap_srun(folder / "bin", configured["SLURM_CONF"])
    environment = os.environ | configured | {"PATH": f"{folder}/bin:{os.environ['PATH']}"}
    cluster = SimpleNamespace(folder=folder, environment=environment, daemons={})
    files = ["key-file=munge.key", "socket=munge.socket", "pid-file=munge.pid"]
    files += ["log-file=log/munge.log", "seed-file=munge.seed"]
    options = [f"--{option.replace('=', f'={folder}/')}" for option in files]
    start_daemon(cluster, "munged", "--foreground", "--force", *options)
    while not (folder / "munge.socket").exists():
        time.sleep(0.1)
    start_daemon(cluster, "slurmctld", "-D")
    for node in NODES:
        start_daemon(cluster, "slurmd", "-D", "-N", node, name=node)
    return cluster


def wrap_srun(folder: Path, configuration: str):
    """Make `srun` find the cluster: Snakemake's job step takes SLURM_CONF from its environment."""
    folder.mkdir()
    call = f'SLURM_CONF={configuration} exec {shutil.which("srun")} "$@"'
    (folder / "srun").write_text(f"#!/bin/sh\n{call}\n")
    (folder / "srun").chmod(0o755)


def start_daemon(cluster, program, *options, name=None):
    name = name or program
    with (cluster.folder / f"log/{name}").open("a") as log:
        cluster.daemons[name] = subprocess.Popen(
            [shutil.which(program), *options], env=cluster.environment, stdout=log, stderr=log
        )


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def ask(cluster, *command: str) -> str:
    run = subprocess.run(command, env=cluster.environment, capture_output=True, text=True)
    return run.stdout.strip()


def wait_until_idle(cluster, seconds: float = 60):
    end = time.time() + seconds
    while ask(cluster, "sinfo", "--noheader", "--format=%D %t") != f"{len(NODES)} idle":
        logs = "\n".join(file.read_text()[-1500:] for file in (cluster.folder / "log").iterdir())
        dead = [name for name, daemon in cluster.daemons.items() if daemon.poll() is not None]
        assert not dead and time.time() < end, logs
        time.sleep(0.5)


def processes_of(cluster, node: str) -> list[psutil.Process]:
    """Return what a node runs for jobs: the steps' daemons first, then the jobs' processes."""
    jobs, steps = [], {}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            parents = process.parents()
        except psutil.Error:
            continue
        ours = environment.get("PATH") == cluster.environment["PATH"]
        if ours and environment.get("SLURMD_NODENAME") == node:
            jobs.append(process)
            steps |= {p.pid: p for p in parents if p.name().startswith("slurmstepd")}
    return [*steps.values(), *(job for job in jobs if job.pid not in steps)]


def power_off(cluster, node: str):
    """Kill a node's daemon and all it runs, as when its machine loses power."""
    cluster.daemons[node].kill()
    cluster.daemons[node].wait()
    for process in processes_of(cluster, node):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def stop(cluster):
    for job in ask(cluster, "squeue", "--noheader", "--format=%A").split():
        ask(cluster, "scancel", "--signal=KILL", job)
        ask(cluster, "scancel", job)
    for node in NODES:
        power_off(cluster, node)
    for daemon in reversed(cluster.daemons.values()):
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
