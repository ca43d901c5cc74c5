"""The house: each folder is a package, and `make check` notices an import that goes up."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT

PACKAGES = ("operator/finetune_api", "operator/finetune_operator", "trainer/finetune_trainer", "trainer/finetune_assistant")

# An import that each contract of pyproject.toml forbids: the file that gets it, and the line.
VIOLATIONS = {
    "Every arrow points down": ("trainer/finetune_trainer/secrets.py", "import finetune_cli.app"),
    "The contract is pydantic only": ("operator/finetune_api/keys.py", "import torch"),
    "The operator is slim": ("operator/finetune_operator/keys.py", "import boto3"),
    "The runtime knows no FineTuneJob": ("operator/finetune_operator/runtime/store.py", "import finetune_api.keys"),
    "The trainer's rooms": ("trainer/finetune_trainer/storage/streams.py", "import finetune_trainer.data.sources"),
    "The assistant's rooms": ("trainer/finetune_assistant/inference/prompting.py", "import finetune_assistant.answers.samples"),
}


def test_every_folder_of_source_is_a_package() -> None:
    """pytest and import-linter look into packages only."""
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_the_trainers_rooms_hold_no_code_in_their_init() -> None:
    inits = [path for path in (ROOT / "trainer").rglob("*/*/__init__.py") if path.parent.name != "pods"]
    assert [path for path in inits if path.read_text(encoding="utf-8").count("\n") != 1] == []


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    for name in ("operator", "trainer"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_each_contract_fails_on_an_import_that_it_forbids(house: Path, contract: str) -> None:
    name, line = VIOLATIONS[contract]
    file = house / name
    text = file.read_text(encoding="utf-8")
    file.write_text(f"{text}\n{line}\n", encoding="utf-8")
    try:
        # Paths first: the editable installation names the real house.
        code = "import sys; sys.path[:0] = ['operator', 'trainer']; from importlinter.cli import lint_imports_command as run; run()"
        done = subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=house, capture_output=True, text=True, check=False)
    finally:
        file.write_text(text, encoding="utf-8")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract} BROKEN" in done.stdout
