"""A real control plane for the tests of this folder: started once, without nodes."""

from collections.abc import Iterator

import pytest
from tests.testcluster.binaries import CONTROL_PLANE, binaries
from tests.testcluster.control_plane import ControlPlane
from tests.testcluster.control_plane import control_plane as running_control_plane


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
