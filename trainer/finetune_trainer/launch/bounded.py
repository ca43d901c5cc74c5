"""Calls that may never return, such as those to a Ray whose head or raylet is gone: made in a thread that nobody has to wait for.

Ray has time limits for answers of actors, and none for what it asks of its own processes, nor for its end.
"""

import threading
from collections.abc import Callable
from typing import Final, TypeVar

Answer = TypeVar("Answer")

_NAME: Final = "in-ray"


def in_thread(call: Callable[[], object]) -> threading.Thread:
    """Start a call that nobody has to wait for, and that `any_left` knows."""
    thread = threading.Thread(target=call, name=_NAME, daemon=True)
    thread.start()
    return thread


def any_left() -> bool:
    """Whether such a call hasn't returned. Ray ends the whole process as soon as one finds that `ray.shutdown` was called (2.60)."""
    return any(thread.name == _NAME for thread in threading.enumerate())


def within(seconds: float, call: Callable[[], Answer], *, otherwise: Answer) -> Answer:
    """What the call returns; `otherwise` when that takes longer, and the call goes on by itself. Raises what the call raises.

    >>> within(5.0, lambda: 1, otherwise=0)
    1
    """
    answers: list[Answer] = []
    raised: list[Exception] = []

    def ask() -> None:
        try:
            answers.append(call())
        except Exception as error:  # the caller's, who is in another thread
            raised.append(error)

    in_thread(ask).join(seconds)
    if raised:
        raise raised[0]
    return answers[0] if answers else otherwise
