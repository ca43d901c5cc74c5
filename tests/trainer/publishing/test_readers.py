"""Programs that read the exported folder: an old Transformers of its own version must see what ours sees."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.readers import transformers_reader
from tests.readers.environments import environment, packages
from tests.readers.models import CONFIGS, exported


def read_by(folders: dict[str, str], place: Path, *paths: Path) -> dict[str, Any]:
    """What a Transformers in these packages makes of the folders."""
    (place / "folders.json").write_text(json.dumps(folders))
    command = [sys.executable, "-W", "ignore", transformers_reader.__file__, str(place / "folders.json"), str(place / "read.json")]
    done = subprocess.run(command, cwd=place, env=environment(*paths), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads((place / "read.json").read_text())
    return result


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every model as the installed Transformers reads it, and as the newest Transformers 4 does."""
    place = tmp_path_factory.mktemp("readers")
    folders = {name: str(exported(name, place / str(number))) for number, name in enumerate(CONFIGS)}
    ours, theirs = place / "ours", place / "theirs"
    ours.mkdir()
    theirs.mkdir()
    new, old = read_by(folders, ours), read_by(folders, theirs, packages("readers-transformers4"))
    assert new["version"].startswith("5.")
    assert old["version"].startswith("4.")
    return new["read"], old["read"]


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_4_gets_the_same_ids_logits_and_stops(name: str, readings: tuple[dict[str, Any], dict[str, Any]]) -> None:
    new, old = (reading[name] for reading in readings)
    assert "error" not in new, new
    assert "error" not in old, old
    assert (old["prompt"], old["stops"]) == (new["prompt"], new["stops"])
    assert len(new["stops"]) == 4
    np.testing.assert_allclose(old["logits"], new["logits"], rtol=1e-5, atol=1e-5)
    assert old["answer"] == new["answer"]
