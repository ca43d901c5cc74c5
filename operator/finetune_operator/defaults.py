"""Which defaults a job takes, and when: as they are when its spec is first looked at, and again when it changes while no attempt runs.

In between nobody's change of a ConfigMap or of the chart touches a job. A namespace's ConfigMap is read by name; an answer counts for
all jobs that were made before it, so that a thousand jobs don't ask a thousand times.
"""

from dataclasses import replace
from datetime import datetime
from typing import Final

from finetune_api.conditions import ConditionType, find
from finetune_api.errors import InvalidSpec
from finetune_api.job_defaults import JobDefaults, over, parse_defaults, with_defaults
from finetune_api.reasons import Reason
from finetune_api.status import DefaultsStatus
from finetune_api.times import seconds_between
from finetune_operator import kinds
from finetune_operator.observation import Observed, is_finished, is_running
from finetune_operator.runtime.api import Api, NotFound
from finetune_operator.runtime.clock import Clock
from finetune_operator.status import is_reopened

CONFIG_MAP: Final = "finetune-job-defaults"
KEY: Final = "defaults.yaml"
_OF_CHART: Final = "the chart"
_FRESH_SECONDS: Final = 2.0


class Defaults:
    """The chart's defaults, and those of namespaces. Thread-safe: what two threads both ask is asked twice."""

    def __init__(self, api: Api, clock: Clock, chart: JobDefaults) -> None:
        self._api = api
        self._clock = clock
        self._chart = chart
        self._texts: dict[str, tuple[datetime | None, str]] = {}

    def applied(self, observed: Observed) -> Observed:
        """The observation, its job with the defaults that hold for it. Raises ApiError."""
        job, status = observed.job, observed.status
        if job is None:
            return replace(observed, defaults=status.defaults)
        defaults, problem = status.defaults, ""
        if self._are_taken_now(observed):
            try:
                defaults = self._taken(observed)
            except InvalidSpec as error:
                problem = str(error)
        return replace(observed, job=with_defaults(job, _values(defaults)), defaults=defaults, defaults_problem=problem)

    def _are_taken_now(self, observed: Observed) -> bool:
        """Whether the spec is new, or new for the next attempt; or its defaults were wrong when it was."""
        status = observed.status
        if is_running(status) or (is_finished(status) and not is_reopened(observed)):
            return False
        planned = find(status.conditions, ConditionType.PLANNED)
        wrong = planned is not None and planned.reason == Reason.INVALID_DEFAULTS
        return wrong or status.observed_generation != observed.generation

    def _taken(self, observed: Observed) -> DefaultsStatus | None:
        """The chart's defaults and the namespace's, which win. A job's storage stays once it has trained. Raises InvalidSpec."""
        text = self._text(observed)
        found = over(parse_defaults(text, f"ConfigMap {CONFIG_MAP}"), self._chart) if text else self._chart
        if observed.status.attempt:
            found = found.model_copy(update={"checkpoints": _values(observed.status.defaults).checkpoints})
        sources = [*([f"ConfigMap {CONFIG_MAP}"] if text else []), *([_OF_CHART] if self._chart.to_json() else [])]
        return DefaultsStatus(sources=sources, values=values) if (values := found.to_json()) else None

    def _text(self, observed: Observed) -> str:
        """The namespace's ConfigMap; "" where there is none."""
        namespace, now = observed.owner.namespace, self._clock.now()
        asked, text = self._texts.get(namespace, (None, ""))
        if asked is not None and (now - asked).total_seconds() < _FRESH_SECONDS and _is_before(observed, asked):
            return text
        try:
            found = self._api.get(kinds.CONFIG_MAPS, namespace, CONFIG_MAP)
        except NotFound:
            found = {}
        text = str((found.get("data") or {}).get(KEY, ""))
        self._texts[namespace] = (now, text)
        return text


def _is_before(observed: Observed, moment: datetime) -> bool:
    """Whether the job was made, with this spec, before that moment; only of a spec's first generation it is known."""
    waited = seconds_between(observed.raw["metadata"].get("creationTimestamp"), moment)
    return observed.generation == 1 and waited is not None and waited >= 0


def _values(defaults: DefaultsStatus | None) -> JobDefaults:
    """The defaults that a status holds: they were valid when they were taken, and another version's may not be."""
    return JobDefaults.model_validate(defaults.values, by_alias=True, by_name=False) if defaults else JobDefaults()
