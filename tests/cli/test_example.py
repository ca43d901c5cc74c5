"""`finetune example`: what lies in a wheel is what a checkout has, and runs."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.cli.conftest import Finetune
from tests.conftest import ROOT

from finetune_cli.example import EXAMPLES
from finetune_cli.validate import problems_of


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, as an installation has them."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True, capture_output=True)
    [built] = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_wheel_writes_what_the_repository_has(wheel: Path, name: str, tmp_path: Path) -> None:
    code = "import sys, finetune_cli.app as a; print(a.__file__); sys.exit(a.main(['example', sys.argv[1]]))"
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    done = subprocess.run([sys.executable, "-c", code, name], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(wheel)), "the checkout's package was asked, not the wheel's"
    written = [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert Path(EXAMPLES[name].job) in written
    for path in written:
        assert (tmp_path / path).read_bytes() == (ROOT / path).read_bytes()
    assert problems_of(tmp_path / EXAMPLES[name].job, []) == [], "it reads a file that wasn't written"


def test_they_are_listed(finetune: Finetune) -> None:
    code, out, _ = finetune("example")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(EXAMPLES)


def test_the_next_command_works(finetune: Finetune) -> None:
    for name, example in EXAMPLES.items():
        code, out, _ = finetune("example", name, "--output", name)
        assert code == 0
        [typed] = re.findall(r"^next: finetune (.+)$", out, re.MULTILINE)
        assert typed.endswith(example.job)
        if not typed.startswith("run "):
            assert finetune(*typed.split())[0] == 0


def test_a_machine_is_told_the_same(finetune: Finetune) -> None:
    _, listed, _ = finetune("example", "--json")
    assert list(json.loads(listed)["examples"]) == list(EXAMPLES)
    _, written, _ = finetune("example", "my-assistant", "--json")
    assert json.loads(written)["written"] == [EXAMPLES["my-assistant"].job]


def test_nothing_is_overwritten(finetune: Finetune, tmp_path: Path) -> None:
    mine = tmp_path / "examples/demo/data/train.jsonl"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    code, _, said = finetune("example", "tiny")
    assert code == 2
    assert "examples/demo/data/train.jsonl is there already" in said
    assert mine.read_text() == "mine"
    assert not (tmp_path / "examples/tiny.yaml").exists()


def test_an_unknown_name_is_answered_with_the_names(finetune: Finetune) -> None:
    code, _, said = finetune("example", "llama")
    assert code == 2
    assert "there are tiny, lora, my-assistant" in said
