"""The story of curation: parsed rows are measured, told their language, compared with one another and with evaluation sets.

In: parsed rows, in their order, and a `Curation`, which says what is looked at and what is left out. Out: each row with the first reason
against it, if there is one. The cheapest question comes first, and a row that one question refuses is not asked the next. What is
remembered are signatures of kept rows and the runs of words of the evaluation sets, never the rows.

Where rows come from, and what becomes of them (`rows`, `writing`, `statistics`), is the caller's business.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from finetune_assistant.curation.contamination import CONTAMINATED, EvaluationSets, Hit
from finetune_assistant.curation.filters import Lengths
from finetune_assistant.curation.language import OTHER_LANGUAGE, TOO_SHORT, language_of
from finetune_assistant.curation.near_duplicates import NEAR_DUPLICATE, NearDuplicates
from finetune_assistant.curation.texts import NewText, spoken
from finetune_assistant.curation.words import word_hashes
from finetune_trainer.data.dialogues import Parsed, TokenRow

NumTokens = Callable[[list[Parsed]], list[int]]
_ROWS_TO_ENCODE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Curation:
    """What is asked of a row.

    `languages`: those that are kept; None asks for no language, none of them asks and keeps all. `similarity`: from which on an earlier row
    makes a row a near-duplicate. `keeps_contaminated`: hits are told, and their rows kept. `passes_tokens`: rows that were tokenised
    elsewhere have no text, and are asked nothing; without it they are an error where anything is asked.
    """

    lengths: Lengths = field(default_factory=Lengths)
    languages: frozenset[str] | None = None
    similarity: float | None = None
    evaluation_sets: EvaluationSets | None = None
    keeps_contaminated: bool = False
    passes_tokens: bool = False
    seed: int = 1


class Examined(NamedTuple):
    """A row, and what was found: the reason for which it is left out, its language if that was asked and can be told, hits."""

    item: Parsed
    refusal: str | None = None
    language: str | None = None
    hits: tuple[Hit, ...] = ()


def examined(items: Iterable[Parsed], curation: Curation, num_tokens: NumTokens | None = None) -> Iterator[Examined]:
    """Every row with the first reason against it. `num_tokens` counts those of some rows, for a bound on them.

    Raises InvalidData for a row that was tokenised elsewhere, if its text is asked about and such rows don't pass.
    """
    lengths, languages, sets = curation.lengths, curation.languages, curation.evaluation_sets
    near_duplicates = None if curation.similarity is None else NearDuplicates(curation.similarity, seed=curation.seed)
    new_text = NewText()
    measured = lengths.are_any
    for item, tokens in _with_tokens(items, num_tokens):
        if curation.passes_tokens and isinstance(item, TokenRow):
            yield Examined(item)
            continue
        refusal = lengths.refusal(item) if measured else None
        if refusal is None:
            refusal = lengths.refusal_of_tokens(tokens)
        language = None
        if refusal is None and languages is not None:
            language = language_of(spoken(item)) or TOO_SHORT
            refusal = OTHER_LANGUAGE if languages and language not in languages and language != TOO_SHORT else None
        hits: tuple[Hit, ...] = ()
        if refusal is None and (near_duplicates is not None or sets is not None):
            text = "\n".join(spoken(item))
            hashes = word_hashes(text)
            if near_duplicates is not None:
                new = new_text.of(item)
                earlier = near_duplicates.earlier(hashes if new == text else word_hashes(new))
                refusal = NEAR_DUPLICATE if earlier is not None else None
            if refusal is None and sets is not None:
                hits = tuple(sets.hits(item.source, item.row, text, hashes))
                refusal = CONTAMINATED if hits and not curation.keeps_contaminated else None
        yield Examined(item, refusal, language, hits)


def _with_tokens(items: Iterable[Parsed], num_tokens: NumTokens | None) -> Iterator[tuple[Parsed, int]]:
    """Each row and how many tokens it has; 0 where nobody counts them."""
    if num_tokens is None:
        for item in items:
            yield item, 0
        return
    remaining = iter(items)
    while chunk := list(islice(remaining, _ROWS_TO_ENCODE)):
        yield from zip(chunk, num_tokens(chunk), strict=True)
