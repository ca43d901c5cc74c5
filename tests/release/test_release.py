"""A release to a registry on loopback: what was pushed is there by the digests that were told, and the chart installs those images.

Images of the same names from a Dockerfile of two files: building the real ones is what `make images` and the cluster tests do.
"""

import json
import shutil
import subprocess
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from release.__main__ import Release, ReleaseFailed, chart_version, with_images
from tests.conftest import ROOT
from tests.testcluster.processes import Processes, free_ports

CHART = ROOT / "charts/finetune-operator"
ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


def test_both_images_are_named_by_digest_and_the_rest_stays() -> None:
    before = (CHART / "values.yaml").read_text(encoding="utf-8")
    after = with_images(before, {"operator": "r.example/o@sha256:1", "trainer": "r.example/t@sha256:2"})
    wanted = yaml.safe_load(before)
    wanted["image"] |= {"repository": "r.example/o", "digest": "sha256:1"}
    wanted["trainer"]["image"] |= {"repository": "r.example/t", "digest": "sha256:2"}
    assert yaml.safe_load(after) == wanted
    assert [line for line in after.splitlines() if line.startswith("#")] == [line for line in before.splitlines() if line.startswith("#")]


def test_a_program_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReleaseFailed, match="there is no no-such-helm on this machine"):
        Release(registry="r.example", output=tmp_path, helm="no-such-helm").chart("0", {})


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that keeps what it is given in memory; its address."""
    from tests.testcluster.binaries import binaries

    [port] = free_ports(1)
    processes = Processes(tmp_path_factory.mktemp("registry"))
    processes.start("registry", [str(binaries(["registry"])["registry"]), f"-port={port}"])

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/") as answer:
                return answer.status == 200  # type: ignore[no-any-return]
        except OSError:
            return False

    processes.wait_until("registry", answers, seconds=60)
    yield f"127.0.0.1:{port}"
    processes.stop_all()


@pytest.fixture(scope="module")
def released(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Release, dict[str, Any]]]:
    from tests.testcluster.binaries import binaries

    folder = tmp_path_factory.mktemp("release")
    (folder / "context").mkdir()
    (folder / "context/file").write_text("small")
    (folder / "context/Dockerfile").write_text(
        "FROM scratch AS operator\nCOPY file /operator\nFROM scratch AS trainer\nCOPY file /trainer\n"
    )
    storage = ("--root", str(folder / "storage"), "--runroot", str(folder / "run"), "--storage-driver", "vfs")
    release = Release(
        registry=f"{registry}/finetune",
        output=folder / "dist",
        context=folder / "context",
        plain_http=True,
        helm=str(binaries(["helm"])["helm"]),
        buildah=("buildah", *storage),
    )
    yield release, release.all()
    shutil.rmtree(folder / "storage", ignore_errors=True)


def manifest(registry: str, repository: str, reference: str) -> dict[str, Any]:
    request = urllib.request.Request(f"http://{registry}/v2/{repository}/manifests/{reference}", headers={"Accept": ACCEPT})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())  # type: ignore[no-any-return]


@pytest.mark.cluster
def test_what_was_pushed_is_there_by_its_digest(registry: str, released: tuple[Release, dict[str, Any]]) -> None:
    _, made = released
    for name in (*made["images"].values(), made["chart"].removeprefix("oci://")):
        repository, digest = name.removeprefix(f"{registry}/").split("@")
        assert manifest(registry, repository, digest)["layers"]
        with pytest.raises(urllib.error.HTTPError):
            manifest(registry, repository, f"sha256:{'0' * 64}")
    assert len(set(made["images"].values())) == 2


@pytest.mark.cluster
def test_the_pulled_chart_installs_the_pushed_images(registry: str, released: tuple[Release, dict[str, Any]], tmp_path: Path) -> None:
    release, made = released
    place = f"oci://{registry}/finetune/charts/finetune-operator"
    command = [release.helm, "template", "x", place, "--version", made["version"], "--plain-http"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [deployment] = [one for one in yaml.safe_load_all(done.stdout) if one and one["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == made["images"]["operator"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert environment["FINETUNE_OPERATOR_TRAINER_IMAGE"] == made["images"]["trainer"]
    # Nothing of the checkout was changed for it.
    assert chart_version(CHART) == made["version"]
    assert yaml.safe_load((CHART / "values.yaml").read_text())["image"]["digest"] == ""


@pytest.mark.cluster
def test_the_wheel_is_whole(released: tuple[Release, dict[str, Any]]) -> None:
    release, made = released
    assert json.loads((release.output / "release.json").read_text()) == made
    with zipfile.ZipFile(release.output / made["wheel"]) as archive:
        names = archive.namelist()
    for part in ("finetune_api/", "finetune_operator/", "finetune_trainer/", "finetune_cli/files/examples/tiny.yaml"):
        assert [name for name in names if name.startswith(part)], part
