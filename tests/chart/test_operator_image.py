"""The operator's image as it was built: what is in it, what isn't, and that it starts as the user that the chart gives it."""

import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT
from tests.testcluster.operator_image import inputs_digest, named, operator_image

USER = "65532:65532"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """The image's configuration, and its files in a folder."""

    config: dict[str, Any]
    tree: Path

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """A command inside, as the image's user and with nothing but its environment."""
        chroot = shutil.which("chroot") or "/usr/sbin/chroot"
        environment = dict(variable.split("=", 1) for variable in self.config["Env"])
        return subprocess.run(
            [chroot, f"--userspec={USER}", str(self.tree), *command], capture_output=True, text=True, check=False, env=environment
        )


@pytest.fixture(scope="module")
def image() -> Iterator[Unpacked]:
    with tempfile.TemporaryDirectory(prefix="finetune-image-") as folder:
        root = Path(folder)
        with tarfile.open(operator_image().path) as archive:
            archive.extractall(root / "oci", filter="data")
        tree = root / "tree"
        tree.mkdir()
        manifest = blob(root, json.loads((root / "oci/index.json").read_text())["manifests"][0])
        for layer in json.loads(manifest.read_text())["layers"]:
            subprocess.run(["tar", "--extract", "--auto-compress", "--file", str(blob(root, layer)), "--directory", str(tree)], check=True)
        config = json.loads(blob(root, json.loads(manifest.read_text())["config"]).read_text())["config"]
        yield Unpacked(config=config, tree=tree)


def blob(root: Path, descriptor: dict[str, Any]) -> Path:
    return root / "oci/blobs" / str(descriptor["digest"]).replace(":", "/")


@pytest.mark.cluster
def test_it_starts_without_root_and_without_writing(image: Unpacked) -> None:
    assert image.config["User"] == USER
    before = sorted(str(path) for path in image.tree.rglob("*"))
    done = image.run(*image.config["Entrypoint"], "--help")
    assert done.returncode == 0, done.stderr
    assert "--trainer-image" in done.stdout
    assert sorted(str(path) for path in image.tree.rglob("*")) == before


@pytest.mark.cluster
@pytest.mark.parametrize("command", ["pip", "gcc", "cc", "g++", "git", "curl", "wget"])
def test_nothing_that_an_intruder_would_like(image: Unpacked, command: str) -> None:
    assert image.run("sh", "-c", f"command -v {command}").returncode != 0


@pytest.mark.cluster
def test_what_was_lent_to_the_build_has_gone(image: Unpacked) -> None:
    assert not (image.tree / "etc/pip.conf").exists()
    assert not list(image.tree.glob("run/secrets/*"))
    assert not list(image.tree.glob("root/.cache/*"))


@pytest.mark.cluster
def test_it_says_what_is_in_it(image: Unpacked) -> None:
    """By the names and versions of what was pinned, and of what Debian's own record says."""
    document = json.loads((image.tree / "opt/finetune/sbom.spdx.json").read_text())
    purls = {package["externalRefs"][0]["referenceLocator"] for package in document["packages"]}
    pins = re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^ ;]+) \\\n", (ROOT / "requirements/operator.txt").read_text(), re.MULTILINE)
    assert {purl for purl in purls if purl.startswith("pkg:pypi/")} == {f"pkg:pypi/{name}@{version}" for name, version in pins}
    status = (image.tree / "var/lib/dpkg/status").read_text()
    assert len([purl for purl in purls if purl.startswith("pkg:deb/")]) == status.count("Status: install ok installed") > 50


@pytest.mark.cluster
def test_no_trainer_and_no_torch(image: Unpacked) -> None:
    assert image.run("python", "-c", "import finetune_api.finetunejob, finetune_operator.settings, kubernetes").returncode == 0
    for absent in ("finetune_trainer", "torch", "ray", "boto3"):
        assert image.run("python", "-c", f"import {absent}").returncode != 0


def test_only_what_the_build_reads_makes_another_image(tmp_path: Path) -> None:
    (tmp_path / "requirements").mkdir()
    (tmp_path / "operator/package/__pycache__").mkdir(parents=True)
    for name in ("Dockerfile", ".dockerignore", "requirements/operator.txt", "operator/package/module.py"):
        (tmp_path / name).write_text(name)
    before = inputs_digest("operator", tmp_path)
    (tmp_path / "operator/package/__pycache__/module.pyc").write_text("compiled")
    (tmp_path / "README.md").write_text("prose")
    assert inputs_digest("operator", tmp_path) == before
    (tmp_path / "operator/package/module.py").write_text("changed")
    assert inputs_digest("operator", tmp_path) != before


def test_an_archive_says_its_name_to_containerd(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [{"digest": "sha256:0"}]}))
    (tmp_path / "layer").write_bytes(b"x" * 10_000)
    archive = tmp_path / "image.tar"
    with tarfile.open(archive, "w") as made:
        for name in ("index.json", "layer"):
            made.add(tmp_path / name, arcname=name)
    named(archive, "cluster.test/x:1")
    with tarfile.open(archive) as renamed:
        index, layer = renamed.extractfile("index.json"), renamed.extractfile("layer")
        assert index is not None
        assert layer is not None
        assert json.load(index)["manifests"][0]["annotations"] == {"io.containerd.image.name": "cluster.test/x:1"}
        assert layer.read() == b"x" * 10_000
