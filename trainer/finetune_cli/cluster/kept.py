"""What a job's storage keeps of attempts and pods that are gone: the list of it, and one log of it. `finetune logs` prints both."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune_api.errors import InvalidCluster

if TYPE_CHECKING:
    from finetune_trainer.storage.kept_runs import KeptRun, Life, Stage
    from finetune_trainer.storage.protocol import Storage

_RUN_FILES = ("metrics.jsonl", "report.html")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which logs are meant. `who`: driver, main, rank-0 and so on; None is who tells of the whole."""

    stage: "Stage | None" = None
    attempt: int | None = None
    who: str | None = None


def kept_lines(storage: "Storage", chosen: Chosen) -> Iterator[str]:
    """Lines of a log that was kept: of the newest attempt or pod that is meant; without a stage, of the last one that says something."""
    from finetune_client.logs import lines
    from finetune_trainer.storage.kept_runs import pieces

    run = _runs_of(storage, chosen)[-1]
    who = chosen.who or run.teller
    if who not in run.logs:
        raise InvalidCluster(f"{storage.url} keeps no log of {who}; there are {', '.join(run.in_order())}")
    yield from lines(pieces(storage, run.logs[who]))


def kept_list(storage: "Storage", chosen: Chosen, ends: Mapping[int, str], *, as_json: bool) -> None:
    """Print what is kept: attempts and pods with how they ended; of one attempt, each of its logs.

    `ends`: what a cluster says of attempts that couldn't say themselves how they ended.
    """
    from finetune_trainer.storage.kept_runs import life_of

    runs = _runs_of(storage, chosen)
    shown = [(run, who, life_of(storage, run, who)) for run in runs for who in (run.in_order() if chosen.attempt else [run.teller])]
    if as_json:
        print(json.dumps(_as_json(storage, shown, ends), ensure_ascii=False))
        return
    from rich.table import Table
    from rich.text import Text

    from finetune_cli.cluster.options import console
    from finetune_trainer.reporting.readable import size, visible

    what = "LOG" if chosen.attempt else "LOGS"
    table = Table("STAGE", "ATTEMPT", "BEGAN", "TOOK", "ENDED", "SIZE", what, box=None, pad_edge=False, header_style="bold")
    for run, who, life in shown:
        bytes_kept = run.logs[who].size if chosen.attempt else run.size
        logs = who if chosen.attempt else _in_short(run.in_order())
        cells = (run.stage, str(run.number), _began(life), _took(life), _ended(run, life, ends), size(bytes_kept), logs)
        # Whoever may write to the storage may have put anything there.
        table.add_row(*(Text(visible(cell)) for cell in cells))
    console().print(table)
    for name, found in _files(storage, runs, chosen).items():
        console().print(Text(f"{visible(name)}: {size(found)}"), style="dim")


def _runs_of(storage: "Storage", chosen: Chosen) -> "list[KeptRun]":
    """What is meant, at least one, in order; a log is read of the last one. Raises InvalidCluster, with what there is."""
    from finetune_trainer.storage.kept_runs import kept_runs

    kept = kept_runs(storage)
    found = [run for stage, runs in kept.items() if chosen.stage in (None, stage) for run in runs]
    if not found:
        others = f"; there are logs of {', '.join(kept)}" if kept else ""
        raise InvalidCluster(f"{storage.url} keeps no log of {chosen.stage or 'any stage'}{others}")
    if chosen.attempt is None:
        return found
    of_attempt = [run for run in found if run.number == chosen.attempt]
    if not of_attempt:
        known = ", ".join(str(number) for number in sorted({run.number for run in found}))
        raise InvalidCluster(f"{storage.url} keeps no log of attempt {chosen.attempt}; choose one of {known}")
    return of_attempt


def _files(storage: "Storage", runs: "list[KeptRun]", chosen: Chosen) -> dict[str, int]:
    """Addresses and sizes of curves and report: the run's, or those that an attempt left."""
    if chosen.attempt is not None:
        return {f"{storage.url}/{run.place}/{name}": found for run in runs for name, found in run.files.items()}
    return {f"{storage.url}/{key}": found for name in _RUN_FILES for key, found in storage.list(name) if key == name}


def _as_json(storage: "Storage", shown: "list[tuple[KeptRun, str, Life]]", ends: Mapping[int, str]) -> dict[str, Any]:
    logs = []
    for run, who, life in shown:
        log: dict[str, Any] = {
            "stage": run.stage,
            "attempt": run.number,
            "name": run.name,
            "log": who,
            "bytes": run.logs[who].size,
            "began": life.began and life.began.isoformat(),
            "ended": life.ended and life.ended.isoformat(),
            "outcome": life.end.outcome if life.end else _cluster_says(run, ends) or None,
            "logs": {each: run.logs[each].size for each in run.in_order()},
            "files": run.files,
        }
        if life.end is not None:
            log |= {"reason": life.end.reason, "message": life.end.message, "exitCode": life.end.exit_code}
        logs.append(log)
    return {"storage": storage.url, "kept": logs}


def _in_short(names: list[str]) -> str:
    """Names of logs, as many ranks as there are in one word.

    >>> _in_short(["driver", "rank-0", "rank-1", "rank-2", "ray-raylet"])
    'driver, rank-0 ... rank-2, ray-raylet'
    """
    ranks = [name for name in names if name.startswith("rank-")]
    told = [name for name in names if name not in ranks[1:-1]] if len(ranks) > 2 else names
    return ", ".join(told).replace(f"{ranks[0]}, {ranks[-1]}", f"{ranks[0]} ... {ranks[-1]}") if len(ranks) > 2 else ", ".join(told)


def _began(life: "Life") -> str:
    return f"{life.began:%Y-%m-%d %H:%M:%S}" if life.began else ""


def _took(life: "Life") -> str:
    from finetune_trainer.reporting.readable import duration

    return duration((life.ended - life.began).total_seconds()) if life.began and life.ended else ""


def _ended(run: "KeptRun", life: "Life", ends: Mapping[int, str]) -> str:
    """How it ended; who was killed has said nothing, and who runs has nothing to say."""
    if life.end is None:
        return _cluster_says(run, ends) or ("no end: it runs, or was killed" if life.began else "")
    code = "" if life.end.exit_code is None else f" ({life.end.exit_code})"
    return ", ".join(word for word in (f"{life.end.outcome}{code}", life.end.reason, _first_line(life.end.message)) if word)


def _cluster_says(run: "KeptRun", ends: Mapping[int, str]) -> str:
    return ends.get(run.number, "") if run.stage == "training" else ""


def _first_line(text: str) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= 100 else f"{line[:99]}…"
