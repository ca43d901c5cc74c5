"""Our images, really built from the Dockerfile by buildah, on a base that debootstrap makes: no image registry takes part.

In: the Dockerfile and what it copies. Out: an OCI archive, named by the digest of its inputs and kept in the cache, so that
only a change builds again. The operator's takes about a minute, the base, once, another two; the trainer's takes long and
18 GB of disk, so tests never ask for it. Needs root, buildah and debootstrap.
`python -m tests.testcluster.operator_image [operator] [trainer]` prints each archive's path and image's name.
"""

import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.testcluster.images import ImageArchive

ROOT: Final = Path(__file__).resolve().parents[2]
SBOM: Final = ("release/__init__.py", "release/licences.py", "release/sbom.py")
# Targets of the Dockerfile, and what each is made of.
INPUTS: Final = {
    "operator": ("Dockerfile", ".dockerignore", "requirements/operator.txt", "operator", *SBOM),
    "trainer": (
        *("Dockerfile", ".dockerignore", "requirements/build.txt", "requirements/trainer.txt"),
        *("pyproject.toml", "README.md", "LICENSE", "operator", "trainer", "examples", "manifests/samples", *SBOM),
    ),
}
REPOSITORY: Final = "cluster.test/finetune-"
# What stands in for python:3.11-slim-bookworm. Bump the number when the base itself has to be made anew.
BASE: Final = "bookworm-1"
BASE_PACKAGES: Final = "python3,python3-venv,ca-certificates"
# Programs that a build needs; on Debian their packages are called so too.
BUILDERS: Final = ("buildah", "debootstrap")
# Settings of this machine's pip that a build needs too; paths of files on this machine are no use to it.
PIP_SETTINGS: Final = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries")


def images_folder() -> Path:
    """Where archives are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune" / "images"


def operator_image(folder: Path | None = None) -> ImageArchive:
    """The operator's image of the working tree. Raises RuntimeError when it can't be built."""
    return built_image("operator", folder)


def built_image(target: str, folder: Path | None = None, *, root: Path = ROOT) -> ImageArchive:
    """The image of a target, built when no archive of these inputs is there. Raises RuntimeError when it can't be.

    `root`: another version's tree.
    """
    folder = folder or images_folder()
    name = image_name(target, root)
    image = ImageArchive(path=folder / f"{target}-{name.rpartition(':')[2]}.tar", name=name)
    with _alone(folder, target):
        if not image.path.exists():
            _build(folder, target, image, root)
    return image


def image_name(target: str, root: Path = ROOT) -> str:
    """What the target's image of a tree is called, built or not."""
    return f"{REPOSITORY}{target}:{inputs_digest(target, root)[:12]}"


def inputs_digest(target: str, root: Path) -> str:
    """One digest over the names and contents of all that the build reads."""
    digest = hashlib.sha256(f"{BASE}\0{BASE_PACKAGES}\0".encode())
    for path in _files(target, root):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _files(target: str, root: Path) -> Iterator[Path]:
    for name in INPUTS[target]:
        path = root / name
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in found if file.is_file() and "__pycache__" not in file.parts)


@contextmanager
def _alone(folder: Path, target: str) -> Iterator[None]:
    """One builder at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{target}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(folder: Path, target: str, image: ImageArchive, root: Path) -> None:
    """Base, Dockerfile, archive. buildah's storage lives only as long as this."""
    missing = [name for name in BUILDERS if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        raise RuntimeError(f"building an image needs root, buildah and debootstrap{_lacking(missing)}")
    with _alone(folder, "base"):
        base = _base(folder)
    print(f"building {image.name} (about {'a minute' if target == 'operator' else 'half an hour'})", file=sys.stderr)
    with _scratch(folder, target) as scratch:
        buildah = _Buildah(storage=scratch / "storage")
        buildah.run("pull", "--quiet", f"oci-archive:{base}")
        base_id = buildah.run("images", "--quiet").split()[0]
        bases = [part for name in ("BASE", "CUDA_BASE") for part in ("--build-arg", f"{name}={base_id}")]
        log = buildah.run("bud", "--target", target, *bases, *_secrets(scratch), "--tag", image.name, str(root))
        image.path.with_suffix(".log").write_text(log, encoding="utf-8")
        archive = scratch / "image.tar"
        buildah.run("push", "--quiet", image.name, f"oci-archive:{archive}:{image.name}")
        named(archive, image.name)
        archive.rename(image.path)
    # The newest two stay: that of before may be in use by another run.
    for old in sorted(folder.glob(f"{target}-*.tar"), key=lambda path: path.stat().st_mtime)[:-2]:
        old.unlink()
        old.with_suffix(".log").unlink(missing_ok=True)


def _lacking(missing: list[str]) -> str:
    return f"; apt-get install {' '.join(missing)}" if missing else ""


@contextmanager
def _scratch(folder: Path, target: str) -> Iterator[Path]:
    """A folder on the archives' file system; removed, also when the build fails. What a killed build left goes first."""
    for left in folder.glob(f"building-{target}-*"):
        _remove(left)
    scratch = Path(tempfile.mkdtemp(prefix=f"building-{target}-", dir=folder))
    try:
        yield scratch
    finally:
        _remove(scratch)


def _remove(scratch: Path) -> None:
    """Unmount what a build left mounted there, then remove it; nothing that is still mounted is deleted through its mount."""
    places = [Path(line.split()[1]) for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    for place in reversed([place for place in places if place.is_relative_to(scratch)]):
        _ran(["umount", str(place)])
    shutil.rmtree(scratch, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Buildah:
    """buildah with a storage of its own (overlay, or vfs without it), and without name spaces that a container can't make."""

    storage: Path

    def run(self, command: str, *arguments: str) -> str:
        environment = os.environ | {"BUILDAH_ISOLATION": "chroot"}
        places = ("--root", str(self.storage), "--runroot", str(self.storage) + "-run")
        return _ran(["buildah", *places, command, *arguments], environment)


def _ran(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """What the command printed. Raises RuntimeError with the end of what it said when it fails."""
    done = subprocess.run(["chrt", "-i", "0", *command], capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}:\n{said}")
    return done.stdout


def _base(folder: Path) -> Path:
    """The base as an archive; made once."""
    archive = folder / f"base-{BASE}.tar"
    if archive.exists():
        return archive
    print("making the base image with debootstrap, once (about two minutes)", file=sys.stderr)
    with _scratch(folder, "base") as scratch:
        tree = scratch / "tree"
        suite = BASE.split("-")[0]
        _ran(["debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", suite, str(tree)])
        for leftover in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(tree / leftover, ignore_errors=True)
        (scratch / "Dockerfile").write_text("FROM scratch\nCOPY tree /\n")
        buildah = _Buildah(storage=scratch / "storage")
        buildah.run("bud", "--quiet", "--tag", "base", str(scratch))
        made = scratch / "base.tar"
        buildah.run("push", "--quiet", "base", f"oci-archive:{made}:base")
        made.rename(archive)
    return archive


def _secrets(scratch: Path) -> list[str]:
    """pip's settings and certificates of this machine, lent to the build and in no layer of it."""
    told = dict(line.partition("=")[::2] for line in _ran([sys.executable, "-m", "pip", "config", "list"]).splitlines() if "=" in line)
    values = {name.rpartition(".")[2]: value.strip("'\"") for name, value in told.items()}
    lines = [f"{name} = {values[name]}" for name in PIP_SETTINGS if name in values]
    lent = [f"id=pip,src={scratch / 'pip.conf'}"]
    if certificates := values.get("cert") or os.environ.get("SSL_CERT_FILE"):
        lines.append("cert = /run/secrets/ca")
        lent.append(f"id=ca,src={certificates}")
    (scratch / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
    return [part for secret in lent for part in ("--secret", secret)]


def named(archive: Path, name: str) -> None:
    """Write the image's full name to the archive's index under the annotation that containerd looks for."""
    index = "index.json"
    with tarfile.open(archive) as old, tarfile.open(str(archive) + ".named", "w") as new:
        for member in old:
            content = old.extractfile(member) if member.isfile() else None
            if member.name.removeprefix("./") == index and content is not None:
                value = json.load(content)
                value["manifests"][0].setdefault("annotations", {})["io.containerd.image.name"] = name
                written = json.dumps(value).encode()
                member.size = len(written)
                new.addfile(member, io.BytesIO(written))
            else:
                new.addfile(member, content)
    Path(str(archive) + ".named").rename(archive)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ["operator"]:
        built = built_image(wanted)
        print(built.path, built.name)
