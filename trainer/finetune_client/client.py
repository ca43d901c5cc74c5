"""`FineTuneClient`: jobs on a cluster as Python values. Methods are named as in Kubeflow's TrainerClient, so that one knows them.

In: names and FineTuneJobs. Out: `Job`, frozen values, and lines of logs. Every request is made when it is asked for; nothing is kept.
Raises InvalidCluster where asking again won't help (no such job, no right), ClusterFailed where it may.
"""

import base64
import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from kubernetes.client import CoreV1Api, CustomObjectsApi
from kubernetes.client.exceptions import ApiException

from finetune_api.conditions import ConditionType, find, is_true
from finetune_api.errors import ClusterFailed, InvalidCluster, InvalidSpec, JobFailed, Problem, WaitedTooLong
from finetune_api.finetunejob import FineTuneJob
from finetune_api.jobfile import job_document, parse_job
from finetune_api.keys import API_VERSION, EVALUATION, GROUP, JOB_LABEL, KIND, PREPARATION, PUBLICATION, TRAINING
from finetune_client.connection import ANSWER_SECONDS, SILENT_SECONDS, connect, message_of, status_of, told_plainly
from finetune_client.forward import forwarded
from finetune_client.jobs import Dashboard, Job, JobEvent, event_of, job_of
from finetune_client.logs import LogGone, Stage, lines, newest_source

PLURAL: Final = "finetunejobs"
# Who owns the fields that `apply_job` writes, in the API server's record.
FIELD_MANAGER: Final = "finetune"
_VERSION: Final = API_VERSION.partition("/")[2]
_PAGE: Final = 500
_DASHBOARD_PORT: Final = 8265
# Written by KubeRay on its pods.
_RAY_CLUSTER_LABEL: Final = "ray.io/cluster"
_RAY_NODE_LABEL: Final = "ray.io/node-type"
_APPLY: Final = "application/apply-patch+yaml"

Json = dict[str, Any]


class FineTuneClient:
    """FineTuneJobs of one namespace of a cluster.

    >>> FineTuneClient(kubeconfig="no/such/file")
    Traceback (most recent call last):
    finetune_api.errors.InvalidCluster: no cluster is configured: ...
    """

    def __init__(
        self,
        *,
        namespace: str | None = None,
        context: str | None = None,
        kubeconfig: Path | str | None = None,
    ) -> None:
        """As kubectl: $KUBECONFIG or ~/.kube/config with its current context and namespace, or the pod that we are in."""
        self._connection = connect(kubeconfig=Path(kubeconfig) if kubeconfig else None, context=context, namespace=namespace)
        self._custom = CustomObjectsApi(self._connection.api)
        self._core = CoreV1Api(self._connection.api)

    @property
    def namespace(self) -> str:
        """The namespace of the jobs."""
        return self._connection.namespace

    # ---- jobs

    def apply_job(self, job: FineTuneJob | Mapping[str, Any] | Path | str, *, force: bool = False, dry_run: bool = False) -> Job:
        """Create the job, or change it: a file, a mapping as in YAML, or a FineTuneJob. Raises InvalidSpec before anything is sent.

        `force`: also fields that someone else has set. `dry_run`: the API server answers as if, and keeps nothing.
        """
        body = _document(job)
        name = str(body["metadata"]["name"])
        named = body["metadata"].get("namespace")
        if named is not None and named != self.namespace:
            raise InvalidCluster(f"metadata.namespace: the file says {named}, and {self.namespace} was asked for; leave one of them out")
        what = f"apply FineTuneJob {name} in {self.namespace}"
        with told_plainly(self._connection, what, missing=f"{what}: there is no namespace {self.namespace}; create it first"):
            try:
                answer = self._custom.patch_namespaced_custom_object(
                    GROUP,
                    _VERSION,
                    self.namespace,
                    PLURAL,
                    name,
                    body,
                    field_manager=FIELD_MANAGER,
                    force=force,
                    dry_run="All" if dry_run else None,
                    _content_type=_APPLY,
                    # The client (37.0) gives None for an object that was created so: it knows the answer 200 alone.
                    _preload_content=False,
                    _request_timeout=ANSWER_SECONDS,
                )
            except ApiException as error:
                raise _not_applied(error, what) from None
        return job_of(json.loads(answer.data))

    def list_jobs(self, *, all_namespaces: bool = False) -> list[Job]:
        """The jobs of the namespace, or of all, by namespace and name."""
        found: list[Job] = []
        more: str | None = None
        with told_plainly(self._connection, "list FineTuneJobs"):
            while True:
                options = {"limit": _PAGE, "_continue": more, "_request_timeout": ANSWER_SECONDS}
                if all_namespaces:
                    page = self._custom.list_cluster_custom_object(GROUP, _VERSION, PLURAL, **options)
                else:
                    page = self._custom.list_namespaced_custom_object(GROUP, _VERSION, self.namespace, PLURAL, **options)
                found += [job_of(item) for item in page["items"]]
                more = page["metadata"].get("continue")
                if not more:
                    return sorted(found, key=lambda job: (job.namespace, job.name))

    def get_job(self, name: str) -> Job:
        """One job."""
        with told_plainly(self._connection, f"get FineTuneJob {name}", missing=self._no_such(name)):
            return job_of(
                self._custom.get_namespaced_custom_object(GROUP, _VERSION, self.namespace, PLURAL, name, _request_timeout=ANSWER_SECONDS)
            )

    def get_job_events(self, name: str) -> list[JobEvent]:
        """What happened to it, oldest first, as far as the API server remembers (an hour, by default)."""
        selector = f"involvedObject.kind={KIND},involvedObject.name={name}"
        with told_plainly(self._connection, f"list events of {name}"):
            answer = self._core.list_namespaced_event(
                self.namespace, field_selector=selector, _preload_content=False, _request_timeout=ANSWER_SECONDS
            )
            return sorted(map(event_of, json.loads(answer.data)["items"]), key=lambda event: event.time)

    def delete_job(self, name: str) -> None:
        """Delete the job and its objects; what is in its storage and on the Hub stays."""
        with told_plainly(self._connection, f"delete FineTuneJob {name}", missing=self._no_such(name)):
            self._custom.delete_namespaced_custom_object(
                GROUP, _VERSION, self.namespace, PLURAL, name, propagation_policy="Foreground", _request_timeout=ANSWER_SECONDS
            )

    # ---- changes that people make while it runs

    def suspend_job(self, name: str) -> Job:
        """Ask it to commit a checkpoint and give its GPUs back; the condition Suspended tells when no pod runs any more."""
        return self._change(name, "suspend", {"suspend": True})

    def resume_job(self, name: str) -> Job:
        """Let it go on from its newest checkpoint."""
        return self._change(name, "resume", {"suspend": False})

    def retry_job(self, name: str) -> Job:
        """Reopen a failed job at the stage that failed. Raises InvalidCluster when it hasn't failed."""
        job = self.get_job(name)
        if not is_true(job.status.conditions, ConditionType.FAILED):
            raise InvalidCluster(f"retry FineTuneJob {name}: it hasn't failed, it is {job.stage}; only a failed job is reopened")
        return self._change(name, "retry", {"retry": int(job.spec.get("retry", 0)) + 1})

    def _change(self, name: str, verb: str, spec: Json) -> Job:
        with told_plainly(self._connection, f"{verb} FineTuneJob {name}", missing=self._no_such(name)):
            made = self._custom.patch_namespaced_custom_object(
                GROUP,
                _VERSION,
                self.namespace,
                PLURAL,
                name,
                {"spec": spec},
                field_manager=FIELD_MANAGER,
                _content_type="application/merge-patch+json",
                _request_timeout=ANSWER_SECONDS,
            )
        return job_of(made)

    # ---- waiting

    def wait_for_job_status(
        self,
        name: str,
        status: Collection[str] = frozenset({"Succeeded"}),
        *,
        timeout: float | None = 600.0,
        polling_interval: float = 2.0,
        callbacks: Sequence[Callable[[Job], None]] = (),
    ) -> Job:
        """The job, as soon as one of these conditions is True or its stage is one of these words; times in seconds.

        Callbacks get the job each time that it was looked at. A cluster that doesn't answer is asked again until the time is over.
        Raises JobFailed when it fails instead, WaitedTooLong.
        """
        begun = time.monotonic()
        job: Job | None = None
        while True:
            try:
                job = self.get_job(name)
            except ClusterFailed:
                if timeout is not None and time.monotonic() - begun >= timeout:
                    raise
            else:
                for callback in callbacks:
                    callback(job)
                if any(job.has(wanted) for wanted in status):
                    return job
                if job.is_finished:
                    verb = "failed" if is_true(job.status.conditions, ConditionType.FAILED) else "has ended"
                    raise JobFailed(f"FineTuneJob {name} {verb}, and was waited for to be {' or '.join(sorted(status))}: {job.why()}")
            if timeout is not None and time.monotonic() - begun + polling_interval > timeout:
                told = f"it is {job.stage}: {job.why()}" if job else "the cluster didn't answer"
                raise WaitedTooLong(f"FineTuneJob {name} wasn't {' or '.join(sorted(status))} within {timeout:g} s; {told}")
            time.sleep(polling_interval)

    def wait_until_deleted(self, job: Job, *, polling_interval: float = 1.0) -> None:
        """Until neither the job nor a pod of it is there; another job of that name is another one."""
        while self._is_there(job):
            time.sleep(polling_interval)

    def _is_there(self, job: Job) -> bool:
        try:
            return self.get_job(job.name).uid == job.uid
        except InvalidCluster:
            return bool(self._pods(job.name))

    # ---- the Ray dashboard

    @contextlib.contextmanager
    def dashboard(self, name: str, *, local_port: int = 0, with_token: bool = True) -> Iterator[Dashboard]:
        """The Ray dashboard of the attempt that runs, at a port of this machine while the block runs; 0 takes a free one.

        `with_token` reads the RayCluster's Secret, which asks for the right to. Raises InvalidCluster.
        """
        cluster, head = self._head(name)
        token = self._token(cluster) if with_token else None
        with forwarded(self._connection, head, _DASHBOARD_PORT, local_port=local_port) as port:
            yield Dashboard(url=f"http://127.0.0.1:{port}", token=token, head=head)

    def dashboard_is_there(self, dashboard: Dashboard) -> bool:
        """Whether its pod still runs."""
        with told_plainly(self._connection, f"get pod {dashboard.head}"):
            try:
                answer = self._core.read_namespaced_pod(
                    dashboard.head, self.namespace, _preload_content=False, _request_timeout=ANSWER_SECONDS
                )
            except ApiException as error:
                if error.status == 404:
                    return False
                raise
            return bool(json.loads(answer.data)["status"]["phase"] == "Running")

    def _head(self, name: str) -> tuple[str, str]:
        """The RayCluster of the attempt that runs, and its head's pod. Raises InvalidCluster."""
        job = self.get_job(name)
        attempt = job.attempt
        cluster = attempt.ray_job.cluster if attempt and attempt.outcome is None and attempt.ray_job else None
        if cluster is None:
            raise InvalidCluster(f"FineTuneJob {name} is {job.stage}, and no attempt at training runs that has a dashboard; {job.why()}")
        for pod in self._pods(name):
            labels = pod["metadata"].get("labels") or {}
            if (labels.get(_RAY_CLUSTER_LABEL), labels.get(_RAY_NODE_LABEL)) == (cluster, "head") and pod["status"]["phase"] == "Running":
                return cluster, pod["metadata"]["name"]
        raise InvalidCluster(f"the head of FineTuneJob {name}'s attempt {job.status.attempt} doesn't run yet; {job.why()}")

    def _token(self, cluster: str) -> str:
        what = f"read Secret {cluster}, which holds the dashboard's token"
        with told_plainly(self._connection, f"{what} (--no-token goes without)", missing=f"{what}: it isn't there"):
            answer = self._core.read_namespaced_secret(cluster, self.namespace, _preload_content=False, _request_timeout=ANSWER_SECONDS)
            return base64.b64decode(json.loads(answer.data)["data"]["auth_token"]).decode()

    # ---- logs

    def get_job_logs(
        self,
        name: str,
        *,
        stage: Stage | None = None,
        attempt: int | None = None,
        follow: bool = False,
        tail: int | None = None,
    ) -> Iterator[str]:
        """Lines of a stage's log, from its pod; without `stage` of the newest stage that says something.

        `follow`: wait for the pod to begin, and go on until it ends. `tail`: only the last lines. Raises LogGone where no pod
        is left: what it said is in the job's storage then.
        """
        job = self.get_job(name)
        while True:
            pods = self._pods(name)
            source = None
            for candidate in (stage,) if stage else (PUBLICATION, EVALUATION, TRAINING, PREPARATION):
                source = source or newest_source(pods, candidate, owner=_owner(job, candidate, attempt))
            if source is not None and source.has_begun:
                break
            job = self.get_job(name)
            if not follow or job.is_finished:
                raise _says_nothing(job, stage, attempt, waits=source is not None)
            time.sleep(1.0)
        with told_plainly(self._connection, f"read the log of pod {source.pod}"):
            answer = self._core.read_namespaced_pod_log(
                source.pod,
                self.namespace,
                container=source.container,
                follow=follow,
                tail_lines=tail,
                _preload_content=False,
                # A log that is followed may be silent for as long as a step takes; the client (37.0) takes no wait without end.
                _request_timeout=(ANSWER_SECONDS, SILENT_SECONDS if follow else ANSWER_SECONDS),
            )
            try:
                yield from lines(answer.stream())
            finally:
                answer.close()

    def _pods(self, name: str) -> list[Json]:
        with told_plainly(self._connection, f"list pods of {name}"):
            answer = self._core.list_namespaced_pod(
                self.namespace, label_selector=f"{JOB_LABEL}={name}", _preload_content=False, _request_timeout=ANSWER_SECONDS
            )
            found: list[Json] = json.loads(answer.data)["items"]
            return found

    def _no_such(self, name: str) -> str:
        return f"there is no FineTuneJob {name} in namespace {self.namespace}; `finetune get -n {self.namespace}` lists those that are"


def _document(job: FineTuneJob | Mapping[str, Any] | Path | str) -> Json:
    """What is sent: the fields that were given, without the defaults, which are the API server's. Raises InvalidSpec."""
    if isinstance(job, FineTuneJob):
        given = job.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return {**given, "apiVersion": API_VERSION, "kind": KIND}
    if isinstance(job, Mapping):
        parse_job(dict(job))
        return {key: value for key, value in job.items() if key != "status"}
    return job_document(Path(job))


def _not_applied(error: Any, what: str) -> Exception:
    """What the API server found wrong with the job, by field; any other refusal passes through."""
    causes = (status_of(error).get("details") or {}).get("causes") or []
    if error.status == 422 and causes:
        return InvalidSpec([Problem(cause.get("field", "spec"), cause.get("message", "")) for cause in causes])
    if error.status == 409 and causes:
        fields = ", ".join(str(cause.get("field", "")).removeprefix(".") for cause in causes)
        who = message_of(error)
        return InvalidCluster(f"{what}: others set {fields} ({who}); leave it to them, or --force-conflicts takes it over")
    refused: Exception = error
    return refused


def _owner(job: Job, stage: Stage, attempt: int | None) -> str | None:
    """The Job or RayJob whose pod tells of a stage; None where any is right. An attempt of Kueue's shares its RayJob with others."""
    if stage != TRAINING or attempt is None:
        return None
    found = next((each for each in job.status.attempts if each.number == attempt), None)
    if found is None:
        known = ", ".join(str(each.number) for each in job.status.attempts) or "none"
        raise InvalidCluster(f"--attempt {attempt}: FineTuneJob {job.name} has no such attempt; there are {known}")
    return found.ray_job.name if found.ray_job else f"{job.name}-{attempt}"


def _says_nothing(job: Job, stage: Stage | None, attempt: int | None, *, waits: bool) -> InvalidCluster:
    what = stage or "pod"
    which = f" of attempt {attempt}" if attempt else ""
    if waits:
        return InvalidCluster(f"the {what}{which} of FineTuneJob {job.name} hasn't begun: {job.why()}; --follow waits for it")
    trained = find(job.status.conditions, ConditionType.TRAINED)
    told = f"; its last word: {trained.message}" if trained is not None and trained.message and stage in (None, TRAINING) else ""
    return LogGone(f"no pod is left{which} that tells of {what if stage else 'a stage'} of FineTuneJob {job.name}{told}")
