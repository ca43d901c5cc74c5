"""Licences of Python packages, as SPDX expressions, from what their metadata says in one of three ways; and which of them we ship.

In: metadata as importlib.metadata reads it. Standard library only: it also runs in an image that is being built.
"""

import re
from collections.abc import Mapping
from typing import Final, Protocol


class Metadata(Protocol):
    """What is read of a package's metadata."""

    def get_all(self, name: str) -> list[str] | None: ...


# Words of classifiers and of the free field `License`, where neither is an SPDX expression.
WORDS: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Academic Free License (AFL)": "LicenseRef-AFL",
    "Apache 2.0 License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "LicenseRef-BSD",  # it doesn't say which
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
    "Other/Proprietary License": "LicenseRef-Proprietary",
    "Python Software Foundation License": "PSF-2.0",
}

# They ask for a notice, and MPL-2.0 and LGPL-2.1 for the source of their own files, which is what pip fetched, and that a library may be
# replaced, as pip does. None reaches over to our code.
ACCEPTED: Final = frozenset(
    {
        *(
            "0BSD",
            "Apache-2.0",
            "BSD-2-Clause",
            "BSD-3-Clause",
            "BSL-1.0",
            "CC0-1.0",
            "CNRI-Python",
            "ISC",
            "LGPL-2.1-or-later",
            "LLVM-exception",
            "MIT",
            "MIT-0",
        ),
        *("LicenseRef-AFL", "LicenseRef-BSD", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib"),
    }
)
# CUDA's libraries may be passed on with a program that uses them, by NVIDIA's own licence; in the trainer's image alone.
NVIDIA: Final = frozenset({"LicenseRef-NVIDIA-Proprietary", "LicenseRef-Proprietary"})
# Packages that say nothing, or that aren't installed where the tests run.
KNOWN: Final = {"cuda-toolkit": "LicenseRef-NVIDIA-Proprietary", "wheel": "MIT", "word2number": "MIT"}

_EXPRESSION: Final = re.compile(r"\(*[A-Za-z0-9.+-]+\)*( (AND|OR|WITH) \(*[A-Za-z0-9.+-]+\)*)*")


def licence(name: str, metadata: Metadata) -> str:
    """The package's licence; NOASSERTION, SPDX's word, where nothing is said that we know.

    >>> from email.message import Message
    >>> message = Message()
    >>> message["Classifier"] = "License :: OSI Approved :: MIT License"
    >>> licence("x", message)
    'MIT'
    """
    for expression in metadata.get_all("License-Expression") or []:
        return expression
    free = [text.splitlines()[0].strip() for text in metadata.get_all("License") or [] if text.strip()]
    classified = [text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier") or [] if text.startswith("License :: ")]
    known = [WORDS[text] for text in (*classified, *free) if text in WORDS]
    if known:
        return " AND ".join(dict.fromkeys(known))
    spdx = [text for text in free if _EXPRESSION.fullmatch(text) and ids(text) <= ACCEPTED | NVIDIA]
    return spdx[0] if spdx else KNOWN.get(name, "NOASSERTION")


def ids(expression: str) -> set[str]:
    """The licences that an expression names.

    >>> sorted(ids("(MIT OR Apache-2.0) AND BSD-3-Clause"))
    ['Apache-2.0', 'BSD-3-Clause', 'MIT']
    """
    return set(re.findall(r"[A-Za-z0-9.+-]+", expression)) - {"AND", "OR", "WITH"}


def refused(licences: Mapping[str, str]) -> list[str]:
    """Those of the packages (name: licence) that we may not ship, or of which we don't know.

    >>> refused({"nvidia-nccl-cu13": "LicenseRef-NVIDIA-Proprietary", "fast-thing": "GPL-3.0-only"})
    ['fast-thing: GPL-3.0-only']
    """
    return [f"{name}: {said}" for name, said in licences.items() if not ids(said) <= (ACCEPTED | NVIDIA if _is_cuda(name) else ACCEPTED)]


def _is_cuda(name: str) -> bool:
    return name.startswith("nvidia-") or name == "cuda-toolkit"
