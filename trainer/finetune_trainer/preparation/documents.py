"""Documents and rows of tokens as examples: there are no turns, so neither template nor labels have a part in it.

In: what `data.tokens` read, and a tokenizer. Out: `Encoded`, as `labels` gives it for dialogues. A document is divided where a row is full,
and each of its tokens is learnt exactly once; a row of tokens is never divided, for nobody knows where its turns are.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from tokenizers import Tokenizer

from finetune_api.errors import InvalidModel
from finetune_trainer.data.dialogues import Document, TokenRow
from finetune_trainer.preparation.examples import Encoded, Example, OverlongTurns


def encode_document(document: Document, tokenizer: Tokenizer, end_of_text: str | None, max_length: int | None = None) -> Encoded:
    """All of a document, with the end of text behind it; control tokens in it are those tokens, for it may be a rendered dialogue."""
    end = None if end_of_text is None else tokenizer.token_to_id(end_of_text)
    if end is None:
        raise InvalidModel("format text ends each document with the end of text, and the tokenizer names none; set eos_token in its files")
    ids = tokenizer.encode(document.text).ids
    if ids[-1:] != [end]:
        ids.append(end)
    return Encoded(examples=list(_pieces(ids, max_length or len(ids))))


def _pieces(ids: list[int], max_length: int) -> Iterator[Example]:
    """Stretches of at most `max_length` tokens. Each later one begins with the last token before it, from which its first is predicted.

    >>> [(piece.input_ids, piece.supervised) for piece in _pieces([1, 2, 3, 4, 5], 3)]
    [([1, 2, 3], [range(0, 3)]), ([3, 4, 5], [range(1, 3)])]
    """
    step = max(max_length - 1, 1)
    for start in range(0, max(len(ids) - 1, 1), step):
        piece = ids[start : start + max_length]
        yield Example(piece, [range(int(start > 0), len(piece))])


def encode_tokens(row: TokenRow, size: int, max_length: int | None = None, overlong_turns: OverlongTurns = "drop") -> Encoded:
    """A row as it is; refused if one of its ids is none of a vocabulary of `size`."""
    unknown = next((token for token in row.input_ids if token >= size), None)
    if unknown is not None:
        return Encoded(refused=f"column 'input_ids': {unknown} is no id of the tokenizer, whose last is {size - 1}")
    ids, supervised = list(row.input_ids), list(row.supervised)
    if max_length is not None and len(ids) > max_length:
        if overlong_turns == "drop":
            return Encoded(dropped_turns=1)
        ids, supervised = ids[:max_length], supervised[:max_length]
        example = Example(ids, _spans(supervised))
        return Encoded(examples=[example], cut_turns=1) if example.num_supervised else Encoded(dropped_turns=1)
    example = Example(ids, _spans(supervised))
    return Encoded(examples=[example] if example.num_supervised else [])


def _spans(supervised: Iterable[bool]) -> list[range]:
    """The stretches that are learnt."""
    spans, position = [], 0
    for learnt, stretch in groupby(supervised):
        stop = position + sum(1 for _ in stretch)
        if learnt:
            spans.append(range(position, stop))
        position = stop
    return spans


def encode_without_turns(
    items: Sequence[Document | TokenRow],
    tokenizer: Tokenizer,
    end_of_text: str | None,
    *,
    max_length: int | None = None,
    overlong_turns: OverlongTurns = "drop",
) -> list[Encoded]:
    """Each item's examples."""
    size = max(tokenizer.get_vocab().values()) + 1 if any(isinstance(item, TokenRow) for item in items) else 0
    return [
        encode_document(item, tokenizer, end_of_text, max_length)
        if isinstance(item, Document)
        else encode_tokens(item, size, max_length, overlong_turns)
        for item in items
    ]
