"""A conversation as a file: one row of `messages`, which training reads as it is.

In and out: messages and a path. Models are unknown here.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from finetune_api.errors import InvalidData
from finetune_assistant.prompts.prompt_rows import asked
from finetune_trainer.data.dialogues import InvalidRow, Message


def save_talk(path: Path, messages: Sequence[Message], model: str) -> None:
    """Write a talk. A file that is there and isn't a talk is left alone. Raises InvalidData."""
    from finetune_trainer.files.atomic import write_atomically

    if path.exists():
        try:
            load_talk(path)
        except InvalidData:
            raise InvalidData(f"{path} is there and is no saved talk; give another name") from None
    row = {"model": model, "messages": [{"role": message.role, "content": message.content} for message in messages]}
    try:
        write_atomically(path, json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InvalidData(f"{path}: can't be written ({error.strerror}); give another place") from None


def load_talk(path: Path) -> list[Message]:
    """The messages of a saved talk, or of a file whose first line is a row of `messages`. Raises InvalidData."""
    try:
        row = json.loads(path.read_text(encoding="utf-8").partition("\n")[0])
        messages = row["messages"]
        if not isinstance(messages, list):
            raise TypeError(messages)
        # A talk ends with an answer; what can be asked ends with a question.
        return list(asked({"messages": [*messages, {"role": "user", "content": "?"}]}))[:-1]
    except OSError as error:
        raise InvalidData(f"{path}: can't be read ({error.strerror}); check the path") from None
    except (ValueError, KeyError, TypeError):
        raise InvalidData(f"{path}: no saved talk; give a file that /save wrote, or JSON lines with `messages`") from None
    except InvalidRow as error:
        raise InvalidData(f"{path}: {error}; correct it") from None
