"""The folder of one judge's work: what it judges, every reply, the results, and the report; written so that it can go on after any end.

run.json says what is judged (another judge or other answers are refused), requests/ holds a reply each, pairs.jsonl or scores.jsonl the
results, summary.json the numbers. In and out: judged pairs and answers. Who is asked is unknown here.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune_api.errors import InvalidData, RunConflict
from finetune_api.json_text import json_value
from finetune_assistant.judging.answers import Answer, Pair, pair_of, pair_row
from finetune_assistant.judging.pairs import JudgedAnswer, JudgedPair, Judgement
from finetune_trainer.files.atomic import make_folder, write_atomically
from finetune_trainer.files.locks import LockHeld, locked

_PAIRS, _SCORES, _RUN = "pairs.jsonl", "scores.jsonl", "run.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRun:
    """What one judge said of pairs. `names`: of the models a and b."""

    judge: str
    names: tuple[str, str]
    pairs: Sequence[JudgedPair]
    total: int  # pairs that were to be judged


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRun:
    """What one judge said of single answers, by model in the order of the files."""

    judge: str
    names: Sequence[str]
    answers: Sequence[Sequence[JudgedAnswer]]
    total: int


@contextmanager
def opened(folder: Path, identity: dict[str, Any], *, takes_over: bool = False) -> Iterator[Path]:
    """Hold the folder, made where it isn't, for the work that `identity` says; yields where replies are kept.

    `takes_over`: whatever work it held before. Replies are found by what was asked, so that those to the same questions count.
    Raises RunConflict when the folder is another work's, holds other things, or is in use.
    """
    run = folder / _RUN
    if folder.is_file() or (folder.is_dir() and not run.is_file() and any(folder.iterdir()) and not takes_over):
        raise RunConflict(f"--output {folder} is there already, and no folder of `finetune judge`; choose another name")
    try:
        make_folder(folder)
        with locked(folder / "lock"):
            kept = json.loads(run.read_text(encoding="utf-8")) if run.is_file() and not takes_over else None
            if kept not in (None, identity):
                different = ", ".join(sorted(name for name in {*kept, *identity} if kept.get(name) != identity.get(name)))
                raise RunConflict(f"--output {folder} holds another judge's work (it differs in {different}); choose another folder")
            write_atomically(run, json.dumps(identity, ensure_ascii=False, indent=1))
            yield folder / "requests"
    except LockHeld as held:
        raise RunConflict(f"--output {folder} is in use by process {held.holder}; wait for it, or choose another folder") from held
    except OSError as error:
        raise RunConflict(f"--output {folder} can't be written: {error.strerror or error}; choose another folder") from error


def write_pairs(folder: Path, pairs: Sequence[JudgedPair]) -> None:
    """All pairs that are judged, in place of those that were written before."""
    _write_rows(folder / _PAIRS, [_pair_row(judged) for judged in pairs])


def write_scores(folder: Path, answers: Sequence[Sequence[JudgedAnswer]]) -> None:
    """All answers that are judged; `file` counts the files from 0."""
    _write_rows(folder / _SCORES, [{"file": number, **asdict(one)} for number, judged in enumerate(answers) for one in judged])


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, text.encode("utf-8", errors="replace"))


def _pair_row(judged: JudgedPair) -> dict[str, Any]:
    return {**pair_row(judged.pair), "outcome": judged.outcome, "judgements": [asdict(judgement) for judgement in judged.judgements]}


def read_pair_run(folder: Path) -> PairRun:
    """What `finetune judge` wrote there. Raises InvalidData when it is no such folder, or holds single scores."""
    try:
        identity = json_value((folder / _RUN).read_text(encoding="utf-8"))
        lines = (folder / _PAIRS).read_text(encoding="utf-8").split("\n")
        pairs = [_judged_pair(json.loads(line)) for line in lines if line]
        names = identity["names"]
        return PairRun(judge=identity["judge"], names=(names[0], names[1]), pairs=pairs, total=identity["total"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        why = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise InvalidData(f"{folder} is no folder of `finetune judge` with two files ({why}); give its --output") from error


def _judged_pair(row: dict[str, Any]) -> JudgedPair:
    pair = pair_of(row)
    judgements = tuple(
        Judgement(**{**one, "scores": one["scores"] and (one["scores"][0], one["scores"][1]), "requests": tuple(one["requests"])})
        for one in row["judgements"]
    )
    return JudgedPair(pair=pair, judgements=judgements)


def identity_of(
    judge: str, names: Sequence[str], work: Sequence[Pair] | Sequence[Answer], *, temperature: float, max_tokens: int
) -> dict[str, Any]:
    """What makes two runs of a judge the same work: everything that a request is made of."""
    from hashlib import sha256

    digest = sha256(json.dumps([asdict(one) for one in work], sort_keys=True).encode()).hexdigest()
    kind = "pairs" if work and isinstance(work[0], Pair) else "scores"
    settings = {"temperature": temperature, "maxTokens": max_tokens}
    return {"kind": kind, "judge": judge, "names": list(names), "answers": digest, "total": len(work), **settings}
