"""The chart's tests: what Helm makes of it, as objects."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts.generate import CHART, NAMESPACE, RELEASE
from tests.chart.administrator import Administrator

Objects = list[dict[str, Any]]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the programs before the first test: the minutes are seen, and are no test's timeout."""
    needed = any(item.get_closest_marker("control_plane") and item.path.parent == Path(__file__).parent for item in session.items)
    if needed and not session.config.option.collectonly:
        from tests.testcluster.binaries import CONTROL_PLANE, binaries

        binaries([*CONTROL_PLANE, "helm"])


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Administrator]:
    from tests.testcluster.control_plane import control_plane

    with control_plane(tmp_path_factory.mktemp("chart") / "cluster") as plane:
        yield Administrator(plane=plane)


@pytest.fixture(scope="session")
def helm() -> Path:
    """Helm, built once into the cache."""
    from tests.testcluster.binaries import binaries  # only the layer that needs programs loads it

    return binaries(["helm"])["helm"]


@pytest.fixture(scope="session")
def render(helm: Path) -> Callable[..., Objects]:
    """`helm template` with flags; fails the test with Helm's words."""

    def rendered(*flags: str) -> Objects:
        command = [str(helm), "template", RELEASE, str(CHART), "--namespace", NAMESPACE, *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [loaded for loaded in yaml.safe_load_all(done.stdout) if loaded]

    return rendered
