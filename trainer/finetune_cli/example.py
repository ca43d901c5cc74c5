"""`finetune example`: the project's examples, written where they are wanted, under the paths by which the documentation calls them.

In the wheel they lie in this package's folder `files` (pyproject.toml, force-include); in a checkout, where they are worked on.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A job, and the files and folders that it reads."""

    job: str
    reads: tuple[str, ...] = ()
    about: str
    next: str


EXAMPLES: Final = {
    "tiny": Example(
        job="examples/tiny.yaml",
        reads=("examples/tiny", "examples/demo/data"),
        about="the smallest whole run: a random model of 5 M parameters, on this machine, without a GPU",
        next="finetune run",
    ),
    "lora": Example(
        job="examples/lora.yaml",
        reads=("examples/demo/data",),
        about="adapters for SmolLM2 (135 M) from the Hub, on this machine, with or without a GPU",
        next="finetune validate",
    ),
    "my-assistant": Example(
        job="manifests/samples/finetunejob.yaml",
        about="a first job on a cluster: SmolLM2 (135 M) on OpenAssistant, one GPU",
        next="finetune validate --cluster",
    ),
    "starchat-alpha": Example(
        job="examples/starchat-alpha.yaml",
        about="StarCoder (15.5 B) in full on OpenAssistant, on one node of 8 x A100-80GB",
        next="finetune plan --tokens 7440000",
    ),
    "starchat-alpha-2x8": Example(
        job="manifests/samples/starchat-alpha-2x8.yaml",
        about="the same on two nodes, on a cluster",
        next="finetune plan --tokens 7440000",
    ),
}


def example(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Which one; without it they are listed.", show_default=False)] = "",
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where it goes; by default here.", show_default=False)
    ] = Path("."),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write an example: a job with what it reads."""
    if not name:
        listed = {known: one.about for known, one in EXAMPLES.items()}
        print(json.dumps({"examples": listed}) if as_json else "\n".join(f"{known:<20}{about}" for known, about in listed.items()))
        return
    if name not in EXAMPLES:
        raise typer.BadParameter(f"no example {name}; there are {', '.join(EXAMPLES)}")
    chosen = EXAMPLES[name]
    files = sorted(file for path in (chosen.job, *chosen.reads) for file in _files(path))
    if there := [file for file in files if (output / file).exists()]:
        raise typer.BadParameter(f"{output / there[0]} is there already, and would be overwritten; move it, or name another --output")
    for file in files:
        (output / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_root() / file, output / file)
    written, command = [str(output / file) for file in files], f"{chosen.next} {output / chosen.job}"
    said = [*(f"wrote {file}" for file in written), f"next: {command}"]
    print(json.dumps({"written": written, "next": command}) if as_json else "\n".join(said))


def _files(path: str) -> list[Path]:
    """The files of that path, from the root."""
    found = _root() / path
    return [file.relative_to(_root()) for file in (sorted(found.iterdir()) if found.is_dir() else [found])]


def _root() -> Path:
    packaged = Path(__file__).parent / "files"
    return packaged if packaged.is_dir() else Path(__file__).parents[2]
