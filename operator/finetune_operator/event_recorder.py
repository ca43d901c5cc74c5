"""Events on their way to the API server: what can't be made now is made with a later look.

They are for people: none fails anything, and who waits for one waits in vain when the process ends. What a transition is called is
decided by the transition (events.py), so one that was made without our being told so is simply there.
"""

from typing import Final

import structlog

from finetune_operator import kinds
from finetune_operator.events import Event, manifest
from finetune_operator.resources.owner import Owner
from finetune_operator.runtime.api import AlreadyExists, Api, ApiError, Json, ServerError, TooManyRequests, Unreachable
from finetune_operator.runtime.clock import Clock

log = structlog.get_logger()

_MICRO_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"
# What couldn't be made is tried this often and for this long; of each job the newest are kept.
_AGAIN_SECONDS: Final = 10.0
_KEPT_SECONDS: Final = 600.0
_MOST_KEPT: Final = 20
# What may go better the next time; any other refusal is for good, as of a namespace that is being deleted.
_PASSING: Final = (TooManyRequests, ServerError, Unreachable)


class EventRecorder:
    """What each job's people still have to be told. Thread-safe, as long as no job is told of twice at once."""

    def __init__(self, api: Api, clock: Clock, *, instance: str) -> None:
        self._api = api
        self._clock = clock
        self._instance = instance
        # Of each job by the event's name, oldest first, with when it was first tried.
        self._untold: dict[tuple[str, str], dict[str, tuple[float, Json]]] = {}
        # When its newest try began, while some are left.
        self._tried: dict[tuple[str, str], float] = {}

    def record(self, owner: Owner, events: tuple[Event, ...]) -> float | None:
        """Make the job's events, former ones first. Seconds until another call would make those that are left; None: none is.

        Calls before that make none: a look shouldn't wait again for what didn't answer just now.
        """
        key, now = (owner.namespace, owner.name), self._clock.monotonic()
        kept = self._untold.pop(key, {})
        untold = {name: (since, event) for name, (since, event) in kept.items() if now - since < _KEPT_SECONDS}
        at = self._clock.now().strftime(_MICRO_TIME)
        for event in events:
            made = manifest(event, owner, at=at, instance=self._instance)
            untold.setdefault(made["metadata"]["name"], (now, made))
        if now - self._tried.get(key, now - _AGAIN_SECONDS) >= _AGAIN_SECONDS:
            self._tried[key] = now
            self._make(untold)
        if not untold:
            self._tried.pop(key, None)
            return None
        self._untold[key] = dict(list(untold.items())[-_MOST_KEPT:])
        return self._tried[key] + _AGAIN_SECONDS - now

    def _make(self, untold: dict[str, tuple[float, Json]]) -> None:
        """Make them in their order, up to one that can't be made now: the others would fare no better."""
        for name, (_, made) in list(untold.items()):
            if not self._told(made):
                return
            del untold[name]

    def forget(self, key: tuple[str, str]) -> None:
        """The job is gone."""
        self._untold.pop(key, None)
        self._tried.pop(key, None)

    def _told(self, event: Json) -> bool:
        """Make it; False when that may go better the next time."""
        try:
            self._api.create(kinds.EVENTS, event["metadata"]["namespace"], event)
        except AlreadyExists:
            return True
        except ApiError as error:
            again = isinstance(error, _PASSING)
            log.warning("event not made", reason=event["reason"], note=event["note"], again=again, error=str(error))
            return not again
        return True
