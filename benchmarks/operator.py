"""The operator measured on a real API server, beside Kubeflow Trainer's controller. Prints one JSON object.

    python -m benchmarks.operator [--jobs 1000] [--growth 100 500] [--many 5000] [--former FOLDER] [--page docs/benchmarks.md]

Each measurement has a control plane of its own: etcd, API server and controller manager. Jobs are there before the controller
starts; its time counts from the start of its process and ends with an object's creation, of which the API server tells. No
nodes: a script plays kubelets and KubeRay, and the Job controller too, so that nothing acts on what either side makes.
The control plane and the script take their part of the same machine.
"""

import argparse
import contextlib
import datetime
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.api_server import ApiServer, Arrivals
from benchmarks.controllers import Controller, Used
from benchmarks.machine import least_disturbed, measured
from benchmarks.operator_document import with_operator
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
# Jobs that fail, jobs that are suspended, and how long after one the next is.
URGENT_OF_EACH = 100
URGENT_SECONDS = 0.5
# What a driver has sent is written by then.
_LAST_REPORT_SECONDS = 0.2
# Every driver has reported, and a thousand first steps, each of which is urgent, are written.
_FIRST_STEPS_SECONDS = 60.0
# A controller that has written nothing for so long is at rest. Silent jobs are marked as stale first.
_IDLE_AFTER_SECONDS = 5.0


def main() -> None:
    options = _options()
    if options.worker:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(_WORKERS[options.worker](Path(folder), options)))
        return
    found = measure(options)
    print(json.dumps(found, indent=1))
    if options.page:
        options.page.write_text(with_operator(options.page.read_text(encoding="utf-8"), found), encoding="utf-8")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All measurements."""
    # Built before the clock starts, the first time.
    binaries([*CONTROL_PLANE, "trainer-controller-manager"])
    results: dict[str, Any] = {
        "jobs": options.jobs,
        "cores": os.cpu_count() or 1,
        "trainer": _worker("trainer", options, options.jobs),
        "trainer_raised": _worker("trainer-raised", options, options.jobs),
        "life": _worker("life", options, options.jobs),
        "urgent": _worker("urgent", options, options.jobs),
        "growth": [{"jobs": count, **_worker("preparations", options, count)} for count in options.growth],
        "limits": controllers.RAISED_LIMITS,
    }
    if options.former:
        results["former"] = {"what": options.former.parent.name, "urgent": _worker("urgent", options, options.jobs, options.former)}
    results["growth"].append({"jobs": options.jobs, **results["life"]["preparations"]})
    if options.many:
        results["many"] = _worker("many", options, options.many)
        results["growth"].append({"jobs": options.many, **results["many"]["preparations"]})
    return results | {"ended": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=1000, help="jobs of the comparison and of what follows it")
    parser.add_argument("--growth", type=int, nargs="*", default=[100, 500], help="other numbers of jobs to prepare")
    parser.add_argument("--many", type=int, default=5000, help="jobs of the idle cluster, a tenth of which train; 0 leaves that out")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of what is measured over time")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait at most for a quiet machine, before each measurement")
    parser.add_argument("--former", type=Path, help="operator/ of another version's tree, whose reactions are measured beside ours")
    parser.add_argument("--page", type=Path, help="file whose section about the operator is written anew")
    parser.add_argument("--operator", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=_WORKERS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _worker(what: str, options: argparse.Namespace, count: int, operator: Path | None = None) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.operator", "--worker", what, "--jobs", str(count), "--seconds", str(options.seconds)]
    command += ["--operator", str(operator)] if operator else []
    return least_disturbed(f"{what}, {count} jobs", lambda _: measured(command), options.wait)


# ---- the cluster


@contextlib.contextmanager
def _cluster(folder: Path, *crds: Path, served: Iterable[Resource]) -> Iterator[tuple[ControlPlane, ApiServer]]:
    """A new control plane with these CRDs and a namespace for jobs."""
    with control_plane(folder / "cluster", flags=ExtraFlags(controller_manager=("--controllers=*,-job-controller",))) as plane:
        plane.kubectl("create", "namespace", jobs.NAMESPACE)
        for found in crds:
            plane.kubectl("apply", "--server-side", "-f", found)
        api = ApiServer.of(plane)
        for path in (*(resource.path(None) for resource in served), kinds.SERVICE_ACCOUNTS.path(jobs.NAMESPACE, "default")):
            api.wait_for(path)
        yield plane, api


def _ours(folder: Path) -> contextlib.AbstractContextManager[tuple[ControlPlane, ApiServer]]:
    served = (kinds.FINETUNEJOBS, kinds.FINETUNEREPORTS, kinds.RAYJOBS)
    return _cluster(folder, OUR_CRDS, kuberay_crds() / "ray.io_rayjobs.yaml", served=served)


def _until(
    plane: ControlPlane, api: ApiServer, count: int, made: Resource, act: Callable[[], Controller]
) -> tuple[Controller, dict[str, Any]]:
    """Do something that lets a controller make objects; what that took until there were so many and it was at rest again.

    `seconds_afterwards`: of these, those after it was done. `cluster_cpu_seconds`: what the control plane's programs used up to the last.
    """
    _say(f"waiting for {count} {made.plural}")
    arrivals = Arrivals()
    cluster = controllers.cluster_seconds(plane)
    with api.following(made, jobs.NAMESPACE, arrivals):
        started = time.monotonic()
        controller = act()
        acted = time.monotonic()
        there = arrivals.wait(count, PATIENCE_SECONDS * max(1, count / 1000))
        used = {name: round(seconds - cluster[name], 2) for name, seconds in controllers.cluster_seconds(plane).items()}
    _say(f"{there - started:.1f} s, {there - acted:.1f} s of them afterwards")
    seconds = {"seconds": round(there - started, 2), "seconds_afterwards": round(max(there - acted, 0.0), 2)}
    return controller, seconds | {"cluster_cpu_seconds": used} | _spent(controller.settled())


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
        _, spent = _until(plane, api, options.jobs, jobs.JOBSETS, lambda: controllers.kubeflow_trainer(plane, raised_limits=raised_limits))
    return spent


def preparations(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """FineTuneJobs to preparation Jobs."""
    with _ours(folder) as (plane, api):
        return _prepared(plane, api, options)[1]


def _prepared(plane: ControlPlane, api: ApiServer, options: argparse.Namespace) -> tuple[Controller, dict[str, Any]]:
    jobs.submit_finetunejobs(api, jobs.names(options.jobs))
    return _until(plane, api, options.jobs, kinds.JOBS, lambda: controllers.ours(plane, options.operator))


def life(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Preparation Jobs, then RayJobs."""
    with _ours(folder) as (plane, api):
        operator, prepared = _prepared(plane, api, options)
        jobs.make_preparation_pods(api)
        before = operator.settled()

        def complete() -> Controller:
            jobs.complete_preparations(api)
            return operator

        _, trained = _until(plane, api, options.jobs, kinds.RAYJOBS, complete)
        trained |= _spent(operator.used(), before)
        events = len(api.items(kinds.EVENTS, jobs.NAMESPACE, whole=False))
    return {"preparations": prepared, "rayjobs": trained, "events": events}


def urgent(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All jobs train and report, and now and then one fails or is suspended: how soon its status says so."""
    with _ours(folder) as (plane, api):
        names = jobs.names(options.jobs)
        jobs.submit_finetunejobs(api, names)
        jobs.bring(api, names, jobs.lives()[0], trains=True)
        operator = controllers.ours(plane, options.operator)
        operator.settled(reconciles=options.jobs)
        with _drivers(api, options.jobs, options.jobs / REPORT_SECONDS) as (wrote, end):
            time.sleep(_FIRST_STEPS_SECONDS)
            before, api_server = operator.used(), controllers.api_server_seconds(plane)
            reactions = _reactions(api, random.Random(1).sample(names, 2 * URGENT_OF_EACH), end)
            after = operator.used()
            share = (controllers.api_server_seconds(plane) - api_server) / (after.moment - before.moment)
    return {
        "reactions_ms": reactions,
        "drivers": wrote,
        "seconds": round(after.moment - before.moment, 1),
        "status_writes": after.calls["PATCH"] - before.calls["PATCH"],
        "cpu_share": round((after.cpu_seconds - before.cpu_seconds) / (after.moment - before.moment), 3),
        "api_server_cpu_share": round(share, 3),
        "memory_mib": round(after.memory_mib),
    }


@contextlib.contextmanager
def _drivers(api: ApiServer, count: int, per_second: float) -> Iterator[tuple[dict[str, Any], Callable[[str], None]]]:
    """The drivers of so many jobs at work, and what ends that of one job; what they did is in the mapping afterwards."""
    command = [sys.executable, "-m", "benchmarks.drivers", *map(str, api.place), str(count), str(per_second)]
    wrote: dict[str, Any] = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as drivers:
        orders = drivers.stdin
        assert orders is not None

        def end(name: str) -> None:
            print(name, file=orders, flush=True)
            time.sleep(_LAST_REPORT_SECONDS)

        yield wrote, end
        told, _ = drivers.communicate()
        wrote.update(json.loads(told))


def _reactions(api: ApiServer, names: list[str], end_driver: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Fail and suspend jobs in turns, about two a second: how long from before that is written until a watch shows what was made of it.

    `write`: the time of the call that writes, which is the API server's part.
    """
    sent: dict[str, tuple[str, float]] = {}
    seen: dict[str, float] = {}
    took: list[float] = []

    def take(moment: float, kind: str, item: Json) -> None:
        attempts = (item.get("status") or {}).get("attempts") or [{}]
        if attempts[-1].get("outcome") or attempts[-1].get("stopRequested"):
            seen.setdefault(item["metadata"]["name"], moment)

    with api.following(kinds.FINETUNEJOBS, jobs.NAMESPACE, take, whole=True):
        for number, name in enumerate(names):
            kind, act = (("failure", jobs.fail), ("suspend", jobs.suspend))[number % 2]
            if kind == "failure":
                end_driver(name)  # else it says, after its last words, that it trains
                jobs.say_wrong_input(api, name)
            sent[name] = kind, time.monotonic()
            act(api, name)
            took.append(time.monotonic() - sent[name][1])
            time.sleep(URGENT_SECONDS)
        deadline = time.monotonic() + 60
        while len(seen) < len(sent) and time.monotonic() < deadline:
            time.sleep(0.1)
    if missing := sorted(sent.keys() - seen.keys()):
        raise RuntimeError(f"nothing was made of {', '.join(f'{name} ({sent[name][0]})' for name in missing[:5])}")
    found = {kind: sorted(seen[name] - moment for name, (of, moment) in sent.items() if of == kind) for kind in ("failure", "suspend")}
    found["write"] = sorted(took)
    return {kind: {part: round(1000 * value, 1) for part, value in _percentiles(values).items()} for kind, values in found.items()}


def _percentiles(ordered: list[float]) -> dict[str, float]:
    return {"p50": statistics.median(ordered), "p99": ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))], "most": ordered[-1]}


def many(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Many preparation Jobs; then, nine tenths of the jobs finished and the others silent, what an operator does that starts there."""
    with _ours(folder) as (plane, api):
        operator, prepared = _prepared(plane, api, options)
        operator.stop()
        jobs.make_preparation_pods(api)
        jobs.complete_preparations(api)
        trains, succeeded = jobs.lives()
        names = jobs.names(options.jobs)
        training = options.jobs // 10
        jobs.bring(api, names[:training], trains, trains=True)
        jobs.bring(api, names[training:], succeeded, trains=False)
        operator = controllers.ours(plane, options.operator)
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
    "urgent": urgent,
    "many": many,
}

if __name__ == "__main__":
    main()
