"""Tokenising by remembered words against whole texts, on text that is read once. Prints one JSON object.

    python -m benchmarks.words --data ../shared/data [--repeats 5]

`preparation/words.py` remembers the ids of words; `encode_batch_fast` of the tokenizers library encodes each text. Both give the same ids,
which is checked. Texts: every message of the two corpora of `texts`, of which none comes twice. The library's threads count by processor
time: it has as many as the machine has cores.
"""

import argparse
import hashlib
import json
import os
import statistics
import sys
from array import array
from collections.abc import Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

from benchmarks.machine import Clock, measured
from benchmarks.texts import CORPORA, dialogues
from tokenizers import Tokenizer

BATCH = 1_000
SIDES = ("words", "whole")


def main() -> None:
    options = _options()
    if options.worker:
        print(json.dumps(_encoded(options.worker, options.corpus, Path(options.data), options.share)))
        return
    results: dict[str, Any] = {"batch": BATCH}
    for corpus, share in product(CORPORA, (0.1, 1.0)):
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for _, side in product(range(options.repeats), SIDES):
            runs[side].append(_worker(side, corpus, share, options))
        results[f"{corpus}, {share:.0%}"] = _compared(runs)
    print(json.dumps(results, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--data", default=os.environ.get("FINETUNE_TEST_DATA", "../shared/data"), help="folder with the real data")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each side, in turns")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--corpus", choices=CORPORA, help=argparse.SUPPRESS)
    parser.add_argument("--share", type=float, default=1.0, help=argparse.SUPPRESS)
    return parser.parse_args()


def _worker(side: str, corpus: str, share: float, options: argparse.Namespace) -> dict[str, Any]:
    """A process of its own, which remembers nothing."""
    command = [sys.executable, "-m", "benchmarks.words", "--worker", side, "--corpus", corpus, "--share", str(share)]
    return measured([*command, "--data", str(options.data)])


def _compared(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians, and how many times faster the remembered words are: by the clock and by processor time."""
    (digest,) = {run["ids"] for side in runs.values() for run in side}
    first = runs["words"][0]
    found: dict[str, Any] = {"megabytes": first["megabytes"], "tokens": first["tokens"], "ids": digest}
    for kind in ("seconds", "cpu_seconds"):
        medians = {side: statistics.median(run[kind] for run in its_runs) for side, its_runs in runs.items()}
        found[kind] = {**medians, "whole / words": round(medians["whole"] / medians["words"], 2)}
    return found


def _encoded(side: str, corpus: str, data: Path, share: float) -> dict[str, Any]:
    """Encode the first `share` of the texts; a digest of the ids shows that both sides give the same."""
    from finetune_trainer.preparation.words import WordEncoder

    tokenizer = Tokenizer.from_file(str(data / "starcoder-tokenizer.json"))
    literal = Tokenizer.from_str(tokenizer.to_str())
    literal.encode_special_tokens = True

    def whole(texts: Sequence[str]) -> list[list[int]]:
        return [one.ids for one in literal.encode_batch_fast(list(texts), add_special_tokens=False)]

    encode = WordEncoder(tokenizer).encode if side == "words" else whole
    texts = [message["content"] for one in dialogues(corpus, data) for message in one]
    texts = texts[: int(len(texts) * share)]
    digest, tokens, clock = hashlib.sha256(), 0, Clock()
    for start in range(0, len(texts), BATCH):
        ids = encode(texts[start : start + BATCH])
        tokens += sum(map(len, ids))
        digest.update(array("I", chain.from_iterable(ids)).tobytes())
    spent = clock.read()
    size = sum(len(text.encode()) for text in texts)
    return {**spent, "tokens": tokens, "megabytes": round(size / 1e6, 2), "ids": digest.hexdigest()}


if __name__ == "__main__":
    main()
