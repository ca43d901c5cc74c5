"""How long to wait before asking again for what the API server refused: longer each time, and at once when the job changes."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from finetune_operator.runtime.clock import Clock

Key = tuple[str, str]  # namespace, name of a FineTuneJob

_FIRST_SECONDS: Final = 30.0
# A person who mends a quota or a policy waits no longer than this.
_LONGEST_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refused:
    what: Hashable
    wait: float
    until: float  # on the monotonic clock


class Patience:
    """What was refused last of each job. Thread-safe, as long as no job is looked at twice at once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[Key, _Refused] = {}

    def left(self, key: Key, what: Hashable) -> float:
        """Seconds for which `what` needs no asking again; 0 when it may be asked for."""
        known = self._known.get(key)
        return max(known.until - self._clock.monotonic(), 0.0) if known is not None and known.what == what else 0.0

    def refused(self, key: Key, what: Hashable) -> float:
        """`what` was refused just now: seconds to wait. Asked sooner, as other events make it be, it doesn't wait longer for that."""
        known, now = self._known.get(key), self._clock.monotonic()
        if known is None or known.what != what:
            known = _Refused(what=what, wait=_FIRST_SECONDS, until=now + _FIRST_SECONDS)
        elif now >= known.until:
            wait = min(2 * known.wait, _LONGEST_SECONDS)
            known = _Refused(what=what, wait=wait, until=now + wait)
        self._known[key] = known
        return known.until - now

    def forget(self, key: Key) -> None:
        """The job is gone."""
        self._known.pop(key, None)
