"""launch/bounded.py: a call that never returns doesn't keep its caller, nor the process."""

import subprocess
import sys
import threading
import time

import pytest

from finetune_trainer.launch.bounded import within


def test_what_a_call_returns_and_raises() -> None:
    assert within(10.0, lambda: 7, otherwise=0) == 7
    with pytest.raises(ZeroDivisionError):
        within(10.0, lambda: 1 // 0, otherwise=0)


def test_a_call_that_never_returns() -> None:
    over = threading.Event()
    began = time.monotonic()
    assert within(0.1, over.wait, otherwise=False) is False
    assert time.monotonic() - began < 5.0
    over.set()


HANGING = """
import time
from finetune_trainer.launch import ray_session
import ray
ray.shutdown = lambda *arguments: time.sleep(3600)
import atexit
atexit.register(ray.shutdown)
print(ray_session.shut_down(0.2))
ray_session.leave_without_ray(1)
"""


def test_a_process_ends_also_when_ray_does_not() -> None:
    """Ray would wait once more when Python ends."""
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "False\n"), done.stderr
