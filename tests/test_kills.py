"""Collections killed at many moments end in the bytes of an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest

from uqlib.artifacts import write_parquet
from uqlib.paths import ROOT
from uqlib.questions.schema import SCHEMA
from uqlib.questions.world import evaluation_opinions

KILLS = 20


def start(folder, questions):
    parameters = {"questions": questions, "output": folder, "batch_tokens": 1, "device": "cpu"}
    command = [sys.executable, "-m", "papermill", ROOT / "notebooks/14_collect_responses.ipynb"]
    command += [folder / "out.ipynb", "--no-progress-bar"]
    for name, value in parameters.items():
        command += ["-p", name, str(value)]
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(
            command, cwd=ROOT, start_new_session=True, stdout=log, stderr=subprocess.STDOUT
        )


def shards(folder):
    return len(list(folder.glob(".shards/*/shard-*.parquet")))


def wait_for_a_new_shard(folder, process):
    before = shards(folder)
    while shards(folder) == before:
        assert process.poll() is None, (folder / "log.txt").read_text()[-3000:]
        time.sleep(0.01)


def kill(process, target):
    kernels = psutil.Process(process.pid).children(recursive=True)
    if target == "group":
        os.killpg(process.pid, signal.SIGKILL)
    for victim in kernels if target == "kernel" else [psutil.Process(process.pid)]:
        victim.kill()
    process.wait(60)
    _, alive = psutil.wait_procs(kernels, 5)
    for kernel in alive:
        kernel.kill()
    psutil.wait_procs(alive, 60)


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path):
    questions = tmp_path / "questions.parquet"
    asked = evaluation_opinions()
    copies = [
        asked.assign(question_id=f"{i}-" + asked.question_id, text=f"{i}: " + asked.text)
        for i in range(4)
    ]
    write_parquet(pd.concat(copies), questions, {}, SCHEMA)
    folders = [tmp_path / name for name in ("undisturbed", "killed")]
    for folder in folders:
        folder.mkdir()
    assert start(folders[0], questions).wait(900) == 0

    moments = random.Random(0)
    for number in range(KILLS):
        process = start(folders[1], questions)
        wait_for_a_new_shard(folders[1], process)
        time.sleep(moments.uniform(0, 0.1))
        kill(process, ["group", "papermill", "kernel"][number % 3])
        assert not (folders[1] / "world_opinions.parquet").exists()
    assert start(folders[1], questions).wait(900) == 0

    whole, resumed = [(f / "world_opinions.parquet").read_bytes() for f in folders]
    assert whole == resumed
    runs = [json.loads((f / "world_opinions.parquet.run.json").read_text()) for f in folders]
    assert runs[0]["prompts"] == runs[1]["prompts"]
    assert not (folders[1] / ".shards").exists()
