"""benchmarks/startup.py"""

import subprocess
import sys

from benchmarks.startup import _Processes

# A child that leaves one of its own behind, which works on when its parent is gone, as Ray's processes do.
WORK = "import time\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass\ntime.sleep(0.5)"
LEAVES = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {WORK!r}], stdout=sys.stdout)"


def test_processes_that_outlive_their_parents_are_counted() -> None:
    with _Processes() as spent:
        subprocess.run([sys.executable, "-S", "-c", LEAVES], check=True, capture_output=True)  # until nobody holds its stdout
    assert spent.seconds >= 0.5
