"""Options of the commands that ask a model: which one, how it is loaded, and how its answers are drawn."""

import sys
from typing import Annotated, Literal

import typer

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="An exported folder, a run folder, or a model on the Hub (org/name).")]
Revision = Annotated[str | None, typer.Option("--revision", metavar="NAME", help="Branch, tag or commit on the Hub.")]
_PROMPT = "Ask as a base model, by a text of example dialogues: general, coding, or a file. The default for models without a chat template."
PromptName = Annotated[str | None, typer.Option("--prompt", metavar="NAME|FILE", help=_PROMPT)]
DtypeName = Annotated[
    Literal["auto", "bf16", "fp32", "fp16"], typer.Option("--dtype", help="Type of the weights in memory; auto: as they are stored.")
]
LoadInName = Annotated[
    Literal["8bit", "4bit"] | None, typer.Option("--load-in", help="Smaller weights, by bitsandbytes; needs a GPU and that package.")
]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System text instead of the template's own.")]
Greedy = Annotated[bool, typer.Option("--greedy", help="Take the likeliest token each time: the same answer each time.")]
Temperature = Annotated[float | None, typer.Option("--temperature", min=0.0, metavar="NUMBER", help="How freely to choose; 0 is --greedy.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=0, metavar="N", help="Choose among the N likeliest tokens; 0: among all.")]
TopP = Annotated[
    float | None, typer.Option("--top-p", min=0.0, max=1.0, metavar="SHARE", help="Choose among the likeliest tokens of this probability.")
]
_PENALTY = "Above 1: tokens that were there before, in the prompt too, are less likely."
RepetitionPenalty = Annotated[float | None, typer.Option("--repetition-penalty", min=0.01, metavar="NUMBER", help=_PENALTY)]
MaxNewTokens = Annotated[int | None, typer.Option("--max-new-tokens", min=1, metavar="N", help="Longest answer, in tokens.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, metavar="N", help="Makes sampled answers repeatable.")]


def refuse_greedy_with_others(greedy: bool, temperature: float | None, top_k: int | None, top_p: float | None) -> None:
    """Raises BadParameter where options would have no effect: the likeliest token is the same whatever they say."""
    given = {"--temperature": temperature, "--top-k": top_k, "--top-p": top_p}
    if greedy and (idle := [name for name, value in given.items() if value]):
        raise typer.BadParameter(f"--greedy takes the likeliest token, so {' and '.join(idle)} would change nothing; give one or the other")


def say_loading(model: str, *, as_json: bool) -> None:
    """A model may take minutes to load, which a person should know."""
    if sys.stderr.isatty() and not as_json:
        print(f"loading {model} ...", file=sys.stderr)
