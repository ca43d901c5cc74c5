"""Commands with the packages of one extra alone: what they can do is done, and what they can't says what to install."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.assistant.judging.answer_files import answers_file
from tests.assistant.judging.judge_server import judge_server
from tests.conftest import ROOT

_RUN = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

absent = set(sys.argv.pop(1).split(","))
for name in [name for name in sys.modules if name.partition(".")[0] in absent]:
    del sys.modules[name]
sys.meta_path.insert(0, Absent())
from finetune_cli.app import main
sys.exit(main(sys.argv[1:]))
"""


def brought_by(extra: str) -> set[str]:
    """The distributions that `pip install 'finetune-operator[EXTRA]'` brings, as far as they are here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [(Requirement(line), "") for line in (*project["dependencies"], *project["optional-dependencies"][extra])]
    found = {"finetune-operator"}
    while wanted:
        requirement, of = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": of})):
            continue
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            continue
        found.add(name)
        wanted += [(Requirement(line), one) for line in needed for one in requirement.extras or {""}]
    return found


@pytest.fixture(scope="module")
def absent() -> str:
    """Packages that the extra `assistant` doesn't bring."""
    there = brought_by("assistant")
    return ",".join(
        name for name, distributions in packages_distributions().items() if not there & set(map(canonicalize_name, distributions))
    )


def finetune(absent: str, folder: Path, *arguments: object) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", _RUN, absent, *map(str, arguments)], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_rows_are_inspected_and_answers_judged_with_the_assistants_extra_alone(absent: str, tmp_path: Path) -> None:
    assert {"torch", "transformers", "pyarrow", "gradio"} <= set(absent.split(","))
    row = {"messages": [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "I am well, thank you."}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    code, out, err = finetune(absent, tmp_path, "data", "inspect", "rows.jsonl", "--html", "page.html")
    assert (code, "languages: en 1" in out) == (0, True), err
    files = [answers_file(tmp_path / f"{name}.jsonl", [f"{name} {number}" for number in range(2)]) for name in ("longer", "a")]
    with judge_server() as server:
        code, out, err = finetune(absent, tmp_path, "judge", *files, "--model", "j", "--base-url", server.url, "--output", "judged")
    assert (code, "longer wins 2 of 2" in out) == (0, True), err
    assert (tmp_path / "judged/report.html").is_file()
    code, _, err = finetune(absent, tmp_path, "human", "export", *files, "--output", "ballots.html", "--key", "key.json")
    assert code == 0, err


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("chat", "org/model", "--once", "Hello"), "trainer"),
        (("init", "--model", "org/model", "--data", "rows.jsonl"), "trainer"),
        (("evaluate", "org/model", "--tasks", "mmlu"), "trainer"),
        (("playground", "org/model"), "playground"),
    ],
)
def test_what_it_lacks_is_said_with_the_extra_that_brings_it(absent: str, tmp_path: Path, command: tuple[str, ...], extra: str) -> None:
    assert finetune(absent, tmp_path, command[0], "--help")[0] == 0
    code, out, err = finetune(absent, tmp_path, *command)
    assert (code, out) == (2, "")
    assert f"[{extra}]'" in err
    assert "Traceback" not in err
