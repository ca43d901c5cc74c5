"""A real control plane for the tests of this folder: started once, without nodes; and operators that work on it."""

import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.control_plane.operators import Operators, operators
from tests.control_plane.played import eventually
from tests.control_plane.proxy import Proxy, proxy_to
from tests.control_plane.stage import Stage
from tests.testcluster.binaries import CONTROL_PLANE, binaries, kuberay_crds
from tests.testcluster.control_plane import ControlPlane
from tests.testcluster.control_plane import control_plane as running_control_plane

from finetune_operator import kinds
from finetune_operator.runtime.api import Api

CRDS = Path(__file__).parents[2] / "manifests/crd"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the programs before the first test: the minutes are seen, and are no test's timeout."""
    needed = any(item.get_closest_marker("control_plane") for item in session.items)
    if needed and not session.config.option.collectonly:
        binaries(CONTROL_PLANE)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The control plane that the tests share. A test works in a namespace of its own."""
    with running_control_plane(tmp_path_factory.mktemp("control-plane") / "cluster") as plane:
        yield plane


@pytest.fixture(scope="session")
def crds(control_plane: ControlPlane) -> None:
    """Our CRDs and KubeRay's, served."""
    for folder in (CRDS, kuberay_crds()):
        control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", folder)
    api = Api.connect(control_plane.kubeconfig, user_agent="test")
    for resource in (kinds.FINETUNEJOBS, kinds.FINETUNEREPORTS, kinds.RAYJOBS):
        eventually(f"{resource.plural} are served", lambda r=resource: api.list_pages(r, None)[1])  # type: ignore[misc]
    api.close()


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operators]:
    """Starts operator processes."""
    with operators(tmp_path_factory.mktemp("operators")) as found:
        yield found


@pytest.fixture
def stage(control_plane: ControlPlane, crds: None, started: Operators, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A namespace for one test; operators that the test left are killed."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")[-50:].strip("-")
    found = Stage(control_plane, started, name)
    yield found
    for operator in found.mine:
        operator.kill()


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[Proxy]:
    """A proxy to the API server, as the administrator."""
    folder = control_plane.authority.folder
    trust = ssl.create_default_context(cafile=control_plane.authority.certificate)
    trust.load_cert_chain(folder / "admin.crt", folder / "admin.key")
    with proxy_to(control_plane.url, trust) as found:
        yield found
