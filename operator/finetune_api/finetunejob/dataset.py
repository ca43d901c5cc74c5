"""`spec.dataset`: sources, filters, what is held out."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, model_validator

from finetune_api.finetunejob.effects import Effect
from finetune_api.finetunejob.places import address_cel, hub_place_cel, is_address, is_hub_place
from finetune_api.finetunejob.types import Natural, Place, Positive, SecretKey, SecretName, Spec, Word, at_most_one


class Columns(Spec):
    """Column names that differ from what the format expects."""

    messages: Word | None = Field(default=None, description="Column of `messages` or `conversations`.")
    prompt: Word | None = Field(default=None, description="Column of the user's text.")
    completion: Word | None = Field(default=None, description="Column of the assistant's text.")
    context: Word | None = Field(default=None, description="Column of additional input (alpaca `input`, dolly `context`).")
    system: Word | None = Field(default=None, description="Column of a system text.")
    tools: Word | None = Field(default=None, description="Column of the functions that the assistant could call.")
    text: Word | None = Field(default=None, description="Column of a document, for `text`.")
    tree: Word | None = Field(default=None, description="Column that groups rows which must stay on one side of the split.")


class MessageProperties(Spec):
    """Keys of a message that differ from those of `messages` (`role`, `content`, ...) or `sharegpt` (`from`, `value`)."""

    role: Word | None = Field(default=None, description="Key of who speaks.")
    content: Word | None = Field(default=None, description="Key of the text.")
    reasoning_content: Word | None = Field(default=None, description="Key of an assistant's reasoning.")
    tool_calls: Word | None = Field(default=None, description="Key of an assistant's calls of tools.")
    tool_call_id: Word | None = Field(default=None, description="Key of the call that a tool answers.")
    name: Word | None = Field(default=None, description="Key of the tool that answers.")
    train: Word | None = Field(default=None, description="Key that says whether an assistant message is learnt.")


RoleNames = Annotated[list[Word], Field(max_length=32)]


class RoleMapping(Spec):
    """Names that the rows give to roles, beside the usual ones."""

    system: RoleNames = Field(default=[], description="Names of the system's messages.")
    user: RoleNames = Field(default=[], description="Names of the user's messages.")
    assistant: RoleNames = Field(default=[], description="Names of the assistant's messages, such as `bot`.")
    tool: RoleNames = Field(default=[], description="Names of tools' answers.")


class DataFilter(Spec):
    """Which dialogues are used; the paths of an OASST tree, or rows with a column of languages."""

    languages: Annotated[list[Word], Field(max_length=64)] = Field(
        default=[],
        description="Keep paths whose every message is in one of these languages, and rows whose column `lang` or `language` names one; "
        "empty keeps all.",
    )
    top_answers: Positive | None = Field(
        default=None, description="For `oasst`: follow only the k best-ranked assistant replies to each message."
    )
    rejected: Literal["drop", "keep"] = Field(
        default="drop", description="For `oasst`: what happens to messages that reviewers rejected (`review_result: false`)."
    )


Format = Literal["auto", "messages", "prompt-completion", "oasst", "sharegpt", "alpaca", "dolly", "text", "tokenized"]


_CHATS: Final[tuple[Format, ...]] = ("messages", "sharegpt")
_SINGLE: Final[tuple[Format, ...]] = ("prompt-completion", "alpaca", "dolly")
# The formats that read each field of `columns`; `oasst` has columns of its own.
COLUMN_READERS: Final[dict[str, tuple[Format, ...]]] = {
    "messages": _CHATS,
    "prompt": _SINGLE,
    "completion": _SINGLE,
    "context": _SINGLE,
    "system": (*_CHATS, *_SINGLE),
    "tools": (*_CHATS, *_SINGLE),
    "text": ("text",),
    "tree": (*_CHATS, *_SINGLE, "text", "tokenized"),
}


def _read_by(field: str, formats: tuple[Format, ...]) -> Effect:
    """The field acts on these formats, and where the format isn't known yet: then preparation tells."""
    names = [*formats]
    return Effect(
        field=field,
        acts=lambda source: source.format in ("auto", *formats),
        cel=f"!has(self.format) || self.format in {['auto', *names]}",
        message=f"acts on format {_alternatives(names)} only, and this source has another",
        remedy=f"remove it, or set format: {names[0]}",
    )


def _alternatives(names: list[Format]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _at_the_hub(field: str, message: str) -> Effect:
    return Effect(field=field, acts=lambda source: is_hub_place(source.path), cel=hub_place_cel("path"), message=message)


class DataSource(Spec):
    """One source of dialogues."""

    path: Place = Field(
        description="Hub data set (`org/name`), `s3://bucket/key-or-prefix`, the same at `gs://` or `az://`, or a file or folder "
        "(`./x`, `../x`, `/x`; relative to the job file).",
    )
    config: Word | None = Field(default=None, description="Configuration of a Hub data set.")
    revision: Word = Field(default="main", description="Branch, tag or commit of a Hub data set.")
    split: Word = Field(default="train", description="Split to train on. `train` falls back to `train_ift`, with a notice.")
    format: Format = Field(default="auto", description="Schema of the rows; `auto` takes that of the first row that fits one.")
    columns: Columns = Field(default=Columns(), description="Column names that differ from the format's own.")
    message_property_mappings: MessageProperties = Field(
        default=MessageProperties(), description="Keys inside a message that differ from the format's own, such as `role: from`."
    )
    roles: RoleMapping = Field(default=RoleMapping(), description="Names of roles beside the usual ones, such as `assistant: [narrator]`.")
    html: Literal["auto", "keep", "markdown"] = Field(
        default="auto",
        description="For `sharegpt`: HTML as text. `auto` turns conversations that are a chat page as a whole into Markdown, "
        "`markdown` every answer that is HTML from end to end, `keep` none.",
    )
    filter: DataFilter = Field(default=DataFilter(), description="Which dialogues are used.")
    weight: Annotated[float, Field(gt=0.0)] = Field(
        default=1.0, description="Share of the source's dialogues: 0.5 uses a seeded half of its trees, 2.0 each twice."
    )
    limit: Positive | None = Field(default=None, description="At most this many dialogues, before the weight.")
    token_secret: SecretKey | None = Field(default=None, description="Hub token for a gated or private data set.")
    credentials_secret: SecretName | None = Field(
        default=None, description="Keys for a source in object storage; absent uses those of the checkpoints."
    )

    EFFECTS: ClassVar[tuple[Effect, ...]] = (
        _at_the_hub("config", "names a configuration of a Hub data set, and this source is none"),
        _at_the_hub("revision", "names a branch, tag or commit of a Hub data set, and this source is none"),
        *(_read_by(f"columns.{column}", formats) for column, formats in COLUMN_READERS.items()),
        # A prompt and its completion may be lists of messages.
        *(_read_by(f"message_property_mappings.{name}", (*_CHATS, "prompt-completion")) for name in MessageProperties.model_fields),
        *(_read_by(f"roles.{name}", (*_CHATS, "prompt-completion")) for name in RoleMapping.model_fields),
        _read_by("html", ("sharegpt",)),
        _read_by("filter.languages", ("oasst", *_CHATS, *_SINGLE, "text")),
        _read_by("filter.top_answers", ("oasst",)),
        _read_by("filter.rejected", ("oasst",)),
        _at_the_hub("token_secret", "is a token for the Hub, and this source is none of the Hub's"),
        Effect(
            field="credentials_secret",
            acts=lambda source: is_address(source.path),
            cel=address_cel("path"),
            message="holds keys of object storage, and this source is at no address such as s3://bucket/key",
        ),
    )


class EvaluationData(Spec):
    """Held-out dialogues: a split of the same sources, or a share of the training split taken by tree."""

    split: Word | None = Field(default=None, description="Split to evaluate on. `test` falls back to `test_ift`, with a notice.")
    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(default=None, description="Share of conversation trees held out.")

    @model_validator(mode="after")
    def _one_way(self) -> "EvaluationData":
        at_most_one(self, "split", "fraction")
        return self


class Dataset(Spec):
    """What is learnt from."""

    sources: Annotated[list[DataSource], Field(min_length=1, max_length=64)] = Field(description="A mixture of sources.")
    evaluation: EvaluationData | None = Field(default=None, description="Held-out dialogues; absent means no evaluation loss.")
    max_invalid_rows: Natural = Field(
        default=0, description="Rows that may be wrong and are then dropped and reported; one more refuses the data."
    )
    overlong_turns: Literal["drop", "cut"] = Field(
        default="drop",
        description="What happens to one turn that is longer than a row: `drop` leaves out the exchange that it is in, a question with its "
        "answer; `cut` learns as much of an answer as fits, without its end token, and an answer whose question does not fit by itself. "
        "Counted either way.",
    )
    repeated_messages: Literal["every", "once"] = Field(
        default="every", description="`once` supervises an assistant message that several paths of a tree share in one of them only."
    )
    leading_assistant_turns: Literal["drop", "refuse"] = Field(
        default="drop",
        description="Turns before the first user turn: left out and counted, as FastChat does with ShareGPT, or the row is wrong.",
    )
    trailing_user_turns: Literal["trim", "keep"] = Field(default="trim", description="Turns after the last assistant turn.")
    processes: Positive = Field(default=2, description="Processes that read and tokenise.")

    EFFECTS: ClassVar[tuple[Effect, ...]] = (
        Effect(
            field="repeated_messages",
            acts=lambda dataset: any(source.format in ("auto", "oasst") for source in dataset.sources),
            cel="self.sources.exists(s, !has(s.format) || s.format in ['auto', 'oasst'])",
            message="acts on the trees of format oasst only, and no source has it",
            remedy="remove it, or give a source the format oasst",
        ),
    )
