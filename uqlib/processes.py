"""Processes that do not outlive the one that started them."""

import os
import signal
import threading
import time


def end_with_parent() -> None:
    """Kill this process soon after the process that started it has died; its kernel follows."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
