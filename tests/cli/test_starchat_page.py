"""docs/starchat.md: its commands are real, what they read is there, and what it says of numbers and of end tokens holds."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.assistant.serving.chained_model import ANSWER, chained_run
from tests.cli.conftest import Finetune
from tests.conftest import ROOT
from typer.exceptions import TyperException

from finetune_cli.app import app

PAGE = (ROOT / "docs/starchat.md").read_text(encoding="utf-8")
TYPED = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
COMMANDS = [shlex.split(line)[1:] for line in TYPED if line.startswith("finetune ")]
OUTPUTS = {"-o", "--output", "--html", "--directory", "--pictures", "--key"}
# What the page says the reader has: of `make demo` and of the copy below it, of `finetune run examples/tiny.yaml`, and of the reader's own.
GIVEN = {"runs/demo", "./base", "benchmarks"}


def parsed(arguments: list[str]) -> Any:
    """The command that takes these arguments. Raises TyperException where none does."""
    command, rest = typer.main.get_command(app), list(arguments)
    while (commands := getattr(command, "commands", None)) is not None:
        if rest[0] not in commands:
            raise TyperException(f"no command {rest[0]}")
        command, *rest = commands[rest[0]], *rest[1:]
    command.make_context(str(command.name), rest)
    return command


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_of_the_page_is_one(arguments: list[str]) -> None:
    assert parsed(arguments).callback is not None


def test_an_option_that_does_not_exist_is_noticed() -> None:
    for arguments in (["chat", "./base", "--prompts", "coding"], ["data", "kat"], ["evaluate", "./base", "--samples", "many"]):
        with pytest.raises(TyperException):
            parsed(arguments)


def test_what_a_command_reads_is_in_the_repository_or_was_made_before() -> None:
    made = set(GIVEN)
    for arguments in COMMANDS:
        outputs = {value for option, value in pairwise(arguments) if option in OUTPUTS}
        for word in set(arguments) - outputs:
            named = re.fullmatch(r"[\w./-]+\.(?:jsonl|json|yaml|html)|(?:\./|runs/)\S+|judged|benchmarks", word)
            assert not named or word in made or (ROOT / word).exists(), f"{word} of {' '.join(arguments)}"
        made |= outputs


def test_other_commands_of_the_page_exist() -> None:
    assert [line for line in TYPED if not line.startswith("finetune ")] == ["make demo", "cp -r ~/.cache/finetune/smollm2 ./base"]
    makefile = (ROOT / "Makefile").read_text()
    assert "\ndemo:" in makefile
    assert "$(CACHE)/smollm2/model.safetensors" in makefile


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


def test_the_dialogue_is_shown_as_the_preview_shows_it(finetune: Finetune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    [command] = [arguments for arguments in COMMANDS if arguments[:2] == ["data", "preview"]]
    code, out, _ = finetune(*command)
    assert code == 0
    [shown] = re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)
    begins, ends = shown.rstrip("\n").split(" ... ")
    assert begins in out
    assert ends in out


def test_the_plan_says_what_the_page_says(finetune: Finetune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code, out, _ = finetune("plan", "examples/starchat-alpha.yaml", "--tokens", "7440000")
    assert code == 0
    for cell in ("87 in 3 epochs", "45.2 GiB", "30 min 28 s to 44 min 47 s", "32 to 47 % of the peak"):
        assert cell in " ".join(out.split())
    said = " ".join(PAGE.split())
    for words in ("87 steps, 45.2 GiB at the peak of a GPU, 30 to 45 minutes in steps",):
        assert words in said


@pytest.mark.parametrize("name", ["starchat-alpha", "tiny"])
def test_the_jobs_are_valid(name: str, finetune: Finetune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert finetune("validate", f"examples/{name}.yaml")[0] == 0


@pytest.fixture(scope="module")
def writes_the_next_question(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that begins a user's turn after its answer, in place of the end token."""
    return chained_run(tmp_path_factory.mktemp("runs") / "demo", ends_with=2) / "model"


def test_the_single_end_token_runs_on_and_ours_does_not(writes_the_next_question: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(writes_the_next_question)
    model = AutoModelForCausalLM.from_pretrained(writes_the_next_question)
    talk = [{"role": "user", "content": "How do I sort?"}]
    prompt = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)

    def answer(**stops: int) -> list[int]:
        with torch.no_grad():
            ids = model.generate(**prompt, do_sample=False, top_k=None, top_p=None, temperature=None, max_new_tokens=40, **stops)
        return list(ids[0, prompt["input_ids"].shape[1] :].tolist())

    user, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|user|>", "<|end|>"))
    runs_on, ends = answer(eos_token_id=end), answer()
    assert len(runs_on) == 40
    assert user in runs_on[:-1]
    assert ends[-1] == user
    assert tokenizer.decode(ends[:-1]) == ANSWER
