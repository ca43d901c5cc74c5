"""Calls that may never return, such as those to a Ray whose head or raylet is gone: made in a thread that nobody has to wait for.

Ray has time limits for answers of actors, and none for what it asks of its own processes, nor for its end.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


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

    thread = threading.Thread(target=ask, name="bounded", daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    return answers[0] if answers else otherwise
