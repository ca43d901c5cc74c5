"""The SPDX document: whole by the rules of SPDX 2.3, and one line for each thing that is installed."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path

from release.sbom import debian_packages, document, python_packages
from tests.conftest import ROOT

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u14
Description: GNU C Library
 Status: not a field

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0
"""
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def test_only_installed_debian_packages_are_listed() -> None:
    [libc] = debian_packages(STATUS, "debian")
    assert (libc["name"], libc["versionInfo"]) == ("libc6", "2.36-9+deb12u14")
    assert libc["externalRefs"][0]["referenceLocator"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64"


def test_python_packages_are_those_of_this_environment() -> None:
    found = {package["name"]: package for package in python_packages(distributions())}
    assert {re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower() for one in distributions()} == set(found)
    assert found["pydantic"]["licenseDeclared"] == "MIT"


def test_the_document_is_whole() -> None:
    packages = python_packages(distributions()) + debian_packages(STATUS, "debian")
    made = document("finetune-operator", "0.1.0", packages, NOW)
    assert made["spdxVersion"] == "SPDX-2.3"
    assert made["creationInfo"]["created"] == "2026-11-29T12:00:00Z"
    ids = [package["SPDXID"] for package in made["packages"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", one) for one in ids)
    assert made["relationships"][0] == {
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": ids[0],
    }
    assert {one["relatedSpdxElement"] for one in made["relationships"][1:]} == set(ids[1:])
    for package in made["packages"]:
        assert {"name", "SPDXID", "downloadLocation"} <= package.keys()


def test_other_contents_are_another_document() -> None:
    packages = debian_packages(STATUS, "debian")
    first, same, other = (document("x", "1", some, NOW)["documentNamespace"] for some in (packages, packages, []))
    assert first == same != other


def test_it_runs_by_a_python_without_our_packages(tmp_path: Path) -> None:
    output = tmp_path / "sbom.json"
    command = [
        sys.executable,
        "-I",
        "-c",
        "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module('release.sbom', run_name='__main__')",
    ]
    subprocess.run([*command, ROOT, "finetune-operator", "0.1.0", output], check=True)
    assert json.loads(output.read_text())["name"] == "finetune-operator-0.1.0"
