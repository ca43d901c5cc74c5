"""The group of tests on real files: one line where they are not there, an error where CI expects them."""

import os
import subprocess
import sys

import pytest
from tests.conftest import ROOT


def without_files(*options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What pytest says of the group where its folder is missing."""
    inherited = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/trainer/test_real_data.py", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=inherited | {"FINETUNE_TEST_DATA": "/nowhere"} | environment,
    )


def test_real_files_that_are_not_there_are_one_line() -> None:
    done = without_files()
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout
    assert done.stdout.count("not run: 5 tests that read real files (FINETUNE_TEST_DATA=/nowhere not found)") == 1


def test_under_ci_they_are_an_error() -> None:
    done = without_files(CI="true")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "not run: 5 tests that read real files" in done.stderr


def test_several_processes_say_it_once_and_fail_under_ci() -> None:
    done = without_files("--numprocesses=2", CI="true")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
    assert done.stdout.count("not run: 5 tests that read real files") == 1


def test_operator_is_the_standard_librarys_in_every_process() -> None:
    """The folder operator/ must stay without __init__.py, or it takes the place of the module."""
    assert not (ROOT / "operator/__init__.py").exists()
    code = "import operator; print(operator.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert str(ROOT) not in done.stdout
