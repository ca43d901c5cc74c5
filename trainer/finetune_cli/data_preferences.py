"""`finetune data preferences`: votes and judgements as pairs to learn a preference from."""

import json
from pathlib import Path
from typing import Annotated

import typer

from finetune_cli.data_curation import check_place


def preferences(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Folders of `finetune judge`, and votes of `finetune human import --output`.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the rows go, as JSON lines.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write pairs with prompt, chosen and rejected, as TRL's preference trainers read them.

    People go before judges, the majority decides, and pairs without a winner are left out and counted.
    """
    from finetune_api.errors import InvalidData
    from finetune_assistant.judging.folder import read_pair_run
    from finetune_assistant.judging.preferences import preferences as preferences_of
    from finetune_assistant.judging.votes import read_vote_rows
    from finetune_trainer.files.atomic import write_atomically

    check_place(output, "--output", sources=sources)
    judges = [read_pair_run(path) for path in sources if path.is_dir()]
    votes = [vote for path in sources if not path.is_dir() for vote in read_vote_rows(path)]
    found = preferences_of(votes, judges)
    left_out = "".join(f"; left out: {number:,} x {reason}" for reason, number in found.left_out.items())
    if not found.rows:
        raise InvalidData(f"no pair has a winner{left_out}; let more people vote, or another judge judge")
    try:
        write_atomically(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows))
    except OSError as error:
        raise typer.BadParameter(f"--output {output}: {error.strerror or error}") from error
    if as_json:
        print(json.dumps({"output": str(output), "rows": len(found.rows), "left_out": found.left_out}))
    else:
        print(f"{len(found.rows):,} pairs are in {output}{left_out}")
