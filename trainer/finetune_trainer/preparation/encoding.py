"""Dialogues to arrays of tokens, in one process or several, with the same result.

In: chunks of dialogues, in order. Out: an `EncodedChunk` for each, in the same order, whoever encoded it. At most a few chunks
are under way at a time, so memory does not grow with the data. Where chunks come from and go to is `preparation`'s business.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from datetime import date
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune_api.errors import RunFailed
from finetune_api.finetunejob import TemplateSpec
from finetune_trainer.data.dialogues import Dialogue, Parsed
from finetune_trainer.preparation.documents import encode_without_turns
from finetune_trainer.preparation.examples import TOLD, Encoded, OverlongTurns
from finetune_trainer.preparation.labels import Encoder
from finetune_trainer.preparation.store import Integers, Side
from finetune_trainer.templates.registry import template_from_spec
from finetune_trainer.templates.tokenizer import read_tokenizer

# Large enough for the tokenizer's threads, small enough to be nothing in memory.
CHUNK_DIALOGUES = 256
# One process has done this much before others have started and learnt the words: some 16,000 dialogues.
_ALONE_CHUNKS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Dialogues of one source on one side of the split, in order."""

    side: Side
    part: int  # which reading of which source, for the statistics
    dialogues: list[Parsed] = field(default_factory=list)
    known: list[frozenset[int]] = field(default_factory=list)  # per dialogue: messages taught elsewhere
    copies: list[int] = field(default_factory=list)  # per dialogue: how often it is used


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedChunk:
    """Examples one after another. Lists name dialogues by their position in the chunk, once for each turn or example concerned."""

    ids: NDArray[np.uint32]
    supervised: NDArray[np.uint8]
    lengths: Integers
    origins: list[int]  # of each example
    dialogues: int  # that gave an example, copies counted
    split: int  # that gave several
    empty: list[int]  # that gave none
    dropped_turns: list[int]
    cut_turns: list[int]
    dropped_exchanges: list[int]
    questions_left_out: list[int]
    refused: list[tuple[int, str]]  # dialogues that the template can't take, and why
    told: dict[str, list[int]]  # what the template does to dialogues, by the count's name in `Encoded`


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """All that decides what a dialogue becomes; crosses to worker processes."""

    tokenizer: Path
    template: TemplateSpec
    max_length: int
    overlong_turns: OverlongTurns
    day: date  # today, for templates that write it: one for all processes
    end_of_text: str | None = None  # behind each document; dialogues have ends of their own

    def encoder(self) -> Encoder:
        """Raises InvalidModel or InvalidSpec when tokenizer and template don't fit."""
        files = read_tokenizer(self.tokenizer)
        return Encoder(files.tokenizer, template_from_spec(self.template, files, self.day))


def encode_chunks(
    chunks: Iterable[Chunk], encoding: Encoding, encoder: Encoder, processes: int, *, alone: int = _ALONE_CHUNKS
) -> Generator[tuple[Chunk, EncodedChunk]]:
    """Each chunk with what became of it, in order. This process encodes the first `alone` chunks, others the rest; `encoder` is its own."""
    remaining = iter(chunks)
    # The tokenizer works without Python's lock: while it does, this thread reads and writes.
    with ThreadPoolExecutor(1, initializer=_use, initargs=(encoder, encoding)) as thread:
        yield from _encode_in_pool(islice(remaining, alone) if processes > 1 else remaining, thread, ahead=2)
    rest = list(islice(remaining, 1))
    if rest:
        # Spawned, not forked: the tokenizer may have threads here, and a fork would copy their locks without them.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(encoding,)) as pool:
            yield from _encode_in_pool(chain(rest, remaining), pool, ahead=3 * processes)


def _encode_in_pool(chunks: Iterator[Chunk], pool: Executor, ahead: int) -> Iterator[tuple[Chunk, EncodedChunk]]:
    """In order, with at most `ahead` chunks under way."""
    waiting: deque[tuple[Chunk, Future[EncodedChunk]]] = deque()
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_encode_here, chunk)))
            if len(waiting) >= ahead:
                done, result = waiting.popleft()
                yield done, result.result()
        while waiting:
            done, result = waiting.popleft()
            yield done, result.result()
    except BrokenProcessPool as error:
        raise RunFailed(
            "a process that tokenises died, perhaps for want of memory; run it again with spec.dataset.processes=1, which needs less"
        ) from error
    finally:
        for _, result in waiting:
            result.cancel()


def encode_chunk(chunk: Chunk, encoder: Encoder, encoding: Encoding) -> EncodedChunk:
    """The examples of a chunk, each dialogue's as often as it has copies."""
    encoded = _encoded(chunk, encoder, encoding)
    examples = [example for each, copies in zip(encoded, chunk.copies, strict=True) for _ in range(copies) for example in each.examples]
    origins = [at for at, (each, copies) in enumerate(zip(encoded, chunk.copies, strict=True)) for _ in range(copies * len(each.examples))]
    lengths = np.array([len(example.input_ids) for example in examples], dtype=np.int64)
    ids = np.fromiter(chain.from_iterable(example.input_ids for example in examples), dtype=np.uint32, count=int(lengths.sum()))
    supervised = np.zeros(len(ids), dtype=np.uint8)
    for example, start in zip(examples, (np.cumsum(lengths) - lengths).tolist(), strict=True):
        for span in example.supervised:
            supervised[start + span.start : start + span.stop] = 1
    counted = [(position, each) for position, each in enumerate(encoded) if any(_counts(each))]
    return EncodedChunk(
        ids=ids,
        supervised=supervised,
        lengths=lengths,
        origins=origins,
        dialogues=sum(copies for each, copies in zip(encoded, chunk.copies, strict=True) if each.examples),
        split=sum(len(each.examples) > 1 for each in encoded),
        empty=[position for position, each in enumerate(encoded) if not each.examples and each.refused is None],
        dropped_turns=_positions(counted, "dropped_turns"),
        cut_turns=_positions(counted, "cut_turns"),
        dropped_exchanges=_positions(counted, "dropped_exchanges"),
        questions_left_out=_positions(counted, "questions_left_out"),
        refused=[(position, each.refused) for position, each in enumerate(encoded) if each.refused is not None],
        told={name: _positions(counted, name) for name in TOLD},
    )


def _encoded(chunk: Chunk, encoder: Encoder, encoding: Encoding) -> list[Encoded]:
    """By the template, or, without turns, as they are; a source has either."""
    length, overlong = encoding.max_length, encoding.overlong_turns
    dialogues = [item for item in chunk.dialogues if isinstance(item, Dialogue)]
    if dialogues:
        return encoder.encode(dialogues, max_length=length, overlong_turns=overlong, known=chunk.known)
    others = [item for item in chunk.dialogues if not isinstance(item, Dialogue)]
    return encode_without_turns(others, encoder.tokenizer, encoding.end_of_text, max_length=length, overlong_turns=overlong)


# Nearly every dialogue has none of them.
_counts = attrgetter("dropped_turns", "cut_turns", "dropped_exchanges", "questions_left_out", *TOLD)


def _positions(counted: list[tuple[int, Encoded]], what: str) -> list[int]:
    return [position for position, each in counted for _ in range(getattr(each, what))]


# What a worker works with: each process has its own, and so has the one thread of a process without others.
_worker = threading.local()


def _start(encoding: Encoding) -> None:
    """In a new process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the first one decides
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread here, as there are several of us
    _use(encoding.encoder(), encoding)


def _use(encoder: Encoder, encoding: Encoding) -> None:
    _worker.encoder, _worker.encoding = encoder, encoding


def _encode_here(chunk: Chunk) -> EncodedChunk:
    return encode_chunk(chunk, _worker.encoder, _worker.encoding)
