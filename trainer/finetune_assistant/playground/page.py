"""The page: what happens when a visitor asks, stops, votes or runs an answer.

In: talks and an offer. Out: gradio's Blocks, not yet served. Every answer, on the way or whole, is a view of a talk, from which all follows
that the page shows. Gradio's makers are told nothing (its analytics are off), and events are this page's alone, no interface for programs.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from finetune_api.errors import FineTuneError
from finetune_assistant.playground import pictures
from finetune_assistant.playground.layout import EXAMPLES, SIDES, VOTES, Layout, Offer, layout
from finetune_assistant.playground.markdown import plain_markdown
from finetune_assistant.playground.sampling_fields import sampling_of
from finetune_assistant.playground.talk import Talk
from finetune_assistant.playground.talks import MOST_TALKS, Talks
from finetune_assistant.playground.views import Column, Said, View
from finetune_assistant.playground.voices import Settings

# So that a page that is read aloud says what happens.
_SAY_ALOUD = "() => { for (const id of ['status', 'voted', 'ran']) document.getElementById(id)?.setAttribute('aria-live', 'polite'); }"
_HIDDEN_TOKENS = "Tokens and times are shown with the names, which they would give away."


def blocks(talks: Talks, offer: Offer) -> Any:
    """The page as gradio's Blocks."""
    # Read when gradio is imported, too.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    with gr.Blocks(title=offer.title, analytics_enabled=False) as page:
        made = layout(gr, offer, [voice.name for voice in talks.voices])
        _asking(gr, made, talks, offer)
        if offer.votes is not None:
            _voting(gr, made, talks, offer)
        _running(gr, made, talks)

        def left(request: gr.Request) -> None:
            talks.leave(str(request.session_hash))

        page.unload(left)
        page.load(None, js=_SAY_ALOUD)
    # Whoever waits in the line for the models holds one of these places.
    page.queue(api_open=False, max_size=4 * MOST_TALKS, default_concurrency_limit=2 * MOST_TALKS)
    return page


def _asking(gr: Any, made: Layout, talks: Talks, offer: Offer) -> None:
    shown = _shown(made)

    def answered(request: Any, texts: Sequence[Any], begin: Callable[[Talk, Settings], Iterator[View]]) -> Iterator[tuple[bool, list[Any]]]:
        """Whether it was asked, and the updates; `texts`: the system prompt, greedy, and the fields."""
        talk = talks.of(str(request.session_hash))
        system, greedy, *fields = texts
        try:
            settings = Settings(system=system.strip() or None, sampling=sampling_of(fields, greedy=greedy))
        except FineTuneError as error:
            yield False, _updates(gr, made, offer, talk.view(), notice=str(error))
            return
        for view in begin(talk, settings):
            yield True, _updates(gr, made, offer, view)

    def asked(request: gr.Request, question: str, *texts: Any) -> Iterator[list[Any]]:
        taken = False
        for is_asked, updates in answered(request, texts, lambda talk, settings: talk.ask(question, settings)):
            # The field is emptied once: what is typed from then on is another question.
            yield ["" if is_asked and not taken else gr.skip(), *updates]
            taken = is_asked

    def again(request: gr.Request, *texts: Any) -> Iterator[list[Any]]:
        for _, updates in answered(request, texts, lambda talk, settings: talk.retry(settings)):
            yield updates

    def stopped(request: gr.Request) -> None:
        talks.of(str(request.session_hash)).stop()

    def cleared(request: gr.Request) -> list[Any]:
        return _updates(gr, made, offer, talks.of(str(request.session_hash)).reset())

    settings = [made.system, made.greedy, *made.fields]
    quiet = {"api_visibility": "private", "show_progress": "hidden"}
    gr.on([made.send.click, made.question.submit], asked, [made.question, *settings], [made.question, *shown], **quiet)
    made.retry.click(again, settings, shown, **quiet)
    made.stop.click(stopped, None, None, queue=False, **quiet)
    gr.on([made.clear.click, *(chat.clear for chat in made.chats)], cleared, None, shown, **quiet)
    for button, (_, prompt) in zip(made.examples, EXAMPLES, strict=True):
        button.click(lambda prompt=prompt: prompt, None, made.question, **quiet)


def _voting(gr: Any, made: Layout, talks: Talks, offer: Offer) -> None:
    votes = offer.votes
    assert votes is not None

    def voter(choice: Any) -> Any:
        def voted(request: gr.Request, name: str) -> list[Any]:
            browser = str(request.session_hash)
            talk = talks.of(browser)
            rater = " ".join(name.split())[:60] or f"visitor {browser[:8]}"
            try:
                view = talk.vote(choice, rater, lambda vote: votes.append(vote, both_bad=choice == "both bad"))
            except FineTuneError as error:
                return [str(error), *_updates(gr, made, offer, talk.view())]
            who = ", ".join(f"{side.lower()} is {column.name}" for side, column in zip(SIDES, view.columns, strict=True))
            return [f"Your vote is kept: {who}.", *_updates(gr, made, offer, view)]

        return voted

    def named(request: gr.Request) -> list[Any]:
        return _updates(gr, made, offer, talks.of(str(request.session_hash)).show_names())

    for button, (choice, _) in zip(made.votes, VOTES, strict=True):
        button.click(voter(choice), made.voter, [made.voted, *_shown(made)], api_visibility="private", show_progress="hidden")
    made.names.click(named, None, _shown(made), api_visibility="private", show_progress="hidden")


def _running(gr: Any, made: Layout, talks: Talks) -> None:
    def runner(side: int) -> Any:
        def ran(request: gr.Request) -> list[Any]:
            found = pictures.run(talks.of(str(request.session_hash)).last_answer(side))
            return [found.told, found.pictures, gr.update(value=found.printed, visible=bool(found.printed))]

        return ran

    for side, button in enumerate(made.runs):
        # One program at a time: this machine's cores are the model's, too.
        limit = {"concurrency_limit": 1, "concurrency_id": "sandbox"}
        button.click(runner(side), None, [made.ran, made.pictures, made.printed], api_visibility="private", **limit)


def _shown(made: Layout) -> list[Any]:
    """The components that a view decides, in the order of `_updates`."""
    named = [] if made.names is None else [made.names]
    return [*made.chats, *made.tokens, made.status, made.send, made.stop, made.retry, *made.runs, *made.votes, *named]


def _updates(gr: Any, made: Layout, offer: Offer, view: View, *, notice: str = "") -> list[Any]:
    """What each component of `_shown` is now."""
    has_turns = bool(view.columns[0].turns)
    chats = [_chat(gr, column, side, len(view.columns)) for side, column in zip(SIDES, view.columns, strict=False)]
    can_run = offer.no_running is None and not view.busy
    runs = [gr.update(interactive=can_run and bool(column.turns and column.turns[-1][1].text)) for column in view.columns]
    votes = [gr.update(interactive=view.no_vote is None)] * len(made.votes)
    named = [] if made.names is None else [gr.update(interactive=has_turns and not view.busy and not view.columns[0].name)]
    status = notice or view.notice or ("Answering ..." if view.busy else "")
    if made.votes and has_turns and not view.busy and view.no_vote is not None:
        status = f"{status} {view.no_vote}".strip()
    buttons = [gr.update(interactive=not view.busy), gr.update(interactive=view.busy), gr.update(interactive=has_turns and not view.busy)]
    return [*chats, *map(_tokens, view.columns), status, *buttons, *runs, *votes, *named]


def _chat(gr: Any, column: Column, side: str, sides: int) -> Any:
    label = column.name if sides == 1 else f"{side}: {column.name}" if column.name else side
    messages = []
    for question, said in column.turns:
        messages.append({"role": "user", "content": plain_markdown(question)})
        messages.append({"role": "assistant", "content": _answer(said)})
    return gr.update(value=messages, label=label)


def _answer(said: Said) -> str:
    r"""As Markdown.

    >>> _answer(Said(text="Hi", failure="stopped"))
    'Hi\n\n*No answer: stopped*'
    """
    failure = f"*No answer: {plain_markdown(said.failure)}*" if said.failure else ""
    empty = "*An empty answer.*" if said.answer is not None and not said.text.strip() else "..."
    return "\n\n".join(filter(None, (plain_markdown(said.text), failure))) or empty


def _tokens(column: Column) -> str:
    """A table of what each turn took, as Markdown; of a base model also what its prompt file costs."""
    if not column.turns:
        return ""
    if not column.name:
        return _HIDDEN_TOKENS
    head = "| # | prompt | kept | answer | tokens/s |\n|--:|--:|--:|--:|--:|"
    rows = [head]
    notes = []
    for number, (_, said) in enumerate(column.turns, start=1):
        if (answer := said.answer) is None:
            continue
        pace = answer.new_tokens / answer.seconds if answer.seconds else 0.0
        rows.append(f"| {number} | {answer.prompt_tokens:,} | {answer.kept_tokens:,} | {answer.new_tokens:,} | {pace:,.1f} |")
        notes = _notes(answer)
    return "\n".join(rows) + "".join(f"\n\n{note}" for note in notes)


def _notes(answer: Any) -> list[str]:
    ended = {"length": "The answer was cut at its longest.", "interrupted": "Stopped.", "end": ""}[answer.stopped]
    left_out = f"{answer.left_out:,} older messages did not fit." if answer.left_out else ""
    cost = ""
    if answer.tuned_tokens is not None:
        cost = (
            f"{answer.preamble_tokens:,} tokens of the prompt are its example dialogues; "
            f"fine-tuned, this model would be asked with {answer.tuned_tokens:,} in all."
        )
    return [note for note in (ended, left_out, cost) if note]
