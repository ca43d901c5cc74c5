"""The driver's side of the FineTuneReport: it reports progress to the operator, and learns from the replies that it should stop.

Events come in and one small status goes out, the newest wins. Training never waits or fails for it: a server that can't be reached
is one warning. The only file of the trainer that talks to the Kubernetes API. It knows nothing of Ray, and doesn't judge how a run ended.
"""

import json
import math
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, cast
from urllib.parse import quote

import urllib3

from finetune_api.bounded_text import shortened
from finetune_api.keys import API_VERSION
from finetune_api.report import (
    REPORTS,
    FineTuneReport,
    FineTuneReportStatus,
    ReportedCheckpoint,
    ReportedEvaluation,
    ReportOutcome,
    parse_report,
)
from finetune_api.times import timestamp
from finetune_trainer.progress import CheckpointCommitted, EvaluationDone, Event, Resumed, StepDone

TOKEN_FOLDER: Final = Path("/etc/finetune/token")
LONGEST_MESSAGE = 1024  # of FineTuneReportStatus
_RECENT_STEPS = 20
_ATTEMPT = re.compile(r"/attempt-0*([1-9]\d*)/")
_REASON = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")
_NO_USE_AGAIN = (400, 404, 422)  # refused, or no such object: the same request gets the same answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the server is asked, in seconds."""

    report: float = 10.0  # between two reports, unless something must be known at once
    look: float = 5.0  # between two looks at what the operator asks; also the pause after a failure
    last: float = 20.0  # for the attempt's outcome, in all
    call: float = 5.0  # for one request


@dataclass(slots=True)
class Progress:
    """What the events of this attempt come to."""

    status: FineTuneReportStatus
    now: Callable[[], datetime]
    _seconds: dict[int, float] = field(default_factory=dict)  # of each step that counts
    _goodput: float = 0.0  # their sum
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_STEPS))

    def take(self, event: Event) -> Literal["now", "later", "no"]:
        """Enter one event; when it should be reported."""
        match event:
            case StepDone():
                self._set(**self._step(event))
                return "later"
            case EvaluationDone():
                loss = _number(event.loss)
                self._set(evaluation=None if loss is None else ReportedEvaluation(step=event.step, loss=loss))
                return "now"
            case CheckpointCommitted():
                attempt = _ATTEMPT.search(event.key)
                if attempt is None:  # never ours; but training doesn't fail for a report
                    return "no"
                self._set(
                    checkpoint=ReportedCheckpoint(
                        step=event.step, attempt=int(attempt[1]), bytes=event.bytes, committed_at=timestamp(self.now())
                    )
                )
                return "now"
            case Resumed():
                self._resume(event.step)
                return "now"
        return "no"

    def _step(self, event: StepDone) -> dict[str, Any]:
        if event.step in self._seconds:  # done again: the run began anew without Resumed
            self._forget_after(event.step - 1)
        seconds = _not_negative(event.seconds) or 0.0
        self._seconds[event.step] = seconds
        self._goodput += seconds
        self._recent.append(seconds)
        left = max(event.total_steps - event.step, 0)
        return {
            "step": event.step,
            "total_steps": event.total_steps,
            "loss": _number(event.loss),
            "tokens_per_second": _not_negative(event.tokens_per_second),
            "eta_seconds": round(left * sum(self._recent) / len(self._recent), 1),
            "goodput_seconds": round(self._goodput, 3),
        }

    def _resume(self, step: int) -> None:
        """What came after that step will be done again."""
        self._forget_after(step)
        beyond = [kept for kept in ("evaluation", "checkpoint") if (one := getattr(self.status, kept)) is not None and one.step > step]
        measured = ("loss", "tokens_per_second", "eta_seconds")
        self._set(step=step, goodput_seconds=round(self._goodput, 3), **dict.fromkeys((*beyond, *measured)))

    def _forget_after(self, step: int) -> None:
        self._seconds = {done: seconds for done, seconds in self._seconds.items() if done <= step}
        self._goodput = math.fsum(self._seconds.values())

    def _set(self, **values: Any) -> None:
        self.status = self.status.model_copy(update=values)


class Unavailable(Exception):
    """The server didn't take a request. `again`: whether the same request may fare better later."""

    def __init__(self, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


class ReportApi:
    """The two calls on one FineTuneReport. Token and authority are read for each call, because the kubelet renews them. Not thread-safe."""

    def __init__(self, host: str, port: int, namespace: str, name: str, token_folder: Path, *, timeout_seconds: float) -> None:
        self._host, self._port, self._token_folder = host, port, token_folder
        self._path = f"/apis/{API_VERSION}/namespaces/{quote(namespace, safe='')}/{REPORTS}/{quote(name, safe='')}"
        self._timeout = urllib3.Timeout(total=timeout_seconds)
        self._authority = ""
        self._pool: urllib3.HTTPSConnectionPool | None = None

    def get(self) -> FineTuneReport:
        """The object. Raises Unavailable."""
        return self._call("GET", self._path, None)

    def patch_status(self, status: FineTuneReportStatus) -> FineTuneReport:
        """Replace the status; the object after it. Raises Unavailable."""
        return self._call("PATCH", f"{self._path}/status", json.dumps(status.to_patch(), allow_nan=False).encode())

    def close(self) -> None:
        """Close the connection; a later call opens another."""
        if self._pool is not None:
            self._pool.close()
        self._pool = None

    def _call(self, method: str, path: str, body: bytes | None) -> FineTuneReport:
        try:
            headers = {"Authorization": f"Bearer {self._token()}", "Accept": "application/json", "User-Agent": "finetune-trainer"}
            headers |= {} if body is None else {"Content-Type": "application/merge-patch+json"}
            reply = self._connections().request(
                method, path, body=body, headers=headers, timeout=self._timeout, retries=False, redirect=False
            )
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
            self.close()
            raise Unavailable(str(error)) from error
        if reply.status != 200:
            raise Unavailable(f"HTTP {reply.status}: {_refusal(reply.data)}", again=reply.status not in _NO_USE_AGAIN)
        report = parse_report(_json(reply.data))
        if report is None:
            raise Unavailable("it answers with something that is no FineTuneReport")
        return report

    def _token(self) -> str:
        path = self._token_folder / "token"
        token = path.read_text(encoding="utf-8").strip()
        # Checked here, because the HTTP client's own error would show it.
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise Unavailable(f"{path} holds no token")
        return token

    def _connections(self) -> urllib3.HTTPSConnectionPool:
        authority = (self._token_folder / "ca.crt").read_text(encoding="ascii", errors="ignore")  # comments may be anything
        if self._pool is None or authority != self._authority:
            self.close()
            # Not create_default_context: for an empty file it trusts the system's authorities, and from Python 3.13 on it asks for
            # extensions that the authorities of many clusters don't have. This one checks chain and host name too.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=authority)
            self._authority = authority
            self._pool = urllib3.HTTPSConnectionPool(self._host, self._port, ssl_context=context)
        return self._pool


class Reporter:
    """A sink that keeps the operator informed, from a thread of its own. Begin with `start`, end with `ended`."""

    def __init__(
        self,
        api: ReportApi,
        cluster: str,
        *,
        on_stop: Callable[[str], None],
        warn: Callable[[str], None],
        pace: Pace | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api, self._cluster, self._on_stop, self._warn, self._now = api, cluster, on_stop, warn, now
        self._pace = pace or Pace()
        self._changed = threading.Condition()  # guards what follows; never held during a request
        self._progress = Progress(FineTuneReportStatus(cluster=cluster, outcome=ReportOutcome.RUNNING), now)
        self._unsent = self._urgent = True  # the first report removes what a former attempt left
        self._closed = False
        # Only of whoever talks to the server: the thread, and after its end the caller of `close` or `ended`.
        self._works: bool | None = None
        self._asked = False
        self._thread = threading.Thread(target=self._run, name="finetune-report", daemon=True)

    @classmethod
    def in_pod(
        cls,
        environment: Mapping[str, str],
        on_stop: Callable[[str], None],
        warn: Callable[[str], None],
        *,
        token_folder: Path = TOKEN_FOLDER,
        pace: Pace | None = None,
    ) -> "Reporter | None":
        """The reporter of the head's pod, at work; None with a warning where the operator didn't set one up."""
        names = ("KUBERNETES_SERVICE_HOST", "FINETUNE_REPORT", "FINETUNE_NAMESPACE", "RAY_CLUSTER_NAME")
        missing = [f"${name} is not set" for name in names if not environment.get(name)]
        missing += [f"{path} is missing" for path in (token_folder / "token", token_folder / "ca.crt") if not path.is_file()]
        if missing:
            warn(f"progress is not reported to the cluster: {', '.join(missing)}")
            return None
        host, report, namespace, cluster = (environment[name] for name in names)
        port, pace = int(environment.get("KUBERNETES_SERVICE_PORT") or 443), pace or Pace()
        api = ReportApi(host, port, namespace, report, token_folder, timeout_seconds=pace.call)
        return cls(api, cluster, on_stop=on_stop, warn=warn, pace=pace).start()

    def start(self) -> "Reporter":
        """Report that the attempt runs."""
        self._thread.start()
        return self

    def record(self, event: Event) -> None:
        """Take the event in; the thread sends it."""
        with self._changed:
            if self._closed or (when := self._progress.take(event)) == "no":
                return
            self._unsent = True
            self._urgent = self._urgent or when == "now"
            self._changed.notify()

    def close(self) -> None:
        """End the thread; what it hasn't sent gets one try. `ended` may still follow."""
        if self._end_thread() and self._unsent:
            self._send(self._api.patch_status, self._newest())
        self._api.close()

    def ended(self, outcome: ReportOutcome, reason: str | None = None, message: str | None = None, permanent: bool = False) -> None:
        """Report how the attempt ended, and nothing after it. Tries for a while: the pod has nothing else to do."""
        deadline = time.monotonic() + self._pace.last
        self._end_thread()
        known = reason if reason is not None and _REASON.fullmatch(reason) else None  # a refused field would cost the outcome
        told = shortened(message, LONGEST_MESSAGE) if message else None
        how = {"outcome": outcome, "reason": known, "message": told, "permanent": permanent, "eta_seconds": None}
        self._progress.status = self._progress.status.model_copy(update=how)
        self._deliver(self._newest(), deadline)
        self._api.close()

    def _deliver(self, status: FineTuneReportStatus, deadline: float) -> None:
        pause = 0.5
        while (again := self._send(self._api.patch_status, status)) != "sent":
            if again == "refused" or time.monotonic() + pause > deadline:
                self._warn(f"the operator was not told that this attempt ended as {status.outcome}; it sees the pods end")
                return
            time.sleep(pause)
            pause = min(2 * pause, 4.0)

    def _end_thread(self) -> bool:
        """False when it had ended before. After it nothing is in flight that could overwrite what the caller sends."""
        with self._changed:
            first, self._closed = not self._closed, True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(self._pace.last)
        return first

    def _run(self) -> None:
        report_at = look_at = -math.inf
        while True:
            with self._changed:
                due = self._due(report_at, look_at)
                status = self._newest() if due == "report" else None
                if due == "report":
                    self._unsent = self._urgent = False
            if due == "close":
                return
            sent = self._send(self._api.get) if status is None else self._send(self._api.patch_status, status)
            look_at = time.monotonic() + self._pace.look
            if status is not None and sent == "sent":
                report_at = time.monotonic() + self._pace.report
            elif status is not None:
                report_at = look_at
                with self._changed:
                    self._unsent = True

    def _due(self, report_at: float, look_at: float) -> Literal["report", "look", "close"]:
        """Wait, with the lock, until there is something to do."""
        while not self._closed:
            now = time.monotonic()
            if self._unsent and (self._urgent or now >= report_at):
                return "report"
            if now >= look_at:
                return "look"
            self._changed.wait(min(look_at, report_at if self._unsent else math.inf) - now)
        return "close"

    def _newest(self) -> FineTuneReportStatus:
        return self._progress.status.model_copy(update={"reported_at": timestamp(self._now())})

    def _send(self, call: Callable[..., FineTuneReport], *arguments: FineTuneReportStatus) -> Literal["sent", "failed", "refused"]:
        """Make one call and look at its reply. Says when the server stops answering, and when it answers again."""
        try:
            report = call(*arguments)
        except Unavailable as error:
            if self._works is not False:
                self._warn(f"progress can't be reported to the cluster, training goes on: {error}")
            self._works = False
            return "failed" if error.again else "refused"
        if self._works is False:
            self._warn("progress is reported to the cluster again")
        self._works = True
        self._look(report)
        return "sent"

    def _look(self, report: FineTuneReport) -> None:
        if report.spec.asks_to_stop(self._cluster) and not self._asked and not self._closed:
            self._asked = True
            assert report.spec.stop is not None
            self._on_stop(report.spec.stop.reason)


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def _not_negative(value: float) -> float | None:
    return value if math.isfinite(value) and value >= 0 else None


def _json(data: bytes) -> object:
    try:
        return cast(object, json.loads(data))
    except (ValueError, RecursionError):
        return None


def _refusal(data: bytes) -> str:
    """The message of the API server's Status; nothing of an answer that has another form, for it may be anything."""
    status = _json(data)
    message = status.get("message") if isinstance(status, dict) else None
    return shortened(message, 300) if isinstance(message, str) else "no reason given"
