"""Processes that do not outlive the one that started them, and that share graphics cards."""

import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from uqlib.artifacts import only_one


def end_with_parent() -> None:
    """Kill this process soon after the process that started it has died; its kernel follows."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def visible_gpus() -> list[str]:
    """Return the graphics cards this process may use, as CUDA_VISIBLE_DEVICES names them.

    Nothing is loaded: the variable is read, or else ``nvidia-smi`` asked.
    """
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    run = subprocess.run([program, "--list-gpus"], capture_output=True, text=True)
    cards = [line for line in run.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(cards))]


@contextmanager
def claim_gpus(number: int, locks: Path):
    """Within the block this process and its children see only cards that no other claim holds.

    Nothing happens where there are no cards, none are asked for, or a scheduler has chosen them
    (SLURM sets SLURM_JOB_ID).

    Parameters
    ----------
    number : int
    locks : Path
        A folder that all claiming processes of this machine share.

    Raises
    ------
    RuntimeError
        If fewer cards are free.
    """
    cards = visible_gpus()
    if not number or not cards or "SLURM_JOB_ID" in os.environ:
        yield
        return
    with ExitStack() as held:
        taken = []
        for card in cards:
            if len(taken) == number:
                break
            try:
                held.enter_context(only_one(Path(locks) / card))
            except RuntimeError:
                continue
            taken.append(card)
        if len(taken) < number:
            raise RuntimeError(f"{number} graphics cards asked for, {len(taken)} free")
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
        try:
            yield
        finally:
            if before is None:
                del os.environ["CUDA_VISIBLE_DEVICES"]
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = before
