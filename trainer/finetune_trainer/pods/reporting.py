"""The driver's side of the FineTuneReport: it reports progress to the operator, and learns from the replies that it should stop.

Events come in and one small status goes out (`report_progress`), by way of `report_api`. Training never waits or fails for it: a server
that can't be reached is one warning. It knows nothing of Ray, and doesn't judge how a run ended.
"""

import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from finetune_api.bounded_text import shortened
from finetune_api.report import FineTuneReport, FineTuneReportStatus, ReportOutcome
from finetune_api.times import timestamp
from finetune_trainer.pods.report_api import ReportApi, Unavailable
from finetune_trainer.pods.report_progress import Progress
from finetune_trainer.reporting.events import Event

TOKEN_FOLDER: Final = Path("/etc/finetune/token")
LONGEST_MESSAGE = 1024  # of FineTuneReportStatus
_REASON = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the server is asked, in seconds."""

    report: float = 10.0  # between two reports, unless something must be known at once
    renew: float = 60.0  # after the last report it is sent again as it is: the operator tells a silent driver from one that has no news
    look: float = 5.0  # between two looks at what the operator asks; also the pause after a failure
    last: float = 20.0  # for the attempt's outcome, in all
    call: float = 5.0  # for one request


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

    def ended(
        self,
        outcome: ReportOutcome,
        reason: str | None = None,
        message: str | None = None,
        permanent: bool = False,
        last_lines: list[str] | None = None,
    ) -> None:
        """Report how the attempt ended, and nothing after it. Tries for a while: the pod has nothing else to do."""
        deadline = time.monotonic() + self._pace.last
        self._end_thread()
        known = reason if reason is not None and _REASON.fullmatch(reason) else None  # a refused field would cost the outcome
        told = shortened(message, LONGEST_MESSAGE) if message else None
        how = {"outcome": outcome, "reason": known, "message": told, "permanent": permanent, "last_lines": last_lines, "eta_seconds": None}
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
            if (self._unsent and (self._urgent or now >= report_at)) or now >= report_at + self._pace.renew - self._pace.report:
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
