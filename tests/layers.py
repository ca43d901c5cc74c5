"""The layers of the tests, cheapest first: `python -m tests.layers unit,training`, or all without an argument.

A layer that this machine can't run is named in one line; where CI is set, it is a failure.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.cluster.existing import KUBECONFIG
from tests.testcluster.binaries import CONTROL_PLANE, TESTED
from tests.testcluster.host_python import hidden_folders

from finetune_trainer.training.compiled_ops import COMPILE


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Tests that need the same parts. `minutes` is what they take on two cores, building what they need not counted.

    `divided`: they run in several processes, test by test where each may run beside any other, or file by file, where a file's tests
    share what is dear to set up. `programs`: what Go builds for them.
    """

    name: str
    markers: str
    minutes: int
    needs: str
    divided: Literal["no", "by test", "by file"] = "no"
    programs: tuple[str, ...] = ()
    root: bool = False


LAYERS = (
    Layer(
        name="unit",
        markers="not training and not control_plane and not cluster and not platform",
        minutes=14,
        needs="nothing else",
        divided="by test",
    ),
    Layer(name="training", markers="training", minutes=18, needs="a C++ compiler"),
    Layer(
        name="control_plane",
        markers="control_plane",
        minutes=9,
        needs="etcd, API server, Helm and KubeRay, built once with Go (a quarter of an hour, in the background)",
        divided="by file",
        programs=(*CONTROL_PLANE, "helm", "kuberay-operator"),
    ),
    Layer(
        name="cluster",
        markers="cluster and not platform",
        minutes=21,
        needs="root, containerd, and kubelet and CoreDNS, built with the others",
        programs=TESTED,
        root=True,
    ),
)

ROOT = Path(__file__).resolve().parent.parent

NODE_PROGRAMS = ("containerd", "runc", "iptables", "conntrack", "nft", "buildah", "debootstrap", "curl")

MOST_PROCESSES = 4

# Where a layer's minutes go is told by each run.
SLOWEST = ("--durations=12", "--durations-min=10")

# What takes long and isn't needed at once, beside DeepSpeed's op for CPUs (COMPILE): the test cluster's programs.
BUILD = (sys.executable, "-m", "tests.testcluster.binaries")


def chosen(names: str) -> tuple[Layer, ...]:
    """The layers that a list such as `unit,training` names, in their own order. Raises ValueError.

    >>> [layer.name for layer in chosen("training,unit")]
    ['unit', 'training']
    """
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    if unknown := wanted - {layer.name for layer in LAYERS}:
        raise ValueError(f"LAYERS={names}: no layer {', '.join(sorted(unknown))}; there are {', '.join(layer.name for layer in LAYERS)}")
    return tuple(layer for layer in LAYERS if layer.name in wanted)


def missing(layer: Layer) -> str:
    """What this machine lacks for the layer; an empty string when it can run."""
    if not layer.root or _is_named(layer):
        return ""
    if os.geteuid() != 0:
        return "root"
    if hidden := hidden_folders():
        return f"a checkout elsewhere: pods mount a volume of their own over {hidden[0]}"
    return ", ".join(name for name in NODE_PROGRAMS if shutil.which(name) is None)


def programs(layer: Layer) -> tuple[str, ...]:
    """What Go builds for the layer; a cluster that is there already has all but Helm."""
    return ("helm",) if _is_named(layer) else layer.programs


def _is_named(layer: Layer) -> bool:
    """Whether the environment names a cluster for the layer that would start nodes of its own."""
    return layer.root and bool(os.environ.get(KUBECONFIG))


def files(layer: Layer) -> list[str]:
    """The files that have the layer's tests, or none for all: a process takes half a minute to import every file."""
    if _is_named(layer):
        return ["tests/cluster"]
    if layer.name == "unit":
        return []
    mark = f"mark.{layer.name}"
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py") if mark in path.read_text(encoding="utf-8"))


def processes(layer: Layer) -> tuple[str, ...]:
    """Options of pytest: a process per core, up to as many as memory (1.5 GB each) and starts are worth; one more where tests are short and
    also wait.
    """
    cores = os.cpu_count() or 1
    match layer.divided:
        case "by test":
            return ("--numprocesses", str(min(MOST_PROCESSES, cores + 1)), "--dist", "worksteal")
        case "by file":
            # In the order of their names: the files with the most tests first, as pytest-xdist has it, leaves the dearest for the end.
            return ("--numprocesses", str(min(MOST_PROCESSES, cores)), "--dist", "loadfile", "--no-loadscope-reorder")
        case "no":
            return ()


def main(arguments: Sequence[str]) -> int:
    """Run the layers one after the other, also after one that fails: one run tells everything."""
    try:
        layers = chosen(arguments[0]) if arguments else LAYERS
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    ci = os.environ.get("CI", "").lower() not in {"", "0", "false"}
    runnable = [layer for layer in layers if not missing(layer)]
    commands: list[Sequence[str]] = [COMPILE] if any(layer.name == "training" for layer in runnable) else []
    if built := {name: None for layer in runnable for name in programs(layer)}:
        commands += [[*BUILD, *built]]
    with beside_the_tests(commands):
        return run(layers, ci=ci)


@contextmanager
def beside_the_tests(commands: Sequence[Sequence[str]]) -> Iterator[None]:
    """Runs commands at low priority; they end with the block. What fails is told by the first test that needs it."""
    started = [_at_low_priority(command) for command in commands]
    try:
        yield
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _at_low_priority(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(["nice", "-n", "19", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    # Where the kernel shares the processor out by session, niceness only counts within one; this is the session's.
    with suppress(OSError):
        Path(f"/proc/{process.pid}/autogroup").write_text("19")
    return process


def wait_until_built(programs: Sequence[str]) -> None:
    """Until Go has built the programs; most of it is done by then."""
    if programs:
        print(f"Go builds what isn't there yet of {', '.join(programs)}", flush=True)
        subprocess.run([*BUILD, *programs], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run(layers: Sequence[Layer], *, ci: bool) -> int:
    """The layers in their order; 0 when none failed."""
    failed: list[str] = []
    for layer in layers:
        if lacking := missing(layer):
            print(f"== {layer.name}: not run, it needs {lacking}", flush=True)
            failed += [layer.name] if ci else []
            continue
        print(f"== {layer.name}: about {layer.minutes} minutes; needs {layer.needs}", flush=True)
        wait_until_built(programs(layer))
        begun = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-m", f"({layer.markers}) and not thorough", *SLOWEST, *processes(layer), *files(layer)]
        code = subprocess.run(command).returncode
        print(f"== {layer.name}: {'failed' if code else 'passed'} after {(time.monotonic() - begun) / 60:.1f} minutes", flush=True)
        failed += [layer.name] if code else []
    if failed:
        print(f"== failed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
