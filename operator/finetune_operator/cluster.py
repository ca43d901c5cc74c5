"""The only room that talks to the API server about jobs: observes one, applies what was decided, writes its status.

Reads come from the reflectors' stores, which may be behind. So what this process wrote itself is remembered until the stores
have it; that a RayJob is gone is asked of the API server itself; and a RayJob is only made, and anything only deleted, when the
job hasn't changed since.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from finetune_api.errors import InvalidSpec, InvalidTrainingRun
from finetune_api.finetunejob import FineTuneJob
from finetune_api.jobfile import parse_job
from finetune_api.report import FineTuneReport, parse_report
from finetune_api.status import AttemptOutcome, FineTuneJobStatus, parse_status
from finetune_api.times import seconds_between
from finetune_api.training_run import TrainingRun, digest_of
from finetune_operator import keys, kinds
from finetune_operator.caches import Newest, Stores
from finetune_operator.events import Event
from finetune_operator.observation import KubeRay, Observed, is_finished, is_settled, last_attempt
from finetune_operator.reconcile import Key, Refused
from finetune_operator.refusals import of_former, refusal, taken
from finetune_operator.resources.owner import is_of_former, is_owned, owner_of
from finetune_operator.runtime.api import AlreadyExists, Api, ApiError, Conflict, Forbidden, Invalid, Json, NotFound, Resource
from finetune_operator.runtime.clock import Clock
from finetune_operator.stages.decision import Action, AskToStop, Create, Delete, WithdrawStop
from finetune_operator.status import changed, is_reopened
from finetune_operator.telling import Telling
from finetune_operator.trimming import trimmed

log = structlog.get_logger()

# How long an object that we made counts before a watch has shown it.
_MADE_SECONDS: Final = 30.0
# Parsed specs (10 KB each) and runs with their text (50 KB) that are kept; what isn't kept is parsed or read again.
_KEPT_SPECS: Final = 1024
_KEPT_RUNS: Final = 128
# For so long an answer of the API server counts as the job's state: another question's would be as old when it is acted upon.
_FRESH_SECONDS: Final = 1.0
# The garbage collector is done by then; what is left has a finalizer that nobody takes away.
_COLLECTED_SECONDS: Final = 60.0
# How the API server says that there is no such kind, not just no such object.
_UNKNOWN_KIND: Final = "could not find the requested resource"


class Cluster:
    """Thread-safe, as long as no job is looked at twice at once. `api` has to be fenced where others may lead."""

    def __init__(
        self,
        api: Api,
        known: Stores,
        clock: Clock,
        *,
        instance: str,
        kuberay: Callable[[str], KubeRay] = lambda namespace: KubeRay.PRESENT,
        on_written: Callable[[FineTuneJobStatus, FineTuneJobStatus], None] = lambda old, new: None,
    ) -> None:
        """`instance` names this process in events; `kuberay` says what a namespace's jobs find of it.

        `on_written` is told of each status that was written, for metrics.
        """
        self._api = api
        self._known = known
        self._clock = clock
        self._telling = Telling(api, clock, instance=instance)
        self._written: dict[Key, Json] = {}
        self._heard: dict[Key, tuple[str, float]] = {}
        self._made: dict[Key, dict[tuple[str, str], tuple[float, Json]]] = {}
        self._specs: Newest[tuple[FineTuneJob | None, str]] = Newest(_KEPT_SPECS)
        self._runs: Newest[tuple[TrainingRun, str]] = Newest(_KEPT_RUNS)
        self._kuberay = kuberay
        self._on_written = on_written

    # ---- observing

    def observe(self, key: Key) -> Observed | None:
        """The job and everything that belongs to it; None when there is no job."""
        raw = self._job(key)
        if raw is None:
            self._made.pop(key, None)
            self._written.pop(key, None)
            self._heard.pop(key, None)
            self._telling.forget(key)
            return None
        status = parse_status(raw.get("status"))
        structlog.contextvars.bind_contextvars(attempt=status.attempt)
        kuberay = self._kuberay(key[0])
        job, problems = self._spec(raw)
        rayjobs = self._owned(raw, kinds.RAYJOBS)
        if kuberay is KubeRay.PRESENT:
            rayjobs = self._with_recorded(raw, status, rayjobs)
        reports = self._owned(raw, kinds.FINETUNEREPORTS)
        observed = Observed(
            raw=raw,
            now=self._clock.now(),
            job=job,
            problems=problems,
            status=status,
            report=_report(reports, keys.report_name(key[1])),
            jobs=tuple(self._owned(raw, kinds.JOBS)),
            rayjobs=tuple(rayjobs),
            pods=tuple(self._known.pods.by_index("/".join(key))),
            kuberay=kuberay,
        )
        return self._with_run(observed)

    def _job(self, key: Key) -> Json | None:
        """The job: as the store has it, or as we wrote or read it last, whichever is newer."""
        known, written = self._known.jobs.get(*key), self._written.get(key)
        if known is None or written is None:
            return known
        same = known["metadata"]["uid"] == written["metadata"]["uid"]
        if same and int(written["metadata"]["resourceVersion"]) > int(known["metadata"]["resourceVersion"]):
            return written
        del self._written[key]
        return known

    def _spec(self, raw: Json) -> tuple[FineTuneJob | None, str]:
        """The parsed job, or what is wrong with it."""
        metadata = raw["metadata"]
        version = (metadata["uid"], metadata.get("generation"))
        if (known := self._specs.get(version)) is not None:
            return known
        try:
            return self._specs.put(version, (parse_job(raw), ""))
        except InvalidSpec as error:
            return self._specs.put(version, (None, str(error)))

    def _owned(self, raw: Json, resource: Resource) -> list[Json]:
        """Objects of a kind that are the job's own, those that were just made included."""
        owner = owner_of(raw)
        key = (owner.namespace, owner.name)
        found = {item["metadata"]["name"]: item for item in self._known.of(resource).by_index("/".join(key)) if is_owned(item, owner)}
        made = self._made.get(key, {})
        for (kind, name), (at, item) in list(made.items()):
            if kind != resource.kind:
                continue
            if name in found or self._clock.monotonic() - at > _MADE_SECONDS or not is_owned(item, owner):
                del made[kind, name]
            else:
                found[name] = item
        return [found[name] for name in sorted(found)]

    def _with_recorded(self, raw: Json, status: FineTuneJobStatus, known: list[Json]) -> list[Json]:
        """The RayJobs, and the last attempt's even if the store hasn't got it: that it is gone must be certain."""
        attempt = last_attempt(status)
        if attempt is None or attempt.ray_job is None or attempt.outcome is AttemptOutcome.FINISHED or is_finished(status):
            return known
        name = attempt.ray_job.name
        if any(item["metadata"]["name"] == name for item in known):
            return known
        try:
            found = self._api.get(kinds.RAYJOBS, raw["metadata"]["namespace"], name)
        except NotFound as error:
            if _UNKNOWN_KIND in error.message:  # an API server that has just started may not serve it yet
                raise
            return known
        return [*known, found] if is_owned(found, owner_of(raw)) else known

    def _with_run(self, observed: Observed) -> Observed:
        """The observation with the frozen run, where something may depend on it."""
        recorded, status = observed.status.run, observed.status
        if recorded is None or is_settled(observed, status) or (is_finished(status) and not is_reopened(observed)):
            return observed
        version = (observed.owner.uid, recorded.config_map)
        found = self._runs.get(version)
        if found is None:
            try:
                raw = self._api.get(kinds.CONFIG_MAPS, observed.owner.namespace, recorded.config_map)
            except NotFound:
                return observed
            if not is_owned(raw, observed.owner):
                return observed
            text = (raw.get("data") or {}).get(keys.RUN_FILE, "")
            read = _run(text, recorded.digest)
            if not isinstance(read, TrainingRun):
                return replace(observed, run_problem=read)
            found = self._runs.put(version, (read, text))
        return replace(observed, run=found[0], run_text=found[1])

    # ---- applying

    def apply(self, observed: Observed, action: Action) -> None:
        """Do it; what is done already is as good. Raises Refused, or ApiError when trying again may help."""
        match action:
            case Create():
                self._create(observed, action)
            case Delete():
                self._delete(observed, action)
            case AskToStop(cluster=cluster, reason=reason):
                self._ask(observed, {"cluster": cluster, "reason": reason})
            case WithdrawStop():
                self._ask(observed, None)

    def _create(self, observed: Observed, action: Create) -> None:
        resource, manifest = kinds.MADE[action.manifest["kind"]], action.manifest
        if action.if_current:
            self._check_current(observed)
        try:
            made = self._api.create(resource, observed.owner.namespace, manifest)
        except AlreadyExists:
            made = self._existing(observed, resource, action)
        except (Forbidden, Invalid, NotFound) as error:
            raise Refused(refusal(resource, manifest["metadata"]["name"], error)) from None
        except ApiError as error:
            if error.status != 400:
                raise
            raise Refused(refusal(resource, manifest["metadata"]["name"], error)) from None
        else:
            self._keep_run(observed, made)
        log.info("made", kind=resource.kind, object=manifest["metadata"]["name"])
        if resource in kinds.CHILDREN:
            name = made["metadata"]["name"]
            key = (observed.owner.namespace, observed.owner.name)
            self._made.setdefault(key, {})[resource.kind, name] = (self._clock.monotonic(), trimmed(made))

    def _keep_run(self, observed: Observed, made: Json) -> None:
        """The run of a ConfigMap that was just made need not be read again."""
        text = (made.get("data") or {}).get(keys.RUN_FILE)
        if text is not None and isinstance(run := _run(text, digest_of(text)), TrainingRun):
            self._runs.put((observed.owner.uid, made["metadata"]["name"]), (run, text))

    def _check_current(self, observed: Observed) -> None:
        """Raise Conflict when the job isn't the one that was observed: another process may have gone on with it."""
        key, version = (observed.owner.namespace, observed.owner.name), observed.raw["metadata"]["resourceVersion"]
        heard, at = self._heard.get(key, ("", 0.0))
        if heard == version and self._clock.monotonic() - at < _FRESH_SECONDS:
            return
        try:
            current = self._api.get(kinds.FINETUNEJOBS, *key)
        except NotFound:
            raise Conflict("the job is gone, and all that it owns with it", status=409, reason="Conflict") from None
        if current["metadata"]["resourceVersion"] != version:
            self._remember(current)
            raise Conflict("the job has changed since it was observed", status=409, reason="Conflict")
        self._heard[key] = (version, self._clock.monotonic())

    def _existing(self, observed: Observed, resource: Resource, action: Create) -> Json:
        """The object of that name, if it is ours; brought in line where the action says so."""
        owner, manifest = observed.owner, action.manifest
        name = manifest["metadata"]["name"]
        found = self._api.get(resource, owner.namespace, name)
        if not is_owned(found, owner):
            gone_since = found["metadata"].get("deletionTimestamp")
            if gone_since is None and not is_of_former(found, owner):
                raise Refused(taken(resource, name))
            # Who deletes a job and applies it again is faster than the garbage collector.
            waited = seconds_between(gone_since or observed.raw["metadata"].get("creationTimestamp"), observed.now)
            if waited is not None and waited >= _COLLECTED_SECONDS:
                raise Refused(of_former(resource, name))
            raise Conflict(f"{resource.kind} {name} of the job before is still being deleted", status=409, reason="Conflict")
        if "deletionTimestamp" in found["metadata"]:
            raise Conflict(f"{resource.kind} {name} is still being deleted", status=409, reason="Conflict")
        different = {field: manifest[field] for field in action.update if found.get(field) != manifest[field]}
        try:
            return self._api.merge_patch(resource, owner.namespace, name, different) if different else found
        except Forbidden as error:
            raise Refused(refusal(resource, name, error)) from None

    def _delete(self, observed: Observed, action: Delete) -> None:
        # A store that is behind takes the RayJob of an attempt that it doesn't know for a leftover, and a TTL that was removed for one.
        self._check_current(observed)
        key = (observed.owner.namespace, observed.owner.name)
        log.info("deleting", kind=action.kind, object=action.name)
        try:
            self._api.delete(kinds.MADE[action.kind], observed.owner.namespace, action.name, uid=action.uid)
        except Forbidden as error:
            raise Refused(refusal(kinds.MADE[action.kind], action.name, error)) from None
        except (NotFound, Conflict):  # it is gone, or another one of that name came
            log.debug("gone already", kind=action.kind, object=action.name)
        self._made.get(key, {}).pop((action.kind, action.name), None)

    def _ask(self, observed: Observed, stop: Json | None) -> None:
        owner = observed.owner
        try:
            self._api.merge_patch(kinds.FINETUNEREPORTS, owner.namespace, keys.report_name(owner.name), {"spec": {"stop": stop}})
        except NotFound:  # it is made again with the next look
            log.debug("no report to ask through", namespace=owner.namespace, name=owner.name)

    # ---- writing

    def write_status(self, observed: Observed, status: FineTuneJobStatus) -> None:
        """One patch with what changed, on the version that was observed. Raises Conflict."""
        patch = changed(observed.status, status)
        if not patch:
            return
        owner = observed.owner
        body = {"metadata": {"resourceVersion": observed.raw["metadata"]["resourceVersion"]}, "status": patch}
        try:
            written = self._api.merge_patch(kinds.FINETUNEJOBS, owner.namespace, owner.name, body, subresource="status")
        except NotFound:  # the job was deleted meanwhile
            return
        except Conflict:  # the store is behind, or its watch is down: the next look begins with what there is
            self._remember(self._api.get(kinds.FINETUNEJOBS, owner.namespace, owner.name))
            raise
        self._remember(written)
        self._on_written(observed.status, status)
        log.info("status written", stage=status.stage, attempt=status.attempt)

    def _remember(self, raw: Json) -> None:
        """The job as the API server has it, until the store is as new."""
        raw["metadata"].pop("managedFields", None)
        key = (raw["metadata"]["namespace"], raw["metadata"]["name"])
        self._written[key] = raw
        self._heard[key] = (raw["metadata"]["resourceVersion"], self._clock.monotonic())

    def emit(self, observed: Observed, events: tuple[Event, ...]) -> float | None:
        """Make the events, and those that couldn't be made before; seconds until a look that tries what is left, if any is."""
        return self._telling.tell(observed.owner, events)


def _report(reports: list[Json], name: str) -> FineTuneReport | None:
    """The report; one that can't be read counts as one that says nothing."""
    found = next((report for report in reports if report["metadata"]["name"] == name), None)
    return None if found is None else parse_report(found) or FineTuneReport()


def _run(text: str, digest: str) -> TrainingRun | str:
    """The run, or why it can't be read."""
    try:
        run = TrainingRun.from_json(text)
    except InvalidTrainingRun as error:
        return str(error)
    # Of the text, which a newer operator's models might write otherwise.
    return run if digest_of(text) == digest else "run.json is not the run that the status names; delete its ConfigMap to have it made again"
