"""The fields with which a page's visitor says how answers are drawn.

In: texts, as they were written, and often none: gradio's own fields of numbers (6.31) turn an empty one into 0. Out: a Sampling, or an
error that names the field. Pages and models are unknown here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from finetune_api.errors import InvalidInput
from finetune_assistant.inference.sampling import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A number of Sampling. `label` is what the page calls it, `info` what it does."""

    name: str
    label: str
    info: str
    least: float
    most: float = float("inf")
    whole: bool = False


# With the bounds that the command line has.
FIELDS: Final = (
    Field(name="temperature", label="Temperature", info="How freely to choose; 0 takes the likeliest token each time.", least=0),
    Field(name="top_k", label="Top k", info="Choose among so many of the likeliest tokens; 0: among all.", least=0, whole=True),
    Field(name="top_p", label="Top p", info="Choose among the likeliest tokens of this probability.", least=0, most=1),
    Field(name="repetition_penalty", label="Repetition penalty", info="Above 1: what was there before is less likely.", least=0.01),
    Field(name="max_new_tokens", label="Longest answer", info="In tokens.", least=1, whole=True),
    Field(name="seed", label="Seed", info="Makes the first answers of a talk repeatable.", least=0, whole=True),
)


def sampling_of(texts: Sequence[str], *, greedy: bool) -> Sampling:
    """Texts in the order of FIELDS; an empty one leaves it to the model. Raises InvalidInput.

    >>> sampling_of(["0.5", "", "", "", "64", ""], greedy=False).max_new_tokens
    64
    """
    found: dict[str, float | int] = {}
    for field, text in zip(FIELDS, texts, strict=True):
        if text.strip():
            value = _number(field, text.strip())
            found[field.name] = int(value) if field.whole else value
    return Sampling(greedy=greedy, **found)  # type: ignore[arg-type]


def _number(field: Field, text: str) -> float:
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = float("nan")
    if field.least <= value <= field.most and (not field.whole or value.is_integer()):
        return value
    kind = "a whole number" if field.whole else "a number"
    bound = f"from {field.least:g} to {field.most:g}" if field.most < float("inf") else f"of {field.least:g} or more"
    raise InvalidInput(f"{field.label} is {text}; give {kind} {bound}, or nothing")
