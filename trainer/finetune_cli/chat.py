"""`finetune chat`: a conversation in the terminal, or one question a line from a pipe."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from finetune_assistant.chat import Answer, Chat

HELP = """/reset  forget the conversation
/exit   leave (so does Ctrl-D)
/help   this text
Ctrl-C  stop the answer"""


def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An exported folder, a run folder, or a model on the Hub (org/name).")],
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System text instead of the template's own.")] = None,
    once: Annotated[str | None, typer.Option("--once", metavar="QUESTION", help="Answer one question and exit.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the likeliest token each time: the same answer each time.")] = False,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0.0, metavar="NUMBER", help="How freely to choose; 0 is --greedy.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, metavar="N", help="Longest answer, in tokens.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, metavar="N", help="Makes sampled answers repeatable.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", metavar="NAME", help="Branch, tag or commit on the Hub.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per answer.")] = False,
) -> None:
    """Talk to a fine-tuned model, or to any chat model.

    Reads questions from the terminal, or one a line from a pipe, as one conversation.
    """
    from finetune_assistant.chat import Sampling, load

    sampling = Sampling(greedy=greedy, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
    if sys.stderr.isatty() and not as_json:
        print(f"loading {model} ...", file=sys.stderr)
    talk = load(model, revision=revision, system=system, sampling=sampling)
    if once is not None:
        _answer(talk, once, as_json=as_json)
    elif sys.stdin.isatty():
        _converse(talk, as_json=as_json)
    else:
        for line in sys.stdin:
            if question := line.strip():
                _turn(talk, question, as_json=as_json)


def _converse(talk: "Chat", *, as_json: bool) -> None:
    """Questions typed by a person, until /exit or the end of input."""
    from rich.console import Console

    from finetune_api.errors import InvalidData

    console = Console(highlight=False)
    console.print("[dim]/help lists commands, /exit leaves[/]")
    _enable_line_editing()
    while True:
        try:
            question = console.input("[bold cyan]you[/]  ").strip()
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print("\n[dim]/exit or Ctrl-D leaves[/]")
            continue
        if question == "/exit":
            return
        if question in ("/help", "/?"):
            console.print(HELP, style="dim")
        elif question:
            try:
                if not question.startswith("/"):
                    console.print("[bold green]it[/]   ", end="")
                _turn(talk, question, as_json=as_json)
            except InvalidData as error:
                console.print(f"\n[red]{str(error).replace('[', chr(92) + '[')}[/]")


def _turn(talk: "Chat", question: str, *, as_json: bool) -> None:
    """A question, or a command of the conversation."""
    if question == "/reset":
        talk.reset()
    elif question.startswith("/") and question.split()[0][1:].isalpha() and "/" not in question[1:]:
        print(f"no command {question.split()[0]}; /help lists them", file=sys.stderr)
    else:
        _answer(talk, question, as_json=as_json)


def _answer(talk: "Chat", question: str, *, as_json: bool) -> None:
    """Ask, and show the answer as it comes, or whole as JSON."""
    if as_json:
        import json

        print(json.dumps(_described(question, talk.ask(question)), ensure_ascii=False), flush=True)
        return

    def show(text: str) -> None:
        sys.stdout.write(printable(text))
        sys.stdout.flush()

    answer = talk.ask(question, show)
    notes = {"interrupted": "stopped", "length": "the answer was cut at its longest", "end": ""}
    said = [notes[answer.stopped], f"{answer.left_out} older messages did not fit" if answer.left_out else ""]
    print(flush=True)
    if note := "; ".join(filter(None, said)):
        print(f"({note})", file=sys.stderr)


def _described(question: str, answer: "Answer") -> dict[str, object]:
    return {
        "question": question,
        "answer": answer.text,
        "stopped": answer.stopped,
        "promptTokens": answer.prompt_tokens,
        "newTokens": answer.new_tokens,
        "leftOut": answer.left_out,
        "seconds": round(answer.seconds, 3),
    }


def printable(text: str) -> str:
    r"""Text without control characters but newline and tab: a model's answer must not drive the terminal.

    >>> printable("a\x1b[2Jb\n")
    'a[2Jb\n'
    """
    return "".join(character for character in text if character in "\n\t" or character.isprintable())


def _enable_line_editing() -> None:
    """Arrow keys and history where Python has readline."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return
