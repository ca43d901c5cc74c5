"""`finetune human export`: ballots for people, who are not told which model wrote what."""

import json
from pathlib import Path
from typing import Annotated

import typer

from finetune_cli.judge import Stop


def export(
    answers: Annotated[Path, typer.Argument(metavar="ANSWERS", help="Answers of your model: JSON lines with `prompt` and `answer`.")],
    baseline: Annotated[Path, typer.Argument(metavar="BASELINE", help="Answers to compare with.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Ballots: .html is a page to vote on, .csv and .jsonl are tables.")
    ],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Where it is written which side is whose. Keep it to yourself.")],
    stop: Stop = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="At most N pairs, drawn by the seed.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Draws order and sides; the same for all voters.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write pairs of answers for people to vote on, blind: order and sides are drawn by lot, and the key is kept apart."""
    from finetune_assistant.judging.answers import paired, read_answers
    from finetune_assistant.judging.human import SUFFIXES, ballots, write_ballots

    if output.suffix not in SUFFIXES:
        raise typer.BadParameter(f"--output {output}: the name must end with {', '.join(SUFFIXES)}")
    if key.resolve() == output.resolve():
        raise typer.BadParameter("--key and --output are the same file; the key must stay with you")
    for name, path in (("--output", output), ("--key", key)):
        if not path.parent.is_dir():
            raise typer.BadParameter(f"{name} {path}: there is no folder {path.parent}; make it")
    pairs = paired(read_answers(answers, stop=stop or ()), read_answers(baseline, stop=stop or ()))
    drawn = ballots(pairs.pairs, seed=seed)[:limit]
    if not drawn:
        raise typer.BadParameter("all answers are the same in both files; there is nothing to vote on")
    write_ballots(output, key, drawn, pairs)
    if as_json:
        print(json.dumps({"output": str(output), "key": str(key), "ballots": len(drawn), "same": len(pairs.pairs) - len(drawn)}))
    else:
        print(f"{len(drawn)} ballots are in {output}, their key is in {key}; read votes with `finetune human import VOTES --key {key}`")
