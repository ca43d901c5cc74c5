"""`finetune chat`: a conversation in the terminal, or one question a line from a pipe."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.chat_commands import Commands, is_command, say, usd
from finetune_cli.endpoint_options import PriceInput, PriceOutput, prices
from finetune_cli.model_options import (
    DtypeName,
    Greedy,
    LoadInName,
    MaxNewTokens,
    ModelName,
    PromptName,
    RepetitionPenalty,
    Revision,
    Seed,
    System,
    Temperature,
    TopK,
    TopP,
    refuse_greedy_with_others,
    say_loading,
)

if TYPE_CHECKING:
    from rich.console import Console

    from finetune_assistant.endpoint.budget import Prices
    from finetune_assistant.inference.chat import Answer, Chat
    from finetune_cli.chat_commands import Ask

_SEVERAL_LINES = '"""'


def chat(
    model: ModelName,
    system: System = None,
    prompt: PromptName = None,
    once: Annotated[str | None, typer.Option("--once", metavar="QUESTION", help="Answer one question and exit.")] = None,
    greedy: Greedy = False,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    repetition_penalty: RepetitionPenalty = None,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = None,
    dtype: DtypeName = "auto",
    load_in: LoadInName = None,
    revision: Revision = None,
    price_input: PriceInput = None,
    price_output: PriceOutput = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per answer.")] = False,
) -> None:
    """Talk to a fine-tuned model, to any chat model, or to a base model by dialogue prompting.

    Reads questions from the terminal, or one a line from a pipe, as one conversation.
    """
    from finetune_assistant.inference.chat import Chat
    from finetune_assistant.inference.loading import load
    from finetune_assistant.inference.own_thread import OwnThread
    from finetune_assistant.inference.sampling import Sampling

    if once is not None and not once.strip():
        raise typer.BadParameter("--once has no question; give one, or leave it out for a conversation")
    refuse_greedy_with_others(greedy, temperature, top_k, top_p)
    priced = prices(price_input, price_output)
    sampling = Sampling(
        greedy=greedy,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    say_loading(model, as_json=as_json)
    thread = OwnThread()
    loaded = thread.run(lambda: load(model, revision=revision, prompt=prompt, dtype=dtype, load_in=load_in))
    for note in loaded.notes:
        say(note)
    session = Session(Chat.of(loaded, system=system, sampling=sampling, thread=thread), model, as_json=as_json, priced=priced)
    if once is not None:
        session.ask(once)
    elif sys.stdin.isatty():
        _converse(session)
    else:
        for line in sys.stdin:
            if question := line.strip():
                session.take(question)


class Session:
    """A talk and how its answers are shown."""

    def __init__(self, talk: "Chat", model: str, *, as_json: bool, priced: "Prices | None") -> None:
        self._talk, self._as_json, self._priced = talk, as_json, priced
        self._commands = Commands(talk, model, self._show, at_a_terminal=sys.stdin.isatty(), prices=priced)

    def take(self, line: str) -> None:
        """A question, or a command of the conversation."""
        if is_command(line):
            self._commands.run(line)
        else:
            self.ask(line)

    def ask(self, question: str) -> None:
        """Ask, and show the answer as it comes, or whole as JSON."""
        self._show(question, lambda on_text: self._talk.ask(question, on_text))

    def _show(self, question: str, ask: "Ask") -> None:
        if self._as_json:
            import json

            print(json.dumps(_described(question, ask(lambda _text: None), self._priced), ensure_ascii=False), flush=True)
            return
        answer = _streamed(ask)
        notes = {"interrupted": "stopped", "length": "the answer was cut at its longest", "end": ""}
        said = [notes[answer.stopped], f"{answer.left_out} older messages did not fit" if answer.left_out else ""]
        if note := "; ".join(filter(None, said)):
            say(f"({note})")


def _streamed(ask: "Ask") -> "Answer":
    """On a terminal with its code in colour, elsewhere as it is."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    from finetune_cli.highlighted import Highlighter, wants_colour

    if not (sys.stdout.isatty() and wants_colour(os.environ)):
        answer = ask(lambda text: write(printable(text)))
        print(flush=True)
        return answer
    highlighter = Highlighter(write)
    try:
        return ask(lambda text: highlighter.add(printable(text)))
    finally:
        highlighter.close()


def _converse(session: Session) -> None:
    """Questions typed by a person, until /exit or the end of input."""
    from rich.console import Console

    from finetune_api.errors import InvalidData

    console = Console(highlight=False)
    console.print("[dim]/help lists commands, /exit leaves[/]")
    _enable_line_editing()
    while True:
        try:
            line = _typed(console)
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print("\n[dim]/exit or Ctrl-D leaves[/]")
            continue
        if line == "/exit":
            return
        if not line:
            continue
        if not is_command(line):
            console.print("[bold green]it[/]   ", end="")
        try:
            session.take(line)
        except InvalidData as error:
            console.print(f"\n[red]{str(error).replace('[', chr(92) + '[')}[/]")


def _typed(console: "Console") -> str:
    """A line, or what stands between two lines of three quotes. Raises EOFError."""
    line = console.input("[bold cyan]you[/]  ").strip()
    if not line.startswith(_SEVERAL_LINES):
        return line
    lines = [line.removeprefix(_SEVERAL_LINES)]
    while not lines[-1].rstrip().endswith(_SEVERAL_LINES):
        lines.append(console.input("[dim]...[/]  "))
    return "\n".join(lines).strip().removesuffix(_SEVERAL_LINES).strip()


def _described(question: str, answer: "Answer", priced: "Prices | None") -> dict[str, object]:
    tuned, cost = answer.tuned_tokens, {} if priced is None else {"usd": usd(answer, answer.prompt_tokens, priced)}
    compared = {} if tuned is None else {"preambleTokens": answer.preamble_tokens, "tunedPromptTokens": tuned}
    if tuned is not None and priced is not None:
        cost["tunedUsd"] = usd(answer, tuned, priced)
    return {
        "question": question,
        "answer": answer.text,
        "stopped": answer.stopped,
        "promptTokens": answer.prompt_tokens,
        "keptTokens": answer.kept_tokens,
        **compared,
        "newTokens": answer.new_tokens,
        **{name: round(amount, 9) for name, amount in cost.items()},
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
