"""What is known of a model and of data before a job is written for them: the words that `look` fills and `draft` reads.

In and out: nothing. No file is opened here.
"""

from dataclasses import dataclass, field

from finetune_api.finetunejob import BaseModelSpec, DataSource, ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModel:
    """A base model, as a job names it. `away`: why it could not be looked at; then `shape` and `template` are None."""

    spec: BaseModelSpec
    shape: ModelShape | None = None
    template: str | None = None  # what a job trains it with: "model", its tokenizer's own, or "default"
    template_fault: str = ""  # why it is "default", and not the template that was wanted or that the tokenizer has
    away: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSource:
    """A source, as a job names it, and what its first rows are. `away`: why it could not be looked at; then nothing was counted."""

    source: DataSource
    format: str = ""
    rows: int = 0  # that were looked at
    is_all: bool = True  # no row is left that was not looked at
    usable: int = 0  # dialogues, documents or rows of tokens: what can be learnt from
    messages: int = 0  # of all of them
    trees: int = 0  # conversations, which stay on one side of a split
    wrong: int = 0  # rows that a job refuses
    first_wrong: str = ""  # with its place
    left_out: dict[str, int] = field(default_factory=dict)  # what is not used of right rows, by reason
    has_test: bool = False
    encoded: int = 0  # of the usable, by the model's tokenizer
    lengths: tuple[int, ...] = ()  # tokens of each example that came of them
    divides: bool = False  # they are documents, which are divided where a row is full
    away: str = ""

    @property
    def examples(self) -> int:
        """How many examples the usable rows give, as far as they were encoded."""
        return self.usable * len(self.lengths) // self.encoded if self.encoded else self.usable
