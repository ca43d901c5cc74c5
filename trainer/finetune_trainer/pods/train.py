"""The driver in the head's pod, as KubeRay's entrypoint: it runs the same `driver.train` as a laptop, on the Ray of the cluster.

A stop may come from three sides: SIGTERM (the RayJob is stopped), the pod's preStop, or the operator through the
FineTuneReport. All three mean the same: commit a checkpoint, then end with exit code 3.
"""

import os
import signal
import sys
import threading
from functools import partial
from types import FrameType

from finetune_api.errors import TrainingFailed
from finetune_api.keys import TRAINING
from finetune_api.pod_result import PodResult
from finetune_api.reasons import Reason
from finetune_api.report import ReportOutcome
from finetune_trainer.launch import driver, in_place
from finetune_trainer.launch.ray_workers import RayWorkers
from finetune_trainer.pods.nodes import PodPlaces
from finetune_trainer.pods.pod import JsonLines, Pod, failed_result, run_stage
from finetune_trainer.pods.ray_logs import ray_logs
from finetune_trainer.pods.reporting import Reporter
from finetune_trainer.pods.run_objects import LiveCopies, fetch_metrics, fetch_statistics, storage_of
from finetune_trainer.reporting.events import FanOut, Notice, Sink
from finetune_trainer.reporting.metrics import MetricsFile
from finetune_trainer.reporting.trackers import trackers
from finetune_trainer.stages.local_run import checkpoints_of
from finetune_trainer.stages.run_report import write_run_report
from finetune_trainer.stages.training import ended_early
from finetune_trainer.storage.kept_logs import attempt_name
from finetune_trainer.training.early_stopping import stopped_early
from finetune_trainer.training.restoring import check_same_inputs
from finetune_trainer.training.stop_files import StopFiles

# Set by the operator: failures that the job may have and still go on. Without it an attempt ends with its first workers.
FAILURES_LEFT_ENV = "FINETUNE_FAILURES_LEFT"
_POLL_SECONDS = 0.5
_LEAVE_SECONDS = 30.0


def trained(pod: Pod, attempt: str) -> PodResult:
    """Train to the end or to a stop. Whatever happens is reported, and then ends in the pod's result. `attempt` names its kept logs."""
    stop, files, lines = threading.Event(), StopFiles(), JsonLines()
    files.clear()
    files.say_running()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: _on_signal(stop, number, frame))
    threading.Thread(target=_watch, args=(files, stop), name="stop-file", daemon=True).start()
    reasons: list[str] = []

    def asked(reason: str) -> None:
        reasons.append(reason)
        stop.set()

    reporter = Reporter.in_pod(os.environ, on_stop=asked, warn=lambda text: lines.record(Notice(message=text)))
    try:
        result = _train(pod, attempt, lines, reporter, stop)
        if reporter is not None:
            stopped = result.outcome == "Stopped"
            outcome = ReportOutcome.STOPPED if stopped else ReportOutcome.FINISHED
            reporter.ended(outcome, reason=next(iter(reasons), None) if stopped else result.reason, message=result.message)
    except Exception as error:  # told twice: here to the operator while the cluster is up, and by run_stage in the log
        failed = failed_result(error)
        if reporter is not None:
            reporter.ended(
                ReportOutcome.FAILED,
                reason=failed.reason,
                message=failed.message,
                permanent=failed.permanent,
                last_lines=failed.last_lines,
            )
        raise
    finally:
        # From here on preStop returns and the pod may go: the outcome has been told.
        files.say_stopped()
    return result


def _train(pod: Pod, attempt: str, lines: Sink, reporter: Reporter | None, stop: threading.Event) -> PodResult:
    run = pod.run()
    local = pod.local(run.job, stop)
    fetch_metrics(local)
    fetch_statistics(local, run)
    pod.keep_log(storage_of(local))
    total_steps = run.plan.total_steps
    assert total_steps is not None, "the final plan knows the number of steps"
    newest = checkpoints_of(local).newest_verified()
    if newest is not None:
        check_same_inputs(newest, run)
    if newest is not None and newest.step >= total_steps:
        return PodResult(outcome="Done", message=f"all {total_steps} steps were done already: checkpoint {newest.key}")
    done, early = (newest.step, stopped_early(run, newest)) if newest is not None else (0, None)
    outcome = "running"
    copies = LiveCopies(local, attempt, report=lambda: write_run_report(local, run, lines, outcome=outcome))
    kept: list[Sink] = [MetricsFile(local.folder.metrics), *trackers(run.job, os.environ, local.folder.tensorboard), copies]
    sinks = FanOut([lines, *kept, *([reporter] if reporter is not None else [])])
    if early is None:
        if stop.is_set():
            return PodResult(outcome="Stopped", message=f"stopped before training; {newest.key if newest else 'no step'} is what there is")
        _connect()
    try:
        if early is None:
            workers = RayWorkers(run, PodPlaces(str(pod.scratch)), attempt=attempt, stop_files=StopFiles())
            done = _steps_of(workers, gpu=run.plan.device == "gpu", sink=sinks, stop=stop)
            early = ended_early(local, run) if done < total_steps else None
        if early is not None:
            sinks.record(early)
        outcome = "stopped" if early is None and done < total_steps else "running"  # evaluation and publication follow
    except BaseException:
        outcome = "failed"
        raise
    finally:
        for sink in kept:  # the copies come last: of what the others have written
            sink.close()
    if early is not None:
        return PodResult(outcome="Done", reason=Reason.STOPPED_EARLY, message=early.message)
    if done < total_steps:
        return PodResult(outcome="Stopped", message=f"stopped after step {done} of {total_steps}; its checkpoint is committed")
    return PodResult(outcome="Done")


def _steps_of(workers: RayWorkers, *, gpu: bool, sink: Sink, stop: threading.Event) -> int:
    """Steps that are done, by these workers or, as often as the operator lets it, by those that start in their place."""
    failures_left = os.environ.get(FAILURES_LEFT_ENV, "")
    if not failures_left.isdecimal():
        return driver.train(workers, gpu=gpu, sink=sink, stop=stop)
    return in_place.train(workers, in_place.Restarts(int(failures_left)), gpu=gpu, sink=sink, stop=stop)


def _connect() -> None:
    """Use the Ray that runs in this pod. Raises TrainingFailed when there is none."""
    import ray

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(address="auto", configure_logging=False, log_to_driver=True)
    except ConnectionError as error:
        raise TrainingFailed(f"there is no Ray in this pod: {error}") from error
    for number, handler in handlers.items():  # ray.init replaces SIGTERM's
        signal.signal(number, handler)


def _watch(files: StopFiles, stop: threading.Event) -> None:
    """Until a stop is asked for: look for the file that preStop writes."""
    while not stop.wait(_POLL_SECONDS):
        if files.requested():
            stop.set()


def _on_signal(stop: threading.Event, number: int, frame: FrameType | None) -> None:
    stop.set()
    print("stopping after a checkpoint", file=sys.stderr)


def main() -> int:
    """`python -m finetune_trainer.pods train`."""
    pod, attempt = Pod.from_environment(), attempt_name()
    with pod.logged(f"{TRAINING}/{attempt}/driver", others=partial(ray_logs, f"{TRAINING}/{attempt}")):
        code = run_stage(lambda pod: trained(pod, attempt), pod)
    # Ray's own end may wait for what is gone; all that matters has been told.
    leave = threading.Timer(_LEAVE_SECONDS, os._exit, (code,))
    leave.daemon = True
    leave.start()
    return code
