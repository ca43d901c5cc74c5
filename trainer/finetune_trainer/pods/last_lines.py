"""The last lines of the traceback that explains a failure, for the attempt's record: without secrets, each cut to fit.

In: the error that a pod's command ends with. Out: lines. A rank's own traceback explains more than that of the driver, whose cause it is.
"""

import traceback

from finetune_api.bounded_text import shortened
from finetune_api.status import LONGEST_LINE, MOST_LINES
from finetune_trainer.secrets import Secrets


def last_lines(error: BaseException, secrets: Secrets | None = None) -> list[str]:
    """The newest lines, oldest first.

    >>> last_lines(ValueError("no rows"))
    ['ValueError: no rows']
    """
    masked = (secrets or Secrets()).masked(_text(_cause(error)).encode()).decode(errors="replace")
    lines = [line.rstrip() for line in masked.splitlines() if line.strip()]
    return [shortened(line, LONGEST_LINE) for line in lines[-MOST_LINES:]]


def _cause(error: BaseException) -> BaseException:
    """What came first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _text(error: BaseException) -> str:
    """The traceback; of Ray Train's error that of the first rank which failed, as text that came from there."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    if failures:
        return str(failures[min(failures)])
    return "".join(traceback.format_exception(error))
