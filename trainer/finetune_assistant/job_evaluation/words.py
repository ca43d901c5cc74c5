"""Messages of rooms that name options of a command line, in a job's words.

In: a text as `finetune evaluate`, `generate` and `judge` say it. Out: the same with the job's fields in place of their options.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from finetune_api.errors import FineTuneError

_FIELDS: Final = {
    "--tasks": "spec.evaluation.tasks",
    "--task-data": "spec.evaluation.taskData",
    "--num-fewshot": "spec.evaluation.numFewshot",
    "--batch-size": "spec.evaluation.batchSize",
    "--base-url": "spec.evaluation.judge.baseUrl",
    "--model": "spec.evaluation.judge.model",
    "--budget-tokens": "spec.evaluation.judge.maxTokens",
    "--max-new-tokens": "maxNewTokens of spec.evaluation.samples or spec.generation",
    "--output": "the evaluation's folder",
}
# What only whoever types a command can do.
_REMEDIES: Final = re.compile(
    r"; --no-chat-template asks all in plain text|, or --overwrite|raise --max-tokens, or |, and another --output| \(--prompt [^)]*\)"
)
_OPTION: Final = re.compile("|".join(rf"{re.escape(option)}(?![\w-])" for option in sorted(_FIELDS, key=len, reverse=True)))
_COMMAND: Final = re.compile(r"(`[^`]*`)")


def in_words_of_a_job(text: str) -> str:
    """The text with fields for options; commands in backticks stay as they are.

    >>> in_words_of_a_job("--tasks arx: there is no such task; `finetune evaluate --tasks list` lists them")
    'spec.evaluation.tasks arx: there is no such task; `finetune evaluate --tasks list` lists them'
    """
    parts = _COMMAND.split(_REMEDIES.sub("", text))
    return "".join(part if part.startswith("`") else _OPTION.sub(lambda found: _FIELDS[found.group()], part) for part in parts)


@contextmanager
def fields_are_named() -> Iterator[None]:
    """Errors name fields of the job, not options."""
    try:
        yield
    except FineTuneError as error:
        told = in_words_of_a_job(str(error))
        if told == str(error):
            raise
        raise type(error)(told) from error
