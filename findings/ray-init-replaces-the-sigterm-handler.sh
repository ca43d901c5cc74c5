#!/usr/bin/env bash
# After ray.init a program's own handler of SIGTERM is no longer called.
#
# Guess: a library that starts processes leaves the signals of the program that imports it alone, as it does with SIGINT.
# Seen (ray 2.60.0): ray.init puts a handler of its own in place of SIGTERM's, which ends the process. A program that wanted to save
# something first must set its handler again after ray.init.
source "$(dirname "$0")/_common"
environment env ray==2.60.0
expect "$(RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 "$work/env/bin/python" - "$work" 2>/dev/null <<'PYTHON' | grep '^seen'
import signal
import ray

def ours(number, frame):
    """Saves, then ends."""

for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, ours)
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
for number in (signal.SIGTERM, signal.SIGINT):
    print("seen:", number.name, "is ours" if signal.getsignal(number) is ours else "is another's")
ray.shutdown()
PYTHON
)" "seen: SIGTERM is another's
seen: SIGINT is ours"
