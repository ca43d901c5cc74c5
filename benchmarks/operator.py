"""The operator measured on a real API server, beside Kubeflow Trainer's controller. Prints one JSON object.

    python -m benchmarks.operator [--jobs 1000] [--growth 100 500] [--many 5000] [--seconds 60]

Each measurement has a control plane of its own: etcd, API server and controller manager. Jobs are there before the controller
starts; its time counts from the start of its process and ends with an object's creation, of which the API server tells. No
nodes: a script plays kubelets and KubeRay, and the Job controller too, so that nothing acts on what either side makes.
The control plane and the script take their part of the same machine.
"""

import argparse
import contextlib
import itertools
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.api_server import ApiServer, Arrivals
from benchmarks.controllers import Controller, Used
from benchmarks.machine import least_disturbed, measured
from tests.testcluster.binaries import CONTROL_PLANE, binaries, jobset_crds, kuberay_crds, trainer_crds
from tests.testcluster.control_plane import ControlPlane, ExtraFlags, control_plane

from benchmarks import controllers, jobs
from finetune_operator import kinds
from finetune_operator.runtime.api import Resource

Json = dict[str, Any]

OUR_CRDS = Path(__file__).parents[1] / "manifests/crd"
# Seconds that a thousand objects may take before the measurement is given up: many, for a machine that others use.
PATIENCE_SECONDS = 900.0
REPORT_SECONDS = 10.0
REPORTS_OF_EACH = 3
CALM_PER_SECOND = 10.0
CALM_CHANGES = 200
# A controller that has written nothing for so long is at rest. Silent jobs are marked as stale first.
_IDLE_AFTER_SECONDS = 5.0


def main() -> None:
    options = _options()
    if options.worker:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(_WORKERS[options.worker](Path(folder), options)))
        return
    print(json.dumps(measure(options), indent=1))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All measurements."""
    # Built before the clock starts, the first time.
    binaries([*CONTROL_PLANE, "trainer-controller-manager"])
    results: dict[str, Any] = {
        "jobs": options.jobs,
        "trainer": _worker("trainer", options, options.jobs),
        "trainer_raised": _worker("trainer-raised", options, options.jobs),
        "life": _worker("life", options, options.jobs),
        "growth": [{"jobs": count, **_worker("preparations", options, count)} for count in options.growth],
        "limits": controllers.RAISED_LIMITS,
    }
    results["growth"].append({"jobs": options.jobs, **results["life"]["preparations"]})
    if options.many:
        results["many"] = _worker("many", options, options.many)
        results["growth"].append({"jobs": options.many, **results["many"]["preparations"]})
    return results


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=1000, help="jobs of the comparison and of what follows it")
    parser.add_argument("--growth", type=int, nargs="*", default=[100, 500], help="other numbers of jobs to prepare")
    parser.add_argument("--many", type=int, default=5000, help="jobs of the idle cluster, a tenth of which train; 0 leaves that out")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of what is measured over time")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait at most for a quiet machine, before each measurement")
    parser.add_argument("--worker", choices=_WORKERS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _worker(what: str, options: argparse.Namespace, count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.operator", "--worker", what, "--jobs", str(count), "--seconds", str(options.seconds)]
    return least_disturbed(f"{what}, {count} jobs", lambda _: measured(command), options.wait)


# ---- the cluster


@contextlib.contextmanager
def _cluster(folder: Path, *crds: Path, served: Iterable[Resource]) -> Iterator[tuple[ControlPlane, ApiServer]]:
    """A new control plane with these CRDs and a namespace for jobs."""
    with control_plane(folder / "cluster", flags=ExtraFlags(controller_manager=("--controllers=*,-job-controller",))) as plane:
        plane.kubectl("create", "namespace", jobs.NAMESPACE)
        for found in crds:
            plane.kubectl("apply", "--server-side", "-f", found)
        api = ApiServer(plane)
        for path in (*(resource.path(None) for resource in served), kinds.SERVICE_ACCOUNTS.path(jobs.NAMESPACE, "default")):
            api.wait_for(path)
        yield plane, api


def _ours(folder: Path) -> contextlib.AbstractContextManager[tuple[ControlPlane, ApiServer]]:
    served = (kinds.FINETUNEJOBS, kinds.FINETUNEREPORTS, kinds.RAYJOBS)
    return _cluster(folder, OUR_CRDS, kuberay_crds() / "ray.io_rayjobs.yaml", served=served)


def _until(api: ApiServer, count: int, made: Resource, act: Callable[[], Controller]) -> tuple[Controller, dict[str, Any]]:
    """Do something that lets a controller make objects; what that took until there were so many and it was at rest again.

    `seconds_afterwards`: of these, those after it was done.
    """
    _say(f"waiting for {count} {made.plural}")
    arrivals = Arrivals()
    with api.following(made, jobs.NAMESPACE, arrivals):
        started = time.monotonic()
        controller = act()
        acted = time.monotonic()
        there = arrivals.wait(count, PATIENCE_SECONDS * max(1, count / 1000))
    _say(f"{there - started:.1f} s, {there - acted:.1f} s of them afterwards")
    seconds = {"seconds": round(there - started, 2), "seconds_afterwards": round(max(there - acted, 0.0), 2)}
    return controller, seconds | _spent(controller.settled())


def _say(line: str) -> None:
    """To who runs one measurement alone."""
    print(f"    {line}", file=sys.stderr, flush=True)


def _spent(used: Used, before: Used | None = None) -> dict[str, Any]:
    """What a controller has spent, since it started or since another moment; its memory as it is."""
    calls = used.calls - before.calls if before else used.calls
    return {
        "cpu_seconds": round(used.cpu_seconds - (before.cpu_seconds if before else 0.0), 2),
        "memory_mib": round(used.memory_mib),
        "peak_memory_mib": round(used.peak_memory_mib),
        "calls": dict(calls),
    }


# ---- the measurements, each in a process of its own


def trainer(folder: Path, options: argparse.Namespace, *, raised_limits: bool = False) -> dict[str, Any]:
    """TrainJobs to JobSets."""
    with _cluster(folder, trainer_crds(), jobset_crds(), served=(jobs.RUNTIMES, jobs.TRAINJOBS, jobs.JOBSETS)) as (plane, api):
        jobs.submit_trainjobs(api, jobs.names(options.jobs))
        _, spent = _until(api, options.jobs, jobs.JOBSETS, lambda: controllers.kubeflow_trainer(plane, raised_limits=raised_limits))
    return spent


def preparations(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """FineTuneJobs to preparation Jobs."""
    with _ours(folder) as (plane, api):
        return _prepared(plane, api, options.jobs)[1]


def _prepared(plane: ControlPlane, api: ApiServer, count: int) -> tuple[Controller, dict[str, Any]]:
    jobs.submit_finetunejobs(api, jobs.names(count))
    return _until(api, count, kinds.JOBS, lambda: controllers.ours(plane))


def life(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Preparation Jobs, then RayJobs, then reports: all jobs every ten seconds, and single ones while nothing else happens."""
    with _ours(folder) as (plane, api):
        operator, prepared = _prepared(plane, api, options.jobs)
        jobs.make_preparation_pods(api)
        before = operator.settled()

        def complete() -> Controller:
            jobs.complete_preparations(api)
            return operator

        _, trained = _until(api, options.jobs, kinds.RAYJOBS, complete)
        trained |= _spent(operator.used(), before)
        jobs.run_rayjobs(api)
        operator.settled()
        steps = itertools.count(1)
        calm = _reported(api, operator, options.jobs, steps, CALM_PER_SECOND, CALM_CHANGES)
        busy = _reported(api, operator, options.jobs, steps, options.jobs / REPORT_SECONDS, REPORTS_OF_EACH * options.jobs)
    return {"preparations": prepared, "rayjobs": trained, "calm": calm, "busy": busy}


def _reported(api: ApiServer, operator: Controller, count: int, steps: Iterator[int], per_second: float, changes: int) -> dict[str, Any]:
    """So many reports at that pace, of one job after the other: what the operator spends, and how soon the status says the same."""
    names = jobs.names(count)
    random.Random(0).shuffle(names)
    sent: dict[tuple[str, int], float] = {}
    seen: dict[tuple[str, int], float] = {}
    lock = threading.Lock()

    def take(moment: float, kind: str, item: Json) -> None:
        step = ((item.get("status") or {}).get("progress") or {}).get("step")
        if step is not None:
            seen.setdefault((item["metadata"]["name"], step), moment)

    def report(number: int) -> None:
        with lock:
            step = next(steps)
        time.sleep(max(0.0, begun + number / per_second - time.monotonic()))
        name = names[number % count]
        sent[name, step] = time.monotonic()
        jobs.report(api, name, step)

    _say(f"{changes} reports, {per_second:g} a second")
    before, begun = operator.used(), time.monotonic()
    with api.following(kinds.FINETUNEJOBS, jobs.NAMESPACE, take, whole=True):
        api.each(range(changes), report)
        seconds = time.monotonic() - begun
        during = operator.used()
        after = operator.settled()
    reactions = sorted(seen[change] - moment for change, moment in sent.items() if change in seen)
    return {
        "reports": changes,
        "seconds": round(seconds, 2),
        "cpu_share": round((during.cpu_seconds - before.cpu_seconds) / (during.moment - before.moment), 4),
        "status_writes": after.calls["PATCH"] - before.calls["PATCH"],
        "calls": dict(after.calls - before.calls),
        "seen": len(reactions),
        "reaction_ms": {name: round(1000 * value, 1) for name, value in _percentiles(reactions).items()},
    }


def _percentiles(ordered: list[float]) -> dict[str, float]:
    return {"p50": statistics.median(ordered), "p99": ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))], "most": ordered[-1]}


def many(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Many preparation Jobs; then, nine tenths of the jobs finished and the others silent, what an operator does that starts there."""
    with _ours(folder) as (plane, api):
        operator, prepared = _prepared(plane, api, options.jobs)
        operator.stop()
        jobs.make_preparation_pods(api)
        jobs.complete_preparations(api)
        trains, succeeded = jobs.lives()
        names = jobs.names(options.jobs)
        training = options.jobs // 10
        jobs.bring(api, names[:training], trains, trains=True)
        jobs.bring(api, names[training:], succeeded, trains=False)
        operator = controllers.ours(plane)
        before = operator.settled(_IDLE_AFTER_SECONDS, reconciles=options.jobs)
        time.sleep(options.seconds)
        after = operator.used()
    seconds = after.moment - before.moment
    idle = {
        "finished": options.jobs - training,
        "training": training,
        "seconds": round(seconds, 1),
        "start_writes": before.writes,
        "writes": after.writes - before.writes,
        "cpu_share": round((after.cpu_seconds - before.cpu_seconds) / seconds, 5),
        "memory_mib": round(after.memory_mib),
        "peak_memory_mib": round(after.peak_memory_mib),
    }
    return {"preparations": prepared, "idle": idle}


_WORKERS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "trainer": trainer,
    "trainer-raised": lambda folder, options: trainer(folder, options, raised_limits=True),
    "preparations": preparations,
    "life": life,
    "many": many,
}

if __name__ == "__main__":
    main()
