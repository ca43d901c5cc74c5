"""Images without a registry: OCI archives, written here or by buildah, given to a node's containerd.

In: files. Out: an archive in the OCI image layout with one layer. The trainer's image is nearly empty: the runtime handler of
node.py shows its pods this machine's Python and libraries, so that 5 GB need not be packed for a test. What is in it is what only
an image can give: who user 1000 is, the environment, and DeepSpeed's CPU op, built beforehand as in the real image.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.testcluster.host_python import ROOT

from finetune_trainer.training.compiled_ops import COMPILE, compiled_ops_folder

TRAINER_IMAGE: Final = "cluster.test/finetune-trainer:1"
TORCH_EXTENSIONS: Final = "opt/torch_extensions"
PACKAGES: Final = "opt/packages"
USER: Final = 1000
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageArchive:
    """An image in a file that `ctr images import` reads, and the name that pods call it by."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of a layer; a folder when `content` is None. `modified` in whole seconds: rounded up, ninja would build anew."""

    path: str
    content: bytes | None = field(default=None, repr=False)
    mode: int = 0o644
    owner: int = 0
    modified: int = 0


def write_image(path: Path, name: str, files: Iterable[File], **config: Any) -> ImageArchive:
    """Write an image of one layer to `path`. `config` gives entrypoint, env (a list), user, working_dir."""
    layer = _layer(files)
    keys = {"entrypoint": "Entrypoint", "env": "Env", "user": "User", "working_dir": "WorkingDir"}
    about = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {keys[key]: value for key, value in config.items()},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs = [layer, _json(about)]
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, blobs[1]),
            "layers": [_descriptor(_LAYER, layer)],
        }
    )
    blobs.append(manifest)
    # containerd takes an image's full name from this annotation.
    entry = _descriptor(_MANIFEST, manifest) | {"annotations": {"io.containerd.image.name": name}}
    with tarfile.open(path, "w") as archive:
        _add(archive, File(path="oci-layout", content=_json({"imageLayoutVersion": "1.0.0"})))
        _add(archive, File(path="index.json", content=_json({"schemaVersion": 2, "manifests": [entry]})))
        for blob in blobs:
            _add(archive, File(path=f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}", content=blob))
    return ImageArchive(path=path, name=name)


def trainer_image(folder: Path, name: str = TRAINER_IMAGE, *, packages: Sequence[Path] = ()) -> ImageArchive:
    """The trainer's image for the `host-python` handler: the Python that runs this is `python` in the container.

    `packages`: folders of another version's packages, which the image has in place of this checkout's.
    """
    found = [Path("/", PACKAGES, folder.name) for folder in packages] or [ROOT / "operator", ROOT / "trainer"]
    # Of the shell and its like only what lies in these folders is seen; /etc is the image's own.
    path = [str(Path(sys.prefix) / "bin"), "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
    env = [
        f"PATH={':'.join(path)}",
        f"VIRTUAL_ENV={sys.prefix}",
        # This checkout's, whichever the environment was made for.
        f"PYTHONPATH={':'.join(map(str, found))}",
        "HOME=/home/finetune",
        f"TORCH_EXTENSIONS_DIR=/{TORCH_EXTENSIONS}",
        "PYTHONUNBUFFERED=1",
        "PYTHONDONTWRITEBYTECODE=1",
        "LANG=C.UTF-8",
        # Nothing leaves the cluster anyway; this spares the wait until that has been noticed.
        "RAY_USAGE_STATS_ENABLED=0",
        "HF_HUB_DISABLE_TELEMETRY=1",
        "DO_NOT_TRACK=1",
    ]
    files = [
        File(path="tmp", mode=0o1777),
        File(path="home/finetune", mode=0o755, owner=USER),
        # Ray and torch ask who runs them.
        File(path="etc/passwd", content=b"root:x:0:0:root:/:/bin/sh\nfinetune:x:1000:1000::/home/finetune:/bin/sh\n"),
        File(path="etc/group", content=b"root:x:0:\nfinetune:x:1000:\n"),
        File(path="etc/nsswitch.conf", content=b"passwd: files\ngroup: files\nhosts: files dns\n"),
        *_torch_extensions(_built_torch_extensions()),
        *(file for folder in packages for file in _sources(folder)),
    ]
    return write_image(
        folder / f"{name.rpartition('/')[2].replace(':', '-')}.tar",
        name,
        files,
        env=env,
        user=f"{USER}:{USER}",
        working_dir="/home/finetune",
    )


def import_image(containerd: Path, archive: ImageArchive) -> None:
    """Give an archive to the containerd that listens at the socket `containerd`, for kubelet's use.

    Also an archive that `buildah push IMAGE oci-archive:FILE:NAME` made: its name has no registry, so it is said here.
    """
    # A name without `:tag` names the repository of all images in an archive; an archive of ours names its one image itself.
    repository = archive.name.rpartition(":")[0]
    ctr(containerd, "images", "import", "--base-name", repository, str(archive.path))
    found = ctr(containerd, "images", "list", "--quiet").split()
    if archive.name not in found:
        raise RuntimeError(f"{archive.path} does not hold {archive.name}; containerd has {', '.join(found)}")
    # As if it had been pulled: by this name the node knows its digest, and pods may ask for it so.
    (digest,) = {word for word in ctr(containerd, "images", "list", f"name=={archive.name}").split() if word.startswith("sha256:")}
    tag_image(containerd, archive.name, f"{repository}@{digest}")


def tag_image(containerd: Path, name: str, another: str) -> None:
    """Let pods call the image `name` by `another` name too, which takes the place of an image that had it."""
    ctr(containerd, "images", "tag", "--force", name, another)


def ctr(containerd: Path, *command: str) -> str:
    """What containerd's own client prints. Raises RuntimeError with its error."""
    done = subprocess.run(["ctr", "-a", str(containerd), "-n", "k8s.io", *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ctr {' '.join(command)}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def _built_torch_extensions() -> Path:
    """DeepSpeed's CPU op in this machine's cache, where the trainer keeps it; compiled the first time (about 90 s)."""
    done = subprocess.run(COMPILE, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"DeepSpeed's CPU op does not compile:\n{(done.stdout + done.stderr)[-2000:]}")
    return compiled_ops_folder()


def _torch_extensions(folder: Path) -> list[File]:
    """The built op as files of the layer, owned by the pod's user: torch writes a lock beside them."""
    found = [File(path=TORCH_EXTENSIONS, mode=0o755, owner=USER)]
    for path in sorted(folder.rglob("*")):
        status = path.stat()
        content = path.read_bytes() if path.is_file() else None
        if path.name in {"lock", "turn"}:
            continue  # of a process of this machine that builds at this moment
        name = f"{TORCH_EXTENSIONS}/{path.relative_to(folder)}"
        found.append(File(path=name, content=content, mode=status.st_mode & 0o777, owner=USER, modified=int(status.st_mtime)))
    return found


def _sources(folder: Path) -> list[File]:
    """All files below the folder, in a layer."""
    paths = [folder, *(path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts)]
    return [
        File(path=f"{PACKAGES}/{path.relative_to(folder.parent)}", content=None, mode=0o755)
        if path.is_dir()
        else File(path=f"{PACKAGES}/{path.relative_to(folder.parent)}", content=path.read_bytes())
        for path in paths
    ]


def _layer(files: Iterable[File]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as layer:
        for file in files:
            _add(layer, file)
    return stream.getvalue()


def _add(archive: tarfile.TarFile, file: File) -> None:
    member = tarfile.TarInfo(file.path)
    member.type = tarfile.DIRTYPE if file.content is None else tarfile.REGTYPE
    member.mode, member.uid, member.gid, member.mtime = file.mode, file.owner, file.owner, file.modified
    member.size = len(file.content or b"")
    archive.addfile(member, io.BytesIO(file.content or b""))


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
