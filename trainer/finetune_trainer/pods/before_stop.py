"""The preStop hook of head and workers: ask the training in this pod for a checkpoint, and hold the pod until it is committed.

It never fails: a hook that does is only noise in the pod's events, and the pod ends anyway. Standard library only.
"""

import os
import sys
import time

from finetune_trainer.training.stop_files import StopFiles

STOP_SECONDS_ENV = "FINETUNE_STOP_SECONDS"  # set by the operator, which gives the pod's grace period a little more
_DEFAULT_SECONDS = 240.0
_LOOK_SECONDS = 1.0


def main() -> int:
    """`python -m finetune_trainer.pods before-stop`. Returns at once where nothing trains."""
    files, deadline = StopFiles(), time.monotonic() + _seconds()
    try:
        while True:
            files.request()  # each time: a driver or worker that begins at this moment clears what it finds
            left = deadline - time.monotonic()
            if not files.running() or left <= 0 or files.wait_until_stopped(min(left, _LOOK_SECONDS)):
                return 0
    except OSError as error:
        print(f"can't ask the training in this pod to stop: {error}", file=sys.stderr)
        return 0


def _seconds() -> float:
    """How long to wait; the default for what is no number of seconds."""
    text = os.environ.get(STOP_SECONDS_ENV, "")
    return float(text) if text.isdecimal() else _DEFAULT_SECONDS


if __name__ == "__main__":
    sys.exit(main())
