"""What is in an image, as SPDX 2.3: each Python package and each Debian package, with version, licence and purl.

`python -m release.sbom NAME VERSION OUTPUT` runs inside the image that is being built, with that image's own Python: what is listed is
what is installed, not what was asked for. Standard library only.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from release.licences import licence

Json = dict[str, Any]

# Debian's and Ubuntu's record of what is installed.
DPKG: Final = Path("/var/lib/dpkg/status")
OS_RELEASE: Final = Path("/etc/os-release")


def python_packages(found: Iterable[Distribution]) -> list[Json]:
    """A package of SPDX for each distribution."""
    made = {}
    for one in found:
        name = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
        made[name] = _package(name, one.version, licence(name, one.metadata), f"pkg:pypi/{name}@{quote(one.version)}")
    return [made[name] for name in sorted(made)]


def debian_packages(status: str, distribution: str) -> list[Json]:
    """A package of SPDX for each one that dpkg's status file says is installed. Their licences are in /usr/share/doc, as prose.

    >>> [one] = debian_packages("Package: zlib1g\\nStatus: install ok installed\\nVersion: 1:1.2\\n", "debian")
    >>> one["versionInfo"]
    '1:1.2'
    """
    made = []
    for paragraph in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if re.match(r"[A-Za-z-]+: ", line))
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/{distribution}/{name}@{quote(version)}?arch={fields.get('Architecture', 'all')}"
            made.append(_package(name, version, "NOASSERTION", purl))
    return made


def document(name: str, version: str, packages: list[Json], created: datetime) -> Json:
    """The whole; its namespace is a digest of what it holds, so that other contents are another document."""
    image = {**_package(name, version, "Apache-2.0", f"pkg:oci/{name}@{quote(version)}"), "primaryPackagePurpose": "CONTAINER"}
    digest = hashlib.sha256(json.dumps([image, packages], sort_keys=True).encode()).hexdigest()
    contained = [
        {"spdxElementId": image["SPDXID"], "relationshipType": "CONTAINS", "relatedSpdxElement": one["SPDXID"]} for one in packages
    ]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{name}-{version}",
        "documentNamespace": f"https://finetune.dev/spdx/{name}-{version}-{digest}",
        "creationInfo": {"created": created.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": ["Tool: finetune-operator-release"]},
        "packages": [image, *packages],
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": image["SPDXID"]},
            *contained,
        ],
    }


def _package(name: str, version: str, declared: str, purl: str) -> Json:
    kind = purl.partition(":")[2].partition("/")[0]
    return {
        "SPDXID": f"SPDXRef-{kind}-{re.sub(r'[^A-Za-z0-9.-]', '-', name)}",
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": declared,
        "copyrightText": "NOASSERTION",
        "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}],
    }


def main() -> None:
    """Write the document of the image that this runs in."""
    name, version, output = sys.argv[1:]
    system = re.search(r"^ID=(\w+)", OS_RELEASE.read_text(encoding="utf-8"), re.MULTILINE)
    packages = python_packages(distributions())
    if DPKG.exists():
        packages += debian_packages(DPKG.read_text(encoding="utf-8"), system[1] if system else "debian")
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    created = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    Path(output).write_text(json.dumps(document(name, version, packages, created), indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
