"""A job's user reads fields, and no options of a command that wasn't typed."""

import re
from pathlib import Path

import pytest

from finetune_api.errors import InvalidSpec, Problem, UnknownTask
from finetune_assistant import evaluation
from finetune_assistant.job_evaluation.words import fields_are_named, in_words_of_a_job

ASSISTANT = Path(evaluation.__file__).parent.parent
# Files whose messages an evaluation of a job may meet, and the options in them that it never does: it gives no such setting.
MET = (
    "evaluation",
    "endpoint/client.py",
    "endpoint/budget.py",
    "judging/run.py",
    "judging/folder.py",
    "answers/samples.py",
    "answers/answer_file.py",
)
# Of a command that a message tells its reader to type.
TO_TYPE = {"--decontaminate"}
NEVER_MET = {
    "--device",
    "--perplexity",
    "--chat-template",
    "--budget-usd",
    "--against",
    "--overwrite",
    "--no-chat-template",
    "--max-tokens",
}


def test_every_option_of_a_message_that_may_be_met_has_a_field() -> None:
    files = [file for name in MET for file in ([ASSISTANT / name] if name.endswith(".py") else (ASSISTANT / name).glob("*.py"))]
    options = {option for file in files for option in re.findall(r"--[a-z][a-z-]+", file.read_text(encoding="utf-8"))}
    assert {"--tasks", "--base-url"} <= options
    assert {option for option in options - NEVER_MET - TO_TYPE if "--" in in_words_of_a_job(option)} == set()


def test_notes_lose_what_only_a_command_can_do() -> None:
    note = "models that have a chat template are asked in it, the others in plain text; --no-chat-template asks all in plain text"
    assert in_words_of_a_job(note) == "models that have a chat template are asked in it, the others in plain text"
    readable = "and raise --max-tokens, or choose another --model, and another --output"
    assert in_words_of_a_job(readable) == "and choose another spec.evaluation.judge.model"
    assert in_words_of_a_job("by dialogue prompting (--prompt general; --prompt coding or --prompt FILE)") == "by dialogue prompting"


def test_errors_keep_their_class() -> None:
    with pytest.raises(UnknownTask, match=r"^spec\.evaluation\.tasks x: no$"), fields_are_named():
        raise UnknownTask("--tasks x: no")
    problem = InvalidSpec([Problem("spec.evaluation.judge", "is wrong")])
    with pytest.raises(InvalidSpec) as raised, fields_are_named():
        raise problem
    assert raised.value is problem
