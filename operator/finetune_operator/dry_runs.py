"""Dry runs: what the API server would refuse is asked of it before anything is made, and as seldom as that is worth.

What it took for one job counts for those that are alike, for some minutes; what it refused is asked again when the job changes,
or later and later. That is a memory of this process: one that starts asks anew.
"""

from collections import OrderedDict
from dataclasses import replace
from threading import Lock
from typing import Final

import structlog

from finetune_operator import kinds
from finetune_operator.observation import Observed, Refusal
from finetune_operator.patience import Key, Patience
from finetune_operator.reconcile import Refused
from finetune_operator.refusals import is_refusal, of_dry_run
from finetune_operator.runtime.api import AlreadyExists, Api, ApiError, Json, NotFound, NotPermitted, Unauthorized, Unreachable
from finetune_operator.runtime.clock import Clock
from finetune_operator.stages.decision import DryRun

log = structlog.get_logger()

# Policies and quotas change: who is told by the creation instead has lost nothing but the time of a preparation.
_TAKEN_SECONDS: Final = 600.0
_KEPT: Final = 1024


class DryRuns:
    """Thread-safe, as long as no job is looked at twice at once."""

    def __init__(self, api: Api, clock: Clock, patience: Patience) -> None:
        self._api = api
        self._clock = clock
        self._patience = patience
        self._lock = Lock()
        self._taken: OrderedDict[tuple[str, str], float] = OrderedDict()  # when objects that are alike were taken in a namespace
        self._refusals: dict[Key, Refusal] = {}

    def ask(self, observed: Observed, action: DryRun) -> None:
        """Raise Refused, of which planning is told, where the API server would take one of the objects from nobody."""
        key, what = (observed.owner.namespace, observed.owner.name), (observed.generation, action.alike)
        if (left := self._patience.left(key, what)) and (known := self._refusals.get(key)) is not None:
            raise Refused(replace(known, retry_seconds=left))
        if self._is_taken(key[0], action.alike):
            return
        answered = True
        for manifest in action.manifests:
            found, is_answer = self._refusal(key[0], manifest)
            if found is not None:
                self._refusals[key] = found
                raise Refused(replace(found, retry_seconds=self._patience.refused(key, what)))
            answered = answered and is_answer
        if not answered:
            return
        with self._lock:
            self._taken[key[0], action.alike] = self._clock.monotonic()
            self._taken.move_to_end((key[0], action.alike))
            while len(self._taken) > _KEPT:
                self._taken.popitem(last=False)

    def forget(self, key: Key) -> None:
        """The job is gone."""
        self._refusals.pop(key, None)
        self._patience.forget(key)

    def _is_taken(self, namespace: str, alike: str) -> bool:
        at = self._taken.get((namespace, alike))
        return at is not None and self._clock.monotonic() - at < _TAKEN_SECONDS

    def _refusal(self, namespace: str, manifest: Json) -> tuple[Refusal | None, bool]:
        """What the API server has against the object, and whether it would say so of one that is alike.

        An answer that isn't about the object says nothing: its creation will.
        """
        resource, name = kinds.MADE[manifest["kind"]], manifest["metadata"]["name"]
        try:
            self._api.create(resource, namespace, manifest, dry_run=True)
        except AlreadyExists:
            return None, False
        except (Unreachable, Unauthorized, NotPermitted):
            raise
        except ApiError as error:
            found = of_dry_run(resource, name, error)
            log.info("dry run", kind=resource.kind, object=name, counts=found is not None, error=str(error))
            return found, is_refusal(error) and not isinstance(error, NotFound)
        return None, True
