"""The only room that talks to the API server about jobs: observes one, applies what was decided, writes its status.

Reads come from the reflectors' stores, which may be behind. So what this process wrote itself is remembered until the stores
have it; that a RayJob is gone is asked of the API server itself; and a RayJob is only made, and anything only deleted, when the
job hasn't changed since. What others write to a job that decides nothing, however often, keeps no status from being written.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Final

import structlog

from finetune_api.errors import InvalidSpec, InvalidTrainingRun
from finetune_api.finetunejob import FineTuneJob
from finetune_api.former_words import in_todays_words
from finetune_api.gone_fields import without_gone_fields
from finetune_api.job_defaults import NO_DEFAULTS, PRIORITY_LABEL, JobDefaults
from finetune_api.jobfile import parse_job
from finetune_api.report import FineTuneReport, parse_report
from finetune_api.status import AttemptOutcome, FineTuneJobStatus, UnreadableStatus, parse_status
from finetune_api.times import seconds_between
from finetune_api.training_run import TrainingRun, digest_of
from finetune_operator import keys, kinds
from finetune_operator.caches import Stores
from finetune_operator.defaults import Defaults
from finetune_operator.dry_runs import DryRuns
from finetune_operator.event_recorder import EventRecorder
from finetune_operator.events import Event, status_unreadable
from finetune_operator.observation import KubeRay, Observed, is_finished, is_held, is_settled, last_attempt, own_pods, read_rayjob
from finetune_operator.patience import Patience
from finetune_operator.pods import read_pod
from finetune_operator.reconcile import Key, Refused
from finetune_operator.refusals import is_refusal, name_taken, of_former, refusal
from finetune_operator.resources.owner import Owner, is_of_former, is_owned, owner_of
from finetune_operator.runtime.api import AlreadyExists, Api, ApiError, Conflict, Forbidden, Json, NotFound, Resource
from finetune_operator.runtime.clock import Clock
from finetune_operator.stages.decision import Action, AskToStop, Create, Delete, DryRun, WithdrawStop
from finetune_operator.status import changed, is_reopened
from finetune_operator.transform import transform, transform_job

log = structlog.get_logger()

# How long an object that we made counts before a watch has shown it.
_MADE_SECONDS: Final = 30.0
# Parsed specs (10 KB each) and runs with their text (50 KB) that are kept, the last used; what isn't kept is parsed or read again.
_KEPT_SPECS: Final = 1024
_KEPT_RUNS: Final = 128
# For so long an answer of the API server counts as the job's state: another question's would be as old when it is acted upon.
_FRESH_SECONDS: Final = 1.0
# How often a status is written again where others write to the job meanwhile, before a new look decides anew.
_MOST_WRITES: Final = 20
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
        defaults: JobDefaults = NO_DEFAULTS,
    ) -> None:
        """`instance` names this process in events; `kuberay` says what a namespace's jobs find of it.

        `on_written` is told of each status that was written, for metrics. `defaults` are the chart's.
        """
        self._api = api
        self._known = known
        self._clock = clock
        self._events = EventRecorder(api, clock, instance=instance)
        self._written: dict[Key, Json] = {}
        self._heard: dict[Key, tuple[str, float]] = {}
        self._made: dict[Key, dict[tuple[str, str], tuple[float, Json]]] = {}
        self._run = lru_cache(maxsize=_KEPT_RUNS)(self._read_run)
        self._kuberay = kuberay
        self._defaults = Defaults(api, clock, defaults)
        self._patience = Patience(clock)
        self._dry_runs = DryRuns(api, clock, self._patience)
        self._on_written = on_written

    # ---- observing

    def observe(self, key: Key) -> Observed | None:
        """The job and everything that belongs to it; None when there is no job. Raises UnreadableStatus."""
        raw = self._job(key)
        if raw is None:
            self._made.pop(key, None)
            self._written.pop(key, None)
            self._heard.pop(key, None)
            self._events.forget(key)
            self._dry_runs.forget(key)
            return None
        try:
            status = parse_status(raw.get("status"))
        except UnreadableStatus as error:
            self._events.record(owner_of(raw), (status_unreadable(str(error)),))
            raise
        structlog.contextvars.bind_contextvars(attempt=status.attempt)
        kuberay = self._kuberay(key[0])
        job, problems = _spec(_spec_text(raw))
        found = self._owned(raw, kinds.RAYJOBS)
        if kuberay is KubeRay.PRESENT:
            found = self._with_recorded(raw, status, found)
        jobs, rayjobs = tuple(self._owned(raw, kinds.JOBS)), tuple(map(read_rayjob, found))
        reports = self._owned(raw, kinds.FINETUNEREPORTS)
        observed = Observed(
            raw=raw,
            now=self._clock.now(),
            job=job,
            problems=problems,
            status=status,
            report=_report(reports, keys.report_name(key[1])),
            jobs=jobs,
            rayjobs=rayjobs,
            pods=own_pods(map(read_pod, self._known.pods.by_index("/".join(key))), owner_of(raw), status, jobs=jobs, rayjobs=rayjobs),
            kuberay=kuberay,
        )
        return self._with_run(self._defaults.applied(replace(observed, workloads=self._workloads(observed))))

    def _workloads(self, observed: Observed) -> dict[str, Json]:
        """What Kueue keeps for the objects that others hold back, by their uid. Nothing where there is no Kueue, or it may not be read."""
        found = [rayjob.uid for rayjob in observed.rayjobs if rayjob.queued and not rayjob.deleting]
        found += [job["metadata"]["uid"] for job in observed.jobs if is_held(job)]
        return {uid: workload for uid in found if (workload := self._workload(observed.owner.namespace, uid)) is not None}

    def _workload(self, namespace: str, uid: str) -> Json | None:
        try:
            found, _ = self._api.list_pages(kinds.WORKLOADS, namespace, label_selector=f"{keys.WORKLOAD_OF_LABEL}={uid}")
        except ApiError as error:  # no Kueue, no right, or Kueue is away: they are words, on which nothing depends
            log.debug("no Workload", namespace=namespace, of=uid, error=str(error))
            return None
        return found[-1] if found else None

    def _job(self, key: Key) -> Json | None:
        """The job: as the store has it, or as we wrote or read it last, whichever is newer."""
        known, written = self._known.jobs.get(*key), self._written.get(key)
        if known is None or written is None:
            return known
        same = known["metadata"]["uid"] == written["metadata"]["uid"]
        if same and int(written["metadata"]["resourceVersion"]) > int(known["metadata"]["resourceVersion"]):
            return written
        self._written.pop(key, None)
        return known

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
        try:
            run, text = self._run(observed.owner, recorded.config_map, recorded.digest)
        except NotFound:
            return observed
        except InvalidTrainingRun as error:
            return replace(observed, run_problem=str(error))
        return replace(observed, run=run, run_text=text)

    def _read_run(self, owner: Owner, name: str, digest: str) -> tuple[TrainingRun | None, str]:
        """The run of that digest with its text, from its ConfigMap; that of a ConfigMap that was just made need not be asked for.

        Of a run of another contract the text alone. Raises NotFound where the job has no such ConfigMap, InvalidTrainingRun where another
        run is in it.
        """
        _, made = self._made.get((owner.namespace, owner.name), {}).pop((kinds.CONFIG_MAPS.kind, name), (0.0, None))
        raw = made if made is not None else self._api.get(kinds.CONFIG_MAPS, owner.namespace, name)
        if not is_owned(raw, owner):
            raise NotFound(f"ConfigMap {name} isn't this job's", status=404, reason="NotFound")
        text = (raw.get("data") or {}).get(keys.RUN_FILE, "")
        is_whole = digest_of(text) == digest  # of the text, which a newer operator's models might write otherwise
        try:
            run = TrainingRun.from_json(text)
        except InvalidTrainingRun:
            if is_whole:
                return None, text
            raise
        if not is_whole:
            told = "run.json is not the run that the status names; delete its ConfigMap to have it made again"
            raise InvalidTrainingRun(told)
        return run, text

    # ---- applying

    def apply(self, observed: Observed, action: Action) -> None:
        """Do it; what is done already is as good. Raises Refused, or ApiError when trying again may help."""
        match action:
            case Create():
                self._create(observed, action)
            case DryRun():
                self._dry_runs.ask(observed, action)
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
        except ApiError as error:
            if not is_refusal(error):
                raise
            found, key = refusal(resource, manifest["metadata"]["name"], error), (observed.owner.namespace, observed.owner.name)
            raise Refused(replace(found, retry_seconds=self._patience.refused(key, (observed.generation, found.name)))) from None
        log.info("made", kind=resource.kind, object=manifest["metadata"]["name"])
        if resource in (*kinds.CHILDREN, kinds.CONFIG_MAPS):
            name = made["metadata"]["name"]
            key = (observed.owner.namespace, observed.owner.name)
            self._made.setdefault(key, {})[resource.kind, name] = (self._clock.monotonic(), transform(made))

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
        if not _is_as_observed(current, observed):
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
                raise Refused(name_taken(resource, name))
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
            # A job that somebody reopens in this very moment isn't over. Others' writes to the job's objects change nothing of that.
            version = observed.raw["metadata"]["resourceVersion"] if action.kind == kinds.FINETUNEJOBS.kind else None
            self._api.delete(kinds.MADE[action.kind], observed.owner.namespace, action.name, uid=action.uid, resource_version=version)
        except Forbidden as error:
            raise Refused(refusal(kinds.MADE[action.kind], action.name, error)) from None
        except (NotFound, Conflict):  # it is gone, it has changed, or another one of that name came
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
        """One patch with what changed, on the job as it was observed. Raises Conflict."""
        patch = changed(observed.status, status)
        if not patch:
            return
        try:
            written = self._patched(observed, patch)
        except NotFound:  # the job was deleted meanwhile
            return
        self._remember(written)
        self._on_written(observed.status, status)
        log.info("status written", stage=status.stage, attempt=status.attempt)

    def _patched(self, observed: Observed, patch: Json) -> Json:
        """The job with its status patched: on the version that was observed, or on a later one that is the same to a decision."""
        owner, current = observed.owner, observed.raw
        for left in reversed(range(_MOST_WRITES)):
            body = {"metadata": {"resourceVersion": current["metadata"]["resourceVersion"]}, "status": patch}
            try:
                return self._api.merge_patch(kinds.FINETUNEJOBS, owner.namespace, owner.name, body, subresource="status")
            except Conflict:  # the store is behind, its watch is down, or others write to the job all the time
                current = self._api.get(kinds.FINETUNEJOBS, owner.namespace, owner.name)
                if not left or not _is_as_observed(current, observed):
                    self._remember(current)  # the next look begins with what there is
                    raise
        raise AssertionError("the last write returns or raises")

    def _remember(self, raw: Json) -> None:
        """The job as the API server has it, until the store is as new."""
        transform_job(raw)
        key = (raw["metadata"]["namespace"], raw["metadata"]["name"])
        if int(self._known.jobs.version(key) or 0) < int(raw["metadata"]["resourceVersion"]):
            self._written[key] = raw
        self._heard[key] = (raw["metadata"]["resourceVersion"], self._clock.monotonic())

    def caught_up(self, key: Key, resource_version: str) -> None:
        """The store has the job as of that version: what we wrote until then needs no remembering."""
        written = self._written.get(key)
        if written is not None and int(written["metadata"]["resourceVersion"]) <= int(resource_version):
            self._written.pop(key, None)

    def emit(self, observed: Observed, events: tuple[Event, ...]) -> float | None:
        """Make the events, and those that couldn't be made before; seconds until a look that tries what is left, if any is."""
        return self._events.record(observed.owner, events)


def _is_as_observed(current: Json, observed: Observed) -> bool:
    """Whether the job is still what the decision followed from: others' labels, annotations, finalizers and owners are no part of it."""
    return _decisive(current) == _decisive(observed.raw)


def _decisive(raw: Json) -> tuple[object, ...]:
    """The generation stands for the spec, and rises with a deletion, too."""
    metadata, labels = raw["metadata"], raw["metadata"].get("labels") or {}
    named = [labels.get(name) for name in (keys.QUEUE_LABEL, PRIORITY_LABEL)]
    return metadata["uid"], metadata.get("generation"), metadata.get("deletionTimestamp"), named, raw.get("status") or {}


def _report(reports: list[Json], name: str) -> FineTuneReport | None:
    """The report; one that can't be read counts as one that says nothing."""
    found = next((report for report in reports if report["metadata"]["name"] == name), None)
    return None if found is None else parse_report(found) or FineTuneReport()


def _spec_text(raw: Json) -> str:
    """All of the job that parsing depends on, as text."""
    metadata = {name: value for name, value in raw["metadata"].items() if name in ("name", "namespace", "labels", "annotations")}
    return json.dumps({"apiVersion": raw["apiVersion"], "kind": raw["kind"], "metadata": metadata, "spec": raw.get("spec")})


@lru_cache(maxsize=_KEPT_SPECS)
def _spec(text: str) -> tuple[FineTuneJob | None, str]:
    """The parsed job, or what is wrong with it."""
    try:
        return parse_job(without_gone_fields(in_todays_words(json.loads(text)))), ""
    except InvalidSpec as error:
        return None, str(error)
