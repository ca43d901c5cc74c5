"""Readings of exported models by other programs, and how they differ from what the installed Transformers reads."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tests.readers.environments import environment


@dataclass(frozen=True)
class Reading:
    """What one program of one version made of each model: prompt, logits, answer and stops, or an error."""

    version: str
    models: Mapping[str, Mapping[str, Any]]


def read_by(reader: ModuleType, folders: Mapping[str, str], place: Path, *packages: Path) -> Reading:
    """Run a reader with these packages in front of the environment's own; it writes into `place`."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "folders.json").write_text(json.dumps(folders))
    assert reader.__file__ is not None
    command = [sys.executable, "-W", "ignore", reader.__file__, str(place / "folders.json"), str(place / "read.json")]
    done = subprocess.run(command, cwd=place, env=environment(*packages), capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{reader.__file__}: {done.stderr[-3000:]}")
    result = json.loads((place / "read.json").read_text())
    return Reading(version=result["version"], models=result["read"])


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """What is not equal, in words; empty when ids, stops and the answer are, and logits to a part in 100,000 of their range."""
    if "error" in theirs:
        return f"refused: {theirs['error']}"
    wrong = [name for name in ("prompt", "answer") if ours[name] != theirs[name]]
    wrong += ["stops"] if set(ours["stops"]) != set(theirs["stops"]) else []
    apart = float(np.max(np.abs(np.array(ours["logits"]) - np.array(theirs["logits"]))))
    if apart > 1e-5 * float(np.ptp(ours["logits"])):
        wrong.append(f"logits off by {apart:.2g}")
    return ", ".join(wrong)
