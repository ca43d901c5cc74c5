"""The layers of the tests, cheapest first: `python -m tests.layers unit,training`, or all without an argument.

A layer that this machine can't run is named in one line; where CI is set, it is a failure.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Tests that need the same parts. `minutes` is what they take on two cores, building what they need not counted."""

    name: str
    markers: str
    minutes: int
    needs: str
    root: bool = False


LAYERS = (
    Layer(name="unit", markers="not training and not control_plane and not cluster", minutes=6, needs="nothing else"),
    Layer(name="training", markers="training", minutes=12, needs="a C++ compiler"),
    Layer(name="control_plane", markers="control_plane", minutes=8, needs="etcd and the API server, built once with Go (15 minutes)"),
    Layer(
        name="cluster",
        markers="cluster",
        minutes=15,
        needs="root, containerd, and kubelet, KubeRay, Helm, CoreDNS, built once with Go (15 minutes)",
        root=True,
    ),
)

NODE_PROGRAMS = ("containerd", "runc", "iptables", "conntrack", "nft", "buildah", "debootstrap")


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
    if not layer.root:
        return ""
    if os.geteuid() != 0:
        return "root"
    return ", ".join(name for name in NODE_PROGRAMS if shutil.which(name) is None)


def main(arguments: Sequence[str]) -> int:
    """Run the layers one after the other; the first that fails ends it."""
    try:
        layers = chosen(arguments[0]) if arguments else LAYERS
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    ci = os.environ.get("CI", "").lower() not in {"", "0", "false"}
    for layer in layers:
        if lacking := missing(layer):
            print(f"== {layer.name}: not run, it needs {lacking}", flush=True)
            if ci:
                return 1
            continue
        print(f"== {layer.name}: about {layer.minutes} minutes; needs {layer.needs}", flush=True)
        code = subprocess.run([sys.executable, "-m", "pytest", "-m", layer.markers]).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
