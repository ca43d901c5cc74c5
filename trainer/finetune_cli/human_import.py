"""`finetune human import`: votes of people read back, and how far they agree with one another and with judges."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def import_votes(
    files: Annotated[
        list[Path], typer.Argument(metavar="VOTES...", help="Filled-in ballots, a file a voter; or rows of votes without --key.")
    ],
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Written with the ballots. Absent: rows that name a and b, as of the playground."),
    ] = None,
    judges: Annotated[
        list[Path] | None, typer.Option("--judge", metavar="FOLDER", help="A judge's --output on the same answers; repeatable.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where opened votes go, for `finetune data preferences`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Count votes: who wins, how far people agree, and how far each judge agrees with them.

    A ballot's vote is left, right or tie; two columns rank_left and rank_right (1 is best), or score_left and score_right, do as well.
    """
    from finetune_api.errors import InvalidData
    from finetune_assistant.judging.folder import read_pair_run
    from finetune_assistant.judging.human import read_votes
    from finetune_assistant.judging.votes import read_vote_rows, vote_row, vote_summary
    from finetune_trainer.files.atomic import write_atomically

    runs = [read_pair_run(folder) for folder in judges or ()]
    votes = read_votes(files, key) if key is not None else [vote for path in files for vote in read_vote_rows(path)]
    if not votes:
        raise InvalidData("no ballot has a vote; fill in the column `vote` with left, right or tie")
    summary = vote_summary(votes, runs)
    if output is not None:
        try:
            write_atomically(output, "".join(json.dumps(vote_row(vote), ensure_ascii=False) + "\n" for vote in votes))
        except OSError as error:
            raise typer.BadParameter(f"--output {output}: {error.strerror or error}") from error
    print(json.dumps(summary, ensure_ascii=False) if as_json else "\n".join(_lines(summary, judges or [])))


def _lines(summary: dict[str, Any], judges: list[Path]) -> list[str]:
    from finetune_assistant.judging.report import between, percent

    rate, outcomes = summary["winRate"], summary["outcomes"]
    lines = [
        f"{sum(summary['votes'].values())} votes of {len(summary['votes'])} people on {rate['pairs']} pairs",
        f"{summary['a']} wins {rate['wins']} of {rate['pairs']} against {summary['b']}: {percent(rate['value'])} (95 %: {between(rate)}); "
        f"{summary['b']} wins {outcomes['b']}, ties {outcomes['tie']}",
    ]
    lines += [f"{' and '.join(found['raters'])}: {_agreed(found)}" for found in summary["people"]]
    names = [found["judge"] for found in summary["judges"]]
    called = [name if names.count(name) == 1 else f"{name} ({folder})" for name, folder in zip(names, judges, strict=True)]
    lines += [f"{name} and people: {_agreed(found)}" for name, found in zip(called, summary["judges"], strict=True)]
    return lines


def _agreed(found: dict[str, Any]) -> str:
    from finetune_assistant.judging.report import percent

    if not found["pairs"]:
        return "no pair in common"
    kappa = "unknown" if found["kappa"] is None else f"{found['kappa']:.2f}"
    decided = found["withoutTies"]
    named = f"; {percent(decided['agreement'])} of {decided['pairs']} where both name a winner" if decided["pairs"] else ""
    return f"agreed on {percent(found['agreement'])} of {found['pairs']} pairs, kappa {kappa}{named}"
