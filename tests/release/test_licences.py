"""What the images ship may be shipped: every pinned package says a licence that we accept, or is named."""

import re
from email.message import Message
from importlib.metadata import PackageNotFoundError, metadata

import pytest
from packaging.requirements import Requirement
from release.licences import KNOWN, licence, refused
from tests.conftest import ROOT


def pinned(target: str) -> list[str]:
    """Names of the packages that an image of this target gets, on Linux."""
    text = (ROOT / f"requirements/{target}.txt").read_text(encoding="utf-8")
    found = [Requirement(line.removesuffix("\\").strip()) for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line)]
    return sorted({one.name.lower() for one in found if one.marker is None or one.marker.evaluate({"sys_platform": "linux"})})


def licences(target: str) -> dict[str, str]:
    said = {}
    for name in pinned(target):
        try:
            said[name] = licence(name, metadata(name))
        except PackageNotFoundError:
            said[name] = KNOWN.get(name, "not installed here, and not in KNOWN")
    return said


@pytest.mark.parametrize("target", ["operator", "trainer"])
def test_every_pinned_package_may_be_shipped(target: str) -> None:
    found = licences(target)
    assert len(found) > {"operator": 10, "trainer": 100}[target]
    assert refused(found) == []


def test_the_operators_image_has_nothing_of_nvidias() -> None:
    assert not [name for name, said in licences("operator").items() if "LicenseRef-NVIDIA" in said]


def test_known_names_are_needed() -> None:
    for name in KNOWN:
        try:
            assert licence(name, Message()) != licence("another", metadata(name)), f"{name} speaks for itself"
        except PackageNotFoundError:
            assert name in pinned("trainer")


@pytest.mark.parametrize(
    ("fields", "said", "shipped"),
    [
        ({"License-Expression": "MIT OR Apache-2.0"}, "MIT OR Apache-2.0", True),
        ({"License": "Apache 2.0"}, "Apache-2.0", True),
        ({"License": "BSD-3-Clause"}, "BSD-3-Clause", True),
        ({"License": "MIT License\n\nPermission is hereby granted"}, "MIT", True),
        ({"Classifier": "License :: OSI Approved :: ISC License (ISCL)"}, "ISC", True),
        ({"License-Expression": "GPL-3.0-only"}, "GPL-3.0-only", False),
        ({"License-Expression": "MIT AND AGPL-3.0-or-later"}, "MIT AND AGPL-3.0-or-later", False),
        ({"License-Expression": "LicenseRef-NVIDIA-Proprietary"}, "LicenseRef-NVIDIA-Proprietary", False),
        ({"License": "free for universities"}, "NOASSERTION", False),
        ({}, "NOASSERTION", False),
    ],
)
def test_licence(fields: dict[str, str], said: str, shipped: bool) -> None:
    message = Message()
    for name, value in fields.items():
        message[name] = value
    assert licence("some-package", message) == said
    assert (refused({"some-package": said}) == []) is shipped
