"""layers.py: what is said and what it means when this machine can't run a layer."""

import re

import pytest
from tests.cluster.existing import KUBECONFIG
from tests.conftest import ROOT
from tests.layers import LAYERS, main, missing, programs
from tests.testcluster.cluster import DEBIAN_PACKAGES

CLUSTER = LAYERS[-1]


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_what_a_machine_lacks_is_named_and_a_failure_under_ci_alone(
    ci: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(KUBECONFIG, raising=False)
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "")
    assert main(["cluster"]) == code
    assert capsys.readouterr().out.startswith("== cluster: not run, it needs ")


def test_a_cluster_that_is_there_needs_nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(KUBECONFIG, "/home/me/.kube/config")
    assert missing(CLUSTER) == ""
    assert programs(CLUSTER) == ("helm",)


def test_ci_and_the_page_install_the_same_packages() -> None:
    page = (ROOT / "docs/try-it.md").read_text(encoding="utf-8")
    (typed,) = re.findall(r"apt-get install --no-install-recommends ((?:[^\n]*\\\n)*[^\n]*)", page)
    (installed,) = re.findall(r'^packages="(.*)"$', (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    wanted = set(typed.replace("\\\n", " ").split())
    assert set(installed.split()) | {"util-linux"} == wanted  # which every Debian has
    assert set(DEBIAN_PACKAGES.split()) <= wanted


def test_unknown_layers_are_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unit,units"]) == 2
    assert "no layer units; there are unit, training, control_plane, cluster" in capsys.readouterr().err
