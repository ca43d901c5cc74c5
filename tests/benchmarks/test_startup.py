"""benchmarks/startup.py, startup_document.py"""

import subprocess
import sys

from benchmarks.startup import _Processes
from benchmarks.startup_document import startup_section

# A child that leaves one of its own behind, which works on when its parent is gone, as Ray's processes do.
WORK = "import time\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass\ntime.sleep(0.5)"
LEAVES = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {WORK!r}], stdout=sys.stdout)"


def test_processes_that_outlive_their_parents_are_counted() -> None:
    with _Processes() as spent:
        subprocess.run([sys.executable, "-S", "-c", LEAVES], check=True, capture_output=True)  # until nobody holds its stdout
    assert spent.seconds >= 0.5


def test_the_median_of_the_pairs_is_compared_with_floor_and_goal() -> None:
    machine = {"processor": "P", "cores": 2, "memory_gib": 24, "system": "Linux x86_64", "python": "3.11.7"}
    found = {"commit": "abc", "machine": machine, "versions": {"torch": "2.13.0"}, "ended": "2026-12-01 05:00"}
    pairs = [((100.0, 80.0), (50.0, 40.0)), ((80.0, 60.0), (16.0, 30.0)), ((90.0, 70.0), (54.0, 35.0))]
    section = startup_section({**found, "pairs": pairs})
    assert "| wall time, now / earlier | at most 0.6 | at most 0.4 | 0.50 | floor met |" in section
    assert "| wall | 90.0 | 50.0 | 0.50 | 0.20 to 0.60 |" in section
    assert "| processor | 70.0 | 35.0 | 0.50 | 0.50 to 0.50 |" in section
    assert "| 0.20 | goal met |" in startup_section({**found, "pairs": pairs[1:2]})
    assert "| **missed** |" in startup_section({**found, "pairs": [((80.0, 60.0), (49.0, 30.0))]})
