"""`python -m release REGISTRY`: the wheel, both images and the chart; images and chart are pushed, and called by their digests.

In: this checkout, and a registry such as registry.example.com/finetune. Out: REGISTRY/finetune-operator and REGISTRY/finetune-trainer,
REGISTRY/charts/finetune-operator whose values name those very images, and in `dist` the wheel, the chart and release.json with all digests.
buildah and Helm use the credentials that `buildah login` and `helm registry login` keep.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
CHART: Final = ROOT / "charts/finetune-operator"
TARGETS: Final = ("operator", "trainer")


class ReleaseFailed(RuntimeError):
    """A program is absent, or said no; the message has its words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Where things go. `context` has the Dockerfile; `plain_http`: for a registry on this machine. `buildah`: with flags of its own."""

    registry: str
    output: Path
    context: Path = ROOT
    plain_http: bool = False
    helm: str = "helm"
    buildah: Sequence[str] = ("buildah",)

    def all(self) -> dict[str, Any]:
        """THE STORY of a release; returns what release.json holds."""
        version = chart_version(CHART)
        self.output.mkdir(parents=True, exist_ok=True)
        wheel = self.wheel()
        images = {target: self.image(target, version) for target in TARGETS}
        chart = self.chart(version, images)
        made = {"version": version, "wheel": wheel.name, "images": images, "chart": chart}
        (self.output / "release.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        return made

    def wheel(self) -> Path:
        """The wheel, in the output folder."""
        _ran([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(self.output.absolute())], folder=ROOT)
        return max(self.output.glob("*.whl"), key=lambda path: path.stat().st_mtime)

    def image(self, target: str, version: str) -> str:
        """Build and push an image; its name by digest."""
        repository = f"{self.registry}/finetune-{target}"
        name = f"{repository}:{version}"
        digest = self.output / f"{target}.digest"
        verified = ["--tls-verify=false"] if self.plain_http else []
        _ran([*self.buildah, "bud", "--target", target, "--tag", name, str(self.context)])
        _ran([*self.buildah, "push", *verified, f"--digestfile={digest}", name, f"docker://{name}"])
        found = digest.read_text(encoding="utf-8").strip()
        digest.unlink()
        return f"{repository}@{found}"

    def chart(self, version: str, images: dict[str, str]) -> str:
        """Package and push the chart, with the images by digest as its defaults; its name by digest."""
        place = f"oci://{self.registry}/charts"
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copytree(CHART, Path(folder) / CHART.name))
            values = copy / "values.yaml"
            values.write_text(with_images(values.read_text(encoding="utf-8"), images), encoding="utf-8")
            _ran([self.helm, "package", str(copy), "--destination", str(self.output)])
        plain = ["--plain-http"] if self.plain_http else []
        said = _ran([self.helm, "push", str(self.output / f"{CHART.name}-{version}.tgz"), place, *plain])
        found = re.search(r"sha256:[0-9a-f]{64}", said)
        if found is None:
            raise ReleaseFailed(f"helm push named no digest: {said}")
        return f"{place}/{CHART.name}@{found[0]}"


def chart_version(chart: Path) -> str:
    return str(yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))["version"])


def with_images(values: str, images: dict[str, str]) -> str:
    """The chart's values.yaml, comments and all, with the operator's and the trainer's image by digest.

    >>> with_images('image:\\n  repository: a\\n  digest: ""\\n', {"operator": "r/o@sha256:1"})
    'image:\\n  repository: r/o\\n  digest: "sha256:1"\\n'
    """
    for target, name in images.items():
        repository, digest = name.split("@")
        above = "image:\n" if target == "operator" else f"{target}:\n  image:\n"
        head, section, rest = values.partition(above)
        rest = re.sub(r"(?m)^( +repository: ).*$", rf"\g<1>{repository}", rest, count=1)
        rest = re.sub(r"(?m)^( +digest: ).*$", rf'\g<1>"{digest}"', rest, count=1)
        values = head + section + rest
    return values


def _ran(command: Sequence[str], folder: Path | None = None) -> str:
    """What the command printed, on both streams. Raises ReleaseFailed."""
    print("+", " ".join(command), file=sys.stderr)
    environment = os.environ | {"BUILDAH_ISOLATION": os.environ.get("BUILDAH_ISOLATION", "chroot")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    except FileNotFoundError:
        raise ReleaseFailed(f"there is no {command[0]} on this machine; install it, or put it on the PATH") from None
    if done.returncode != 0:
        raise ReleaseFailed(f"{' '.join(command)} failed with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout + done.stderr


def main() -> None:
    """Make a release and say how it is installed."""
    parser = argparse.ArgumentParser(prog="python -m release", description=main.__doc__)
    parser.add_argument("registry", help="a registry and a path in it, such as registry.example.com/finetune")
    parser.add_argument("--plain-http", action="store_true", help="for a registry on this machine")
    options = parser.parse_args()
    try:
        made = Release(registry=options.registry, output=ROOT / "dist", plain_http=options.plain_http).all()
    except ReleaseFailed as error:
        sys.exit(str(error))
    print(json.dumps(made, indent=2))
    print(f"install: helm install finetune-operator oci://{options.registry}/charts/finetune-operator --version {made['version']}")
    print(f"publish the wheel: uv publish dist/{made['wheel']}")


if __name__ == "__main__":
    main()
