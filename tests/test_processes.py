import os
import subprocess
import sys

import pytest

from uqlib.processes import claim_gpus, visible_gpus


@pytest.fixture
def cards(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")


def test_cards_are_those_that_are_visible_or_that_the_driver_lists(cards, monkeypatch, tmp_path):
    assert visible_gpus() == ["4", "5", "7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf 'GPU 0: A (UUID: x)\\nGPU 1: B (UUID: y)\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == ["0", "1"]
    program.unlink()
    assert visible_gpus() == []


def test_no_card_is_claimed_twice(cards, tmp_path):
    with claim_gpus(2, tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"
        script = (
            "import os, sys; from pathlib import Path; from uqlib.processes import claim_gpus\n"
            "with claim_gpus(int(sys.argv[1]), Path(sys.argv[2])):\n"
            "    print(os.environ['CUDA_VISIBLE_DEVICES'])"
        )
        outside = os.environ | {"CUDA_VISIBLE_DEVICES": "4,5,7"}
        runs = [
            subprocess.run(
                [sys.executable, "-c", script, str(number), str(tmp_path)],
                env=outside, capture_output=True, text=True,
            )
            for number in (1, 2)
        ]  # fmt: skip
        assert runs[0].stdout == "7\n"
        assert "2 graphics cards asked for, 1 free" in runs[1].stderr
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5,7"


def test_a_scheduler_has_the_last_word(cards, monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with claim_gpus(1, tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5,7"
    assert not list(tmp_path.iterdir())


def test_nothing_is_claimed_without_cards_or_need(cards, monkeypatch, tmp_path):
    with claim_gpus(0, tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5,7"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with claim_gpus(1, tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
