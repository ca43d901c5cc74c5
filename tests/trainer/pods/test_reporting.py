"""The reporter against a small HTTPS server that speaks the two calls on a FineTuneReport. No interval but 0 and for ever matters."""

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.testcluster.certificates import Authority

from finetune_api.report import FineTuneReportStatus, ReportedEvaluation, ReportOutcome, parse_report
from finetune_api.times import timestamp
from finetune_trainer.pods.report_progress import Progress
from finetune_trainer.pods.reporting import Pace, Reporter
from finetune_trainer.reporting.events import (
    CheckpointCommitted,
    EvaluationDone,
    NodesChecked,
    Notice,
    Restarted,
    Restarting,
    Resumed,
    StepDone,
    StoppedEarly,
)

EVER = 3600.0
PATH = "/apis/finetune.dev/v1alpha1/namespaces/team/finetunereports/chat"
SILENT = Pace(report=EVER, look=EVER, last=30)  # speaks only when something must be known at once
EAGER = Pace(report=0, look=0.01, last=30)
NOON = datetime(2026, 11, 23, 12, 0, 0, 987654, tzinfo=UTC)
Patch = dict[str, Any]


def merged(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    kept = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        kept.pop(key, None) if value is None else kept.update({key: merged(kept.get(key), value)})
    return kept


class Cut(Exception):
    """Close the connection instead of an answer."""


class ApiServer:
    """One FineTuneReport behind TLS. `answers` takes the place of the next answers: (status, body), or Cut."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.authority = Authority.create(folder, "test")
        self.token, self.seen = "first", threading.Condition()
        self.report: dict[str, Any] = {"metadata": {"name": "chat"}, "spec": {}}
        self.answers: list[tuple[int, bytes] | type[Cut]] = []
        self.requests: list[tuple[str, str]] = []  # method and token, in order
        self.patches: list[Patch] = []  # what was accepted, in order
        pair = self.authority.issue("server", "server", hosts=["127.0.0.1"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        self._server = _Server(("127.0.0.1", port), self, context)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        """Gone, with its connections."""
        self._server.shutdown()
        self._thread.join()
        self._server.end()

    def until(self, seen: Callable[["ApiServer"], bool]) -> None:
        """Wait until the requests so far satisfy it."""
        with self.seen:
            assert self.seen.wait_for(lambda: seen(self), 60), f"{self.requests=} {self.patches=}"

    def ask_to_stop(self, reason: str, cluster: str | None) -> None:
        with self.seen:
            self.report["spec"] = {"stop": {"reason": reason} | ({"cluster": cluster} if cluster else {})}

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        with self.seen:
            token = headers["Authorization"].removeprefix("Bearer ")
            self.requests.append((method, token))
            self.seen.notify_all()
            if self.answers:
                answer = self.answers.pop(0)
                if answer is Cut:
                    raise Cut
                assert isinstance(answer, tuple)
                return answer
            if token != self.token:
                return 401, refusal("Unauthorized")
            if method == "PATCH" and path == f"{PATH}/status" and headers["Content-Type"] == "application/merge-patch+json":
                patch = json.loads(body)
                assert list(patch) == ["status"]
                self.patches.append(patch["status"])
                self.report = merged(self.report, patch)
            elif method != "GET" or path != PATH:
                return 404, refusal(f"{method} {path} not found")
            return 200, json.dumps(self.report).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, address: tuple[str, int], api: ApiServer, context: ssl.SSLContext) -> None:
        self.api, self.context = api, context
        self.live: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            with self.context.wrap_socket(request, server_side=True) as connection:
                self.live.add(connection)
                try:
                    super().finish_request(connection, client_address)
                finally:
                    self.live.discard(connection)
        except (OSError, Cut):
            pass  # the client went away, or refused our certificate

    def end(self) -> None:
        for connection in list(self.live):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()  # waits for its threads


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for the acknowledgement of its head
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, data = self.server.api.answer(self.command, self.path, self.headers, body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PATCH = _serve

    def log_message(self, *_: Any) -> None:
        pass


def refusal(message: str) -> bytes:
    return json.dumps({"kind": "Status", "status": "Failure", "message": message}).encode()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("authority")


@pytest.fixture
def server(authority: Path) -> Iterator[ApiServer]:
    server = ApiServer(authority)
    yield server
    server.stop()


@pytest.fixture
def token_folder(tmp_path: Path, server: ApiServer) -> Path:
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_bytes(server.authority.certificate.read_bytes())
    return tmp_path


class Listener:
    """What the reporter says to the driver."""

    def __init__(self) -> None:
        self.said = threading.Condition()
        self.warnings: list[str] = []
        self.stops: list[str] = []

    def warn(self, text: str) -> None:
        with self.said:
            self.warnings.append(text)
            self.said.notify_all()

    def on_stop(self, reason: str) -> None:
        with self.said:
            self.stops.append(reason)
            self.said.notify_all()

    def until(self, said: Callable[["Listener"], bool]) -> None:
        with self.said:
            assert self.said.wait_for(lambda: said(self), 60), f"{self.warnings=} {self.stops=}"


@pytest.fixture
def listener() -> Listener:
    return Listener()


def environment(server: ApiServer) -> dict[str, str]:
    return {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(server.port),
        "FINETUNE_REPORT": "chat",
        "FINETUNE_NAMESPACE": "team",
        "RAY_CLUSTER_NAME": "chat-1-x7f2k",
    }


Start = Callable[[Pace], Reporter]


@pytest.fixture
def start(server: ApiServer, token_folder: Path, listener: Listener) -> Iterator[Start]:
    started: list[Reporter] = []

    def start(pace: Pace) -> Reporter:
        reporter = Reporter.in_pod(environment(server), listener.on_stop, listener.warn, token_folder=token_folder, pace=pace)
        assert reporter is not None
        started.append(reporter)
        return reporter

    yield start
    for reporter in started:
        reporter.close()


def step_done(step: int, *, loss: float = 2.5, seconds: float = 3.0, tokens_per_second: float = 1000.0, total: int = 100) -> StepDone:
    return StepDone(
        step=step, total_steps=total, epoch=0.1, loss=loss, learning_rate=1e-5, grad_norm=1.0, supervised_tokens=10, tokens=20,
        tokens_per_second=tokens_per_second, memory_bytes=0, seconds=seconds, wall_tokens_per_second=0.75 * tokens_per_second,
    )  # fmt: skip


def committed(step: int, attempt: int = 1, size: int = 4096) -> CheckpointCommitted:
    key = f"checkpoints/step-{step:08d}/attempt-{attempt:04d}/manifest.json"
    return CheckpointCommitted(step=step, seconds=0.5, bytes=size, key=key)


def evaluated(step: int, loss: float = 1.5, seconds: float = 0.0) -> EvaluationDone:
    return EvaluationDone(step=step, epoch=0.1, loss=loss, perplexity=None, seconds=seconds)


def progress_after(*events: Any) -> FineTuneReportStatus:
    progress = Progress(FineTuneReportStatus(cluster="c"), lambda: NOON)
    for event in events:
        progress.take(event)
    return progress.status


# What events come to


def test_a_step_is_reported_with_the_time_that_is_left() -> None:
    status = progress_after(step_done(1, seconds=1.0), step_done(2, seconds=3.0, loss=2.25, tokens_per_second=500.0))
    expected = FineTuneReportStatus(
        cluster="c", step=2, total_steps=100, loss=2.25, tokens_per_second=500.0, wall_tokens_per_second=375.0, eta_seconds=196.0
    )
    assert status == expected


def test_the_time_that_is_left_follows_the_last_twenty_steps() -> None:
    status = progress_after(*(step_done(step, seconds=9.0 if step <= 20 else 1.0) for step in range(1, 41)))
    assert status.eta_seconds == 60.0
    assert progress_after(*(step_done(step, total=2) for step in (1, 2))).eta_seconds == 0.0


@pytest.mark.parametrize("unknown", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_cannot_hold_are_left_out(unknown: float) -> None:
    status = progress_after(evaluated(0), evaluated(1, unknown), step_done(1, loss=unknown, seconds=unknown, tokens_per_second=unknown))
    assert (status.loss, status.tokens_per_second, status.wall_tokens_per_second, status.evaluation) == (None, None, None, None)
    json.dumps(status.to_patch(), allow_nan=False)


def test_evaluation_and_checkpoint_are_reported_with_their_steps() -> None:
    status = progress_after(evaluated(10, 1.25), committed(10, attempt=12, size=77), Notice(message="3 rows dropped"))
    patch = status.to_patch()["status"]
    assert patch["evaluation"] == {"step": 10, "loss": 1.25}
    assert patch["checkpoint"] == {"step": 10, "attempt": 12, "bytes": 77, "committedAt": "2026-11-23T12:00:00Z", "seconds": 0.5}


def test_evaluations_are_part_of_the_time_that_is_left() -> None:
    """60 s each 10 steps are 6 s for each of the 88 steps that are left, beside the second of the step itself."""
    status = progress_after(evaluated(0, seconds=60.0), step_done(10, seconds=1.0), evaluated(10, seconds=60.0), step_done(12, seconds=1.0))
    assert status.eta_seconds == 88 * 7.0
    assert progress_after(evaluated(0, seconds=60.0), step_done(12, seconds=1.0)).eta_seconds == 88.0  # how often isn't known yet


def test_hosts_that_the_check_found_slow_are_reported_at_once() -> None:
    progress = Progress(FineTuneReportStatus(cluster="c"), lambda: NOON)
    assert progress.take(NodesChecked(seconds=5.0, slow_hosts=["w1", "w2"])) == "now"
    assert progress.status.slow_hosts == ["w1", "w2"]
    assert progress_after(NodesChecked(seconds=5.0)).slow_hosts is None


def test_an_early_end_is_reported_with_its_step_which_need_not_be_a_logged_one() -> None:
    early = StoppedEarly(step=13, total_steps=100, loss=2.0, best_step=3, best_loss=1.0, message="stopped early at step 13 of 100")
    status = progress_after(step_done(10), evaluated(13, 2.0), early)
    assert (status.step, status.total_steps, status.eta_seconds) == (13, 100, None)
    assert status.evaluation == ReportedEvaluation(step=13, loss=2.0)


def test_steps_that_are_lost_do_not_count() -> None:
    steps = [step_done(step) for step in range(1, 6)]
    status = progress_after(*steps, committed(3), evaluated(3), evaluated(5), Resumed(step=3, attempt=2))
    assert (status.step, status.goodput_seconds, status.loss, status.eta_seconds) == (3, 9.0, None, None)
    assert status.evaluation is None  # of a state that is gone
    assert status.checkpoint is not None
    again = progress_after(*steps, Resumed(step=3, attempt=2), step_done(4, seconds=1.0), committed(4))
    assert (again.first_step, again.step, again.goodput_seconds) == (3, 4, 10.0)


def test_workers_that_start_again_in_place_go_on_with_the_attempt_where_they_restored() -> None:
    """Steps that are done again count once, and the attempt began where its first workers did."""
    ended = Restarting(reason="WorkerLost", message="w" * 2000, hosts=[f"w{number}" for number in range(20)])
    begun = [Resumed(step=10, attempt=1), *(step_done(step) for step in (11, 12, 13)), committed(12)]
    progress = Progress(FineTuneReportStatus(cluster="c"), lambda: NOON)
    assert [progress.take(event) for event in (*begun, ended)][-1] == "now"
    waits = progress.status.restarts
    assert waits is not None
    assert (waits.count, waits.charged, waits.since, waits.reason) == (0, 0, timestamp(NOON), "WorkerLost")
    assert (len(waits.message), waits.hosts) == (512, [f"w{number}" for number in range(8)])

    assert progress.take(Restarted(count=1, charged=0, seconds=30.0)) == "now"
    progress.take(Resumed(step=12, attempt=2))
    status = progress.status
    assert (status.first_step, status.step, status.goodput_seconds) == (10, 12, 6.0)
    assert status.restarts == waits.model_copy(update={"count": 1, "since": None})
    assert status.checkpoint is not None
    for event in (step_done(13), committed(13, attempt=2), Restarting(reason="TrainingFailed", message="worker 1 died")):
        progress.take(event)
    again = progress.status.restarts
    assert again is not None
    assert (again.count, again.reason, again.hosts, progress.status.goodput_seconds) == (1, "TrainingFailed", None, 9.0)


def test_steps_that_no_checkpoint_holds_do_not_count_since_the_next_attempt_does_them_again() -> None:
    steps = [step_done(step) for step in (1, 8, 12)]
    assert progress_after(*steps).goodput_seconds is None
    assert progress_after(*steps, committed(8)).goodput_seconds == 6.0
    assert progress_after(*steps, committed(8), committed(12)).goodput_seconds == 9.0


def test_a_run_that_began_anew_counts_its_steps_once() -> None:
    assert progress_after(step_done(1), step_done(2), step_done(3), step_done(1), committed(1)).goodput_seconds == 3.0


@pytest.mark.parametrize("key", ["", "checkpoints/step-1/manifest.json", "checkpoints/step-1/attempt-0000/manifest.json"])
def test_a_key_of_another_form_is_no_checkpoint(key: str) -> None:
    assert progress_after(CheckpointCommitted(step=1, seconds=0.0, bytes=1, key=key)).checkpoint is None


# What is sent, and when


def test_the_first_report_removes_what_a_former_attempt_left(server: ApiServer, start: Start) -> None:
    server.report["status"] = {"cluster": "chat-0", "outcome": "Failed", "reason": "OutOfMemory", "message": "no", "step": 7}
    start(SILENT)
    server.until(lambda seen: len(seen.patches) == 1)
    status = server.report["status"]
    assert status.pop("reportedAt").endswith("Z")
    assert status == {"cluster": "chat-1-x7f2k", "outcome": "Running", "permanent": False}


def test_steps_wait_for_their_time_and_a_checkpoint_does_not(server: ApiServer, start: Start) -> None:
    reporter = start(SILENT)
    server.until(lambda seen: len(seen.patches) == 1)
    for step in range(1, 51):
        reporter.record(step_done(step))
    reporter.record(committed(50))
    server.until(lambda seen: len(seen.patches) == 2)
    reporter.record(step_done(51))
    reporter.record(evaluated(51))
    server.until(lambda seen: len(seen.patches) == 3)
    reporter.record(step_done(52))
    reporter.record(Notice(message="not for the report"))
    reporter.ended(ReportOutcome.FINISHED)
    assert [patch["step"] for patch in server.patches] == [None, 50, 51, 52]
    assert [method for method, _ in server.requests] == ["PATCH"] * 4


def test_a_step_is_not_sent_before_its_time(server: ApiServer, start: Start) -> None:
    reporter = start(Pace(report=EVER, look=0))
    server.until(lambda seen: len(seen.patches) == 1)
    reporter.record(step_done(1))
    asked = len(server.requests)
    server.until(lambda seen: len(seen.requests) > asked + 3)  # it works meanwhile, and knows of the step
    assert len(server.patches) == 1


def test_steps_are_sent_when_their_time_has_come(server: ApiServer, start: Start) -> None:
    reporter = start(Pace(report=0, look=EVER))
    for step in (1, 2):
        reporter.record(step_done(step))
        server.until(lambda seen, step=step: seen.patches[-1:] != [] and seen.patches[-1]["step"] == step)  # type: ignore[misc]


def test_nothing_new_is_a_look_and_no_report(server: ApiServer, start: Start) -> None:
    start(Pace(report=0, look=0))
    server.until(lambda seen: len(seen.requests) >= 4)
    assert [method for method, _ in server.requests[:4]] == ["PATCH", "GET", "GET", "GET"]


def test_a_report_is_renewed_so_that_silence_means_something(server: ApiServer, start: Start) -> None:
    start(Pace(report=0, look=0, renew=0.01)).record(step_done(7))
    server.until(lambda seen: len(seen.patches) >= 4)
    assert {patch["step"] for patch in server.patches[2:]} == {7}


def test_every_report_has_the_form_of_the_contract(server: ApiServer, start: Start) -> None:
    reporter = start(SILENT)
    for event in (step_done(1), evaluated(1), committed(1)):
        reporter.record(event)
    reporter.ended(ReportOutcome.FAILED, reason="OutOfMemory", message="the GPU's memory is full", permanent=True)
    report = parse_report(server.report)
    assert report is not None
    assert (report.status.step, report.status.outcome, report.status.permanent) == (1, ReportOutcome.FAILED, True)
    assert report.status.reported_at is not None


# What is asked


@pytest.mark.parametrize("cluster", ["chat-1-x7f2k", None])
def test_a_look_brings_the_wish_to_stop_once(server: ApiServer, start: Start, listener: Listener, cluster: str | None) -> None:
    start(EAGER)
    server.until(lambda seen: len(seen.patches) == 1)
    server.ask_to_stop("Suspended", cluster)
    listener.until(lambda heard: heard.stops != [])
    looked = len(server.requests)
    server.until(lambda seen: len(seen.requests) > looked + 3)
    assert listener.stops == ["Suspended"]


def test_the_reply_to_a_report_brings_it_too(server: ApiServer, start: Start, listener: Listener) -> None:
    server.ask_to_stop("Suspended", "chat-1-x7f2k")
    start(SILENT)
    listener.until(lambda heard: heard.stops == ["Suspended"])
    assert [method for method, _ in server.requests] == ["PATCH"]


def test_the_wish_is_not_for_the_driver_of_another_cluster(server: ApiServer, start: Start, listener: Listener) -> None:
    server.ask_to_stop("Suspended", "chat-0-abcde")
    start(EAGER)
    server.until(lambda seen: len(seen.requests) >= 4)
    assert listener.stops == []


# What goes wrong


def test_a_server_that_is_gone_and_comes_back(authority: Path, token_folder: Path, listener: Listener) -> None:
    first = ApiServer(authority)
    reporter = Reporter.in_pod(environment(first), listener.on_stop, listener.warn, token_folder=token_folder, pace=EAGER)
    assert reporter is not None
    first.until(lambda seen: len(seen.patches) == 1)
    first.stop()
    for step in range(1, 4):
        reporter.record(step_done(step))
    listener.until(lambda heard: len(heard.warnings) == 1)
    assert "training goes on" in listener.warnings[0]
    reporter.record(step_done(4))
    second = ApiServer(authority, first.port)
    try:
        second.until(lambda seen: seen.patches[-1:] != [] and seen.patches[-1]["step"] == 4)
        listener.until(lambda heard: len(heard.warnings) == 2)
        reporter.close()
    finally:
        second.stop()
    assert listener.warnings[1] == "progress is reported to the cluster again"


def test_the_token_of_the_moment_is_used(server: ApiServer, start: Start, token_folder: Path, listener: Listener) -> None:
    start(EAGER)
    server.until(lambda seen: ("GET", "first") in seen.requests)
    with server.seen:
        server.token = "second"
        (token_folder / "token").write_text("second")
    server.until(lambda seen: ("GET", "second") in seen.requests)
    reporter = start(SILENT)
    reporter.ended(ReportOutcome.FINISHED)
    assert server.patches[-1]["outcome"] == "Finished"
    assert all("HTTP 401: Unauthorized" in text or "again" in text for text in listener.warnings)  # a look that the rotation overtook


def test_the_authority_of_the_moment_is_trusted(
    server: ApiServer, start: Start, token_folder: Path, tmp_path: Path, listener: Listener
) -> None:
    reporter = start(EAGER)
    server.until(lambda seen: len(seen.patches) == 1)
    (token_folder / "ca.crt").write_bytes(Authority.create(tmp_path / "other", "other").certificate.read_bytes())
    listener.until(lambda heard: len(heard.warnings) == 1)
    assert "CERTIFICATE_VERIFY_FAILED" in listener.warnings[0]
    refused = len(server.requests)
    reporter.record(step_done(1))
    (token_folder / "ca.crt").write_bytes(server.authority.certificate.read_bytes())
    server.until(lambda seen: len(seen.requests) > refused and seen.patches[-1]["step"] == 1)


BAD_ANSWERS = [
    (200, b"<html>a proxy</html>"),
    (200, b"\xff\xfe"),
    (200, b"[]"),
    (200, b"[" * 100_000),
    (200, b'{"spec": {"stop": "now"}}'),
    (200, b""),
    (302, b""),
    (401, refusal("Unauthorized")),
    (403, refusal("forbidden")),
    (404, refusal("not found")),
    (429, b"slow down"),
    (503, b'{"message": 3}'),
    Cut,
]


@pytest.mark.parametrize("answer", BAD_ANSWERS, ids=lambda answer: str(answer)[:60])
def test_a_bad_answer_is_one_warning_and_training_goes_on(
    server: ApiServer, start: Start, listener: Listener, answer: tuple[int, bytes] | type[Cut]
) -> None:
    server.answers = [answer] * 3
    reporter = start(EAGER)
    reporter.record(step_done(1))
    server.until(lambda seen: seen.patches[-1:] != [] and seen.patches[-1]["step"] == 1)
    listener.until(lambda heard: len(heard.warnings) == 2)
    reporter.ended(ReportOutcome.FINISHED)
    assert len(listener.warnings) == 2
    assert "training goes on" in listener.warnings[0]
    assert listener.warnings[1] == "progress is reported to the cluster again"
    assert listener.stops == []


@pytest.mark.parametrize("content", ["", "\n", "secret\nInjected: yes", "s\u00e9cret"])
def test_a_file_that_holds_no_token_is_named_and_not_shown(
    server: ApiServer, start: Start, token_folder: Path, listener: Listener, content: str
) -> None:
    (token_folder / "token").write_text(content, encoding="utf-8")
    start(EAGER)
    listener.until(lambda heard: heard.warnings != [])
    assert str(token_folder / "token") in listener.warnings[0]
    assert "cret" not in listener.warnings[0]
    assert server.requests == []


@pytest.mark.parametrize("content", ["", "no certificate", "\u00e9"])
def test_a_file_that_holds_no_authority_trusts_nobody(start: Start, token_folder: Path, listener: Listener, content: str) -> None:
    (token_folder / "ca.crt").write_text(content, encoding="utf-8")
    start(EAGER)
    listener.until(lambda heard: heard.warnings != [])
    assert "training goes on" in listener.warnings[0]
    assert "CERTIFICATE_VERIFY_FAILED" not in listener.warnings[0]  # which others were trusted then?


# How it ended


def test_the_outcome_comes_last_and_is_there_when_the_call_returns(server: ApiServer, start: Start) -> None:
    reporter = start(SILENT)
    reporter.record(step_done(1))
    reporter.ended(ReportOutcome.STOPPED, reason="Suspended", message="stopped after step 1 of 100")
    status = server.report["status"]
    assert (status["outcome"], status["reason"], status["message"]) == ("Stopped", "Suspended", "stopped after step 1 of 100")
    assert status["step"] == 1
    assert "etaSeconds" not in status  # nothing is left to wait for
    sent = len(server.requests)
    reporter.record(committed(1))
    reporter.close()
    reporter.close()
    assert len(server.requests) == sent


def test_the_outcome_follows_a_close(server: ApiServer, start: Start) -> None:
    reporter = start(SILENT)
    server.until(lambda seen: len(seen.patches) == 1)
    reporter.record(step_done(1))
    reporter.close()
    assert server.report["status"]["step"] == 1
    reporter.ended(ReportOutcome.FINISHED)
    assert server.report["status"]["outcome"] == "Finished"


def test_the_outcome_is_tried_again(server: ApiServer, start: Start, listener: Listener) -> None:
    reporter = start(SILENT)
    server.until(lambda seen: len(seen.patches) == 1)
    server.answers = [(503, b""), Cut]
    reporter.ended(ReportOutcome.FAILED, reason="OutOfMemory", message="full")
    assert server.report["status"]["outcome"] == "Failed"
    assert len(listener.warnings) == 2


def test_an_outcome_that_cannot_be_told_is_a_warning(server: ApiServer, start: Start, listener: Listener) -> None:
    server.answers = [(503, b"")] * 1000
    reporter = start(Pace(report=EVER, look=EVER, last=0.1))
    reporter.ended(ReportOutcome.FINISHED)
    assert "ended as Finished" in listener.warnings[-1]
    assert server.patches == []


@pytest.mark.parametrize("status", [400, 404, 422])
def test_an_outcome_that_is_refused_is_not_tried_again(server: ApiServer, start: Start, listener: Listener, status: int) -> None:
    reporter = start(SILENT)
    server.until(lambda seen: len(seen.patches) == 1)
    server.answers = [(status, refusal("not so"))] * 10
    reporter.ended(ReportOutcome.FINISHED)
    assert len(server.requests) == 2
    assert f"HTTP {status}: not so" in listener.warnings[0]


def test_what_does_not_fit_does_not_cost_the_outcome(server: ApiServer, start: Start) -> None:
    start(SILENT).ended(ReportOutcome.FAILED, reason="out of memory", message="x" * 5000 + "\ud800")
    status = server.report["status"]
    assert status["outcome"] == "Failed"
    assert "reason" not in status
    assert len(status["message"]) == 1024


def test_a_wish_to_stop_after_the_end_is_not_passed_on(server: ApiServer, start: Start, listener: Listener) -> None:
    reporter = start(SILENT)
    server.until(lambda seen: len(seen.patches) == 1)
    server.ask_to_stop("Suspended", None)
    reporter.ended(ReportOutcome.FINISHED)
    assert listener.stops == []


# Where it is set up


@pytest.mark.parametrize("missing", ["KUBERNETES_SERVICE_HOST", "FINETUNE_REPORT", "FINETUNE_NAMESPACE", "RAY_CLUSTER_NAME"])
def test_a_pod_without_it_is_told_what_is_missing(server: ApiServer, token_folder: Path, listener: Listener, missing: str) -> None:
    given = {name: value for name, value in environment(server).items() if name != missing}
    assert Reporter.in_pod(given, listener.on_stop, listener.warn, token_folder=token_folder) is None
    assert listener.warnings == [f"progress is not reported to the cluster: ${missing} is not set"]


@pytest.mark.parametrize("missing", ["token", "ca.crt"])
def test_a_pod_without_a_token_is_told_so(server: ApiServer, token_folder: Path, listener: Listener, missing: str) -> None:
    (token_folder / missing).unlink()
    assert Reporter.in_pod(environment(server), listener.on_stop, listener.warn, token_folder=token_folder) is None
    assert f"{token_folder / missing} is missing" in listener.warnings[0]
