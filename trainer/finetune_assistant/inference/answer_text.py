"""From the ids of an answer to the text that may be shown, piece by piece.

In: ids, one after another, and how they decode. Out: text that never has to be taken back: whole characters, without what the template
writes before an answer, and without any part of a text that ends one. Models and terminals are unknown here.
"""

from collections.abc import Callable, Sequence
from typing import Any

Decode = Callable[[Sequence[int]], str]


class AnswerText:
    """The text of an answer that grows."""

    def __init__(self, decode: Decode, *, lead: str = "", stop_texts: Sequence[str] = ()) -> None:
        """`lead`: what stands before the answer and is no part of it. `stop_texts`: the answer is over where one of them begins."""
        self._decode, self._lead, self._stop_texts = decode, lead, tuple(stop_texts)
        self._raw = ""
        self._ids: list[int] = []
        self._begin = self._end = 0  # ids in between give a token its neighbour: some tokenizers write a space only after one
        self.text = ""

    def add(self, token_id: int) -> str:
        """Text that may be shown now: often a word, at times nothing."""
        self._ids.append(token_id)
        self._take(whole=False)
        return self._shown(whole=False)

    def close(self) -> str:
        """The rest: no token follows."""
        self._take(whole=True)
        return self._shown(whole=True)

    def _take(self, *, whole: bool) -> None:
        """Decode what is new. A character of several tokens decodes to U+FFFD until the last one is there."""
        text = self._decode(self._ids[self._begin :])
        if text.endswith("\ufffd") and not whole:
            return
        self._raw += text[len(self._decode(self._ids[self._begin : self._end])) :]
        self._begin, self._end = self._end, len(self._ids)

    def _shown(self, *, whole: bool) -> str:
        text = answer_of(self._raw, lead=self._lead, stop_texts=self._stop_texts, whole=whole, since=len(self.text))
        new, self.text = text[len(self.text) :], text
        return new


def answer_of(raw: str, *, lead: str = "", stop_texts: Sequence[str] = (), whole: bool = True, since: int = 0) -> str:
    r"""What of a decoded answer may be shown. `since`: how much of it is known to hold no stop text.

    >>> answer_of(" Hi.\n\nHuman: ", lead=" ", stop_texts=["\nHuman:"])
    'Hi.'
    >>> answer_of(" Hi.\n\nHum", lead=" ", stop_texts=["\nHuman:"], whole=False)
    'Hi.'
    """
    if not whole and lead.startswith(raw):
        return ""
    text = raw.removeprefix(lead)
    if not stop_texts:
        return text
    found = [place for stop in stop_texts if (place := text.find(stop, since)) >= 0]
    if found:
        return text[: min(found)].rstrip()
    if not whole:
        open_ends = (
            text[: len(text) - length] for stop in stop_texts for length in range(len(stop) - 1, 0, -1) if text.endswith(stop[:length])
        )
        text = min(open_ends, key=len, default=text)
    # White space may stand before a stop text, and is of no use at the end.
    return text.rstrip()


class StopTexts:
    """A stopping criterion of transformers: a sequence is over when its new tokens hold one of some texts, however tokens divide it."""

    def __init__(self, decode: Decode, texts: Sequence[str], *, prompt_length: int) -> None:
        """`prompt_length`: tokens of each sequence before its answer, padding counted."""
        self._decode, self._texts, self._prompt = decode, tuple(texts), prompt_length
        # Each token but a control token has a byte of text at least.
        self._most_tokens = max(len(text.encode()) for text in texts)
        self.ended_at: dict[int, int] = {}  # sequence -> new tokens when its text was there

    def __call__(self, input_ids: Any, _scores: Any, **_kwargs: Any) -> Any:
        """`input_ids`: (sequences, tokens). A bool for each sequence."""
        import torch

        length = input_ids.shape[1] - self._prompt
        tails = input_ids[:, self._prompt :][:, -self._most_tokens :].tolist()
        for index, tail in enumerate(tails):
            if index not in self.ended_at:
                text = self._decode(tail)
                if any(stop in text for stop in self._texts):
                    self.ended_at[index] = length
        done = [index in self.ended_at for index in range(len(tails))]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)
