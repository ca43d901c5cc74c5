"""Whose turn it is to compile an op; that a killed compilation holds nobody up is seen in tests/cli/test_run.py."""

import subprocess
import sys
import threading
from pathlib import Path

from finetune_trainer.training.compiled_ops import turn

HOLD = """
import sys, time
from pathlib import Path
from finetune_trainer.training.compiled_ops import turn
with turn(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(600)
"""


def test_the_next_waits_and_begins_when_a_killed_process_is_gone(tmp_path: Path) -> None:
    had_it = threading.Event()

    def next_one() -> None:
        with turn(tmp_path):
            had_it.set()

    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "mine\n"
            waiting = threading.Thread(target=next_one)
            waiting.start()
            assert not had_it.wait(0.5)
        finally:
            first.kill()
    waiting.join(30)
    assert had_it.is_set()
