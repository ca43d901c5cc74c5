"""Answers to many prompts: in batches of prompts of like length, so that little is padded.

In: a loaded model and prompts. Out: answers, as soon as they are there. A sampled answer depends on its own seed and on no other prompt
of its batch, save that matrix products of another shape may round otherwise in the last place. Files are unknown here.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune_assistant.inference.answer_text import StopTexts, answer_of
from finetune_assistant.inference.loading import LoadedModel
from finetune_assistant.inference.sampling import AS_THE_MODEL, Sampling, end_ids, generation_config, longest_answer

FinishReason = Literal["end", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt to answer. `seed`: of its draws, unless the likeliest tokens are taken."""

    ids: Sequence[int]
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """An answer. `index`: of its request."""

    index: int
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    new_tokens: int


def answers(
    loaded: LoadedModel, requests: Sequence[Request], *, sampling: Sampling = AS_THE_MODEL, batch_size: int = 8
) -> Iterator[list[Generated]]:
    """Answer requests, a batch at a time, the longest prompts first: what doesn't fit in memory fails at once."""
    longest = longest_answer(loaded.model, sampling, loaded.longest_answer)
    order = sorted(range(len(requests)), key=lambda index: -len(requests[index].ids))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield _batch(loaded, [(index, requests[index]) for index in chosen], sampling, longest)


def seed_of(seed: int, digest: str, occurrence: int, sample: int) -> int:
    """The seed of one sample, from that of all: the same wherever its prompt stands in a file."""
    text = f"{seed}/{digest}/{occurrence}/{sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _batch(loaded: LoadedModel, batch: Sequence[tuple[int, Request]], sampling: Sampling, longest: int) -> list[Generated]:
    import torch
    from transformers import LogitsProcessorList, StoppingCriteriaList

    model, prompter = loaded.model, loaded.prompter
    config = generation_config(model, sampling, max_new_tokens=longest, stop_ids=prompter.stop_ids)
    drawn = _drawn(config, [request.seed for _, request in batch])
    width = max(len(request.ids) for _, request in batch)
    # Padding stands on the left: an answer begins right after its prompt.
    rows = [[config.pad_token_id] * (width - len(request.ids)) + list(request.ids) for _, request in batch]
    mask = [[0] * (width - len(request.ids)) + [1] * len(request.ids) for _, request in batch]
    texts = StopTexts(prompter.decode, prompter.stop_texts, prompt_length=width) if prompter.stop_texts else None
    output = model.generate(
        torch.tensor(rows, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        generation_config=config,
        logits_processor=LogitsProcessorList(drawn),
        stopping_criteria=StoppingCriteriaList([] if texts is None else [texts]),
    )
    ends = set(end_ids(config.eos_token_id, ()))
    found = []
    for place, ((index, request), row) in enumerate(zip(batch, output[:, width:].tolist(), strict=True)):
        stop = next((position for position, token_id in enumerate(row, start=1) if token_id in ends), None)
        by_text = None if texts is None else texts.ended_at.get(place)
        count = min(len(row) if stop is None else stop, len(row) if by_text is None else by_text)
        text = answer_of(prompter.decode(row[:count]), lead=prompter.answer_lead, stop_texts=prompter.stop_texts)
        reason: FinishReason = "length" if stop is None and by_text is None else "end"
        found.append(Generated(index=index, text=text, finish_reason=reason, prompt_tokens=len(request.ids), new_tokens=count))
    return found


def _drawn(config: Any, seeds: Sequence[int]) -> list[Any]:
    """Processors that draw each token, where `config` asks for sampling; `config` is left to take the likeliest.

    Transformers (5.23) draws a batch's tokens from one stream of random numbers, and applies temperature and the like after any processor
    that it is given, so both are done here.
    """
    from transformers.generation.logits_process import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    if not config.do_sample:
        return []
    wanted = [(TemperatureLogitsWarper, config.temperature, 1.0), (TopKLogitsWarper, config.top_k, 0)]
    wanted += [(TopPLogitsWarper, config.top_p, 1.0), (MinPLogitsWarper, config.min_p, 0.0)]
    found: list[Any] = [warper(value) for warper, value, without in wanted if value is not None and value != without]
    config.do_sample, config.temperature, config.top_k, config.top_p, config.min_p = False, 1.0, 50, 1.0, None
    return [*found, _OwnDraws(seeds)]


class _OwnDraws:
    """A processor that draws one token for each sequence, from a stream of random numbers of its own, and leaves no other possible."""

    def __init__(self, seeds: Sequence[int]) -> None:
        import random

        self._streams = [random.Random(seed) for seed in seeds]

    def __call__(self, _input_ids: Any, scores: Any) -> Any:
        """`scores`: logits of (sequences, vocabulary)."""
        import torch

        draws = torch.tensor([[stream.random()] for stream in self._streams], dtype=torch.float32, device=scores.device)
        reached = scores.softmax(dim=-1).cumsum(dim=-1)
        whole = reached[:, -1:]
        # Tokens of no probability reach no further than the token before: neither is one of them the first to pass the draw, nor, where
        # rounding lets none pass it, the first to reach the whole.
        chosen = torch.minimum((reached <= draws * whole).sum(dim=-1), (reached < whole).sum(dim=-1))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)
