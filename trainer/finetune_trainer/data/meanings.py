"""What every known column of a row and every known key of a message means: the one table, which parsing walks.

learnt and context: it becomes part of the dialogue, as `use` says. mask: it decides what of the dialogue is learnt. told: it is not
read, and a notice says so with the number of rows. refused: a row that has a value there is wrong. What stands in no row of the tables
is told, too, by name. Columns that a format is made of are in `formats`; a value that is null or empty says nothing.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

Meaning = Literal["learnt", "context", "mask", "told", "refused"]
Use = Literal["tools", "system", "history", "reasoning", "language", "tree", "calls", "name", "answers", "learn", "skip", "undesired", ""]

CHATS: Final = frozenset(("messages", "sharegpt"))
SINGLE: Final = frozenset(("prompt-completion", "alpaca", "dolly"))
DIALOGUES: Final = CHATS | SINGLE
ROWS: Final = DIALOGUES | {"text"}
ALL: Final = ROWS | {"tokenized"}

_PICTURES: Final = "is for models that see or hear; this trainer learns text"
_PREFERENCES: Final = "preference data, as for DPO; answers are learnt as they are, not compared"
_BESIDE: Final = "text beside the dialogue is not read; columns.system or columns.context name a column to be read"
_TOKENS: Final = "tokens made elsewhere are not read beside a dialogue, which is tokenised anew; format: tokenized reads them"
_WEIGHTS: Final = "rows are not weighted one by one; a source's weight is for all of its rows"
_ROW_FLAG: Final = "what is learnt is said by each message, not by the row"
_REQUEST: Final = "a setting of a request, which no template is given"

# Names of the flag that says that a message is learnt; those of its opposite are in the table.
_LEARNT: Final = (
    *("train", "training", "trainable", "trained", "learn", "learnt", "supervised", "supervise", "include_in_loss"),
    *("weight", "loss", "loss_weight", "loss_mask", "loss_scale", "compute_loss"),
)


@dataclass(frozen=True, slots=True)
class Known:
    """One row of a table. `use`: what it becomes; `because`: why it is told or refused."""

    names: tuple[str, ...]
    meaning: Meaning
    use: Use = ""
    because: str = ""
    formats: frozenset[str] = ROWS


COLUMNS: Final = (
    Known(("tools", "functions"), "context", "tools", formats=DIALOGUES),
    Known(("system", "system_prompt", "system_message"), "context", "system", formats=DIALOGUES),
    Known(("history",), "context", "history", formats=SINGLE),
    Known(("reasoning_content", "reasoning", "thinking"), "learnt", "reasoning", formats=SINGLE),
    Known(("lang", "language"), "context", "language"),
    Known(("message_tree_id",), "context", "tree", formats=ALL),
    Known(("images", "image", "videos", "video", "audios", "audio", "pixel_values"), "refused", because=_PICTURES, formats=ALL),
    Known(("label",), "mask", "undesired", because="marks an answer as undesired: preference data, as for KTO", formats=SINGLE),
    Known(("chosen", "rejected", "rejected_response", "margin"), "told", because=_PREFERENCES, formats=DIALOGUES),
    Known(("weight", "sample_weight", "loss_weight"), "told", because=_WEIGHTS),
    Known(("train", "training", "trainable", "mask", "masked", "loss", "loss_mask"), "told", because=_ROW_FLAG, formats=DIALOGUES),
    Known(("input_ids", "labels", "attention_mask", "completion_mask", "assistant_masks"), "told", because=_TOKENS),
    Known(("documents", "chat_template_kwargs", "tool_choice", "parallel_tool_calls", "response_format"), "told", because=_REQUEST),
    Known(("instruction", "input", "context", "background", "passage", "document"), "told", because=_BESIDE, formats=DIALOGUES),
    Known(("history",), "told", because="earlier turns beside the messages are not read; put them first in the messages", formats=CHATS),
)

MESSAGE_KEYS: Final = (
    Known(("reasoning_content", "reasoning", "thinking"), "learnt", "reasoning"),
    Known(("tool_calls", "function_call"), "learnt", "calls"),
    Known(("name",), "context", "name"),
    Known(("tool_call_id",), "context", "answers"),
    Known(_LEARNT, "mask", "learn"),
    Known(("mask", "masked", "ignore", "ignored", "ignore_loss", "skip", "no_loss", "exclude", "exclude_from_loss"), "mask", "skip"),
    Known(("train_detail", "training_detail"), "refused", because="chooses parts of a message for training; a message is learnt or not"),
    Known(("images", "image", "image_url", "videos", "video", "audios", "audio"), "refused", because=_PICTURES),
    Known(("refusal", "channel", "recipient", "prefix", "end_turn"), "told", because="templates are not given it"),
)

_CAMEL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PREFIX: Final = re.compile(r"^(is|do|should|to_be|use_for)_")
KEYS: Final = {name: known for known in MESSAGE_KEYS for name in known.names}


def meaning_of_key(key: str) -> Known | None:
    """What a key of a message means; `toolCalls`, `is_masked` and `shouldTrain` are spellings of what is in the table.

    >>> [known.use for key in ("toolCalls", "is_masked", "shouldTrain") if (known := meaning_of_key(key))]
    ['calls', 'skip', 'learn']
    """
    return KEYS.get(key) or KEYS.get(_PREFIX.sub("", _CAMEL.sub("_", key).lower().replace("-", "_")))


def meaning_of(column: str, form: str) -> Known | None:
    """What a column means beside the format's own; None: nothing that is known."""
    return next((known for known in COLUMNS if column in known.names and form in known.formats), None)


def says_nothing(value: Any) -> bool:
    """Whether a value is as good as none. Zero and false say something."""
    return value is None or (isinstance(value, str | list | tuple | dict | bytes) and not value)


@dataclass(frozen=True, slots=True)
class Shape:
    """What the columns of a row are for, found once for all rows that have the same."""

    used: dict[str, str]  # by use: the column
    refused: tuple[tuple[str, str], ...]  # column, reason
    told: tuple[tuple[str, str], ...]
    undesired: tuple[str, str] | None  # a column whose false says that the answer is not wanted
    unread: tuple[str, ...]

    @property
    def plain(self) -> bool:
        """Whether nothing of a row has to be looked at beside the format's own columns."""
        return not (self.used or self.refused or self.told or self.undesired)


def shape_of(columns: Iterable[str], own: frozenset[str], form: str) -> Shape:
    """`own`: the columns that the format and the source's settings read themselves."""
    used: dict[str, str] = {}
    refused: list[tuple[str, str]] = []
    told: list[tuple[str, str]] = []
    unread: list[str] = []
    undesired: tuple[str, str] | None = None
    for column in columns:
        known = None if column in own else meaning_of(column, form)
        if column in own:
            continue
        if known is None or known.use in used:
            unread.append(column)
        elif known.use == "undesired":
            undesired = column, known.because
        elif known.use:
            used[known.use] = column
        else:
            (refused if known.meaning == "refused" else told).append((column, known.because))
    return Shape(used, tuple(refused), tuple(told), undesired, tuple(unread))
