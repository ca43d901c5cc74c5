"""What stands where on the page: components of gradio without any behaviour.

In: who takes part and what a visitor may do. Out: the components, by name. Each has a label, for those who hear the page. What happens when
one is used is in `page`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from finetune_assistant.playground.sampling_fields import FIELDS
from finetune_assistant.playground.voices import NOTHING_ASKED, Settings
from finetune_assistant.playground.votes import VoteFile
from finetune_assistant.sandbox.examples import PLOT_PROMPTS

DISCLAIMER: Final = (
    "What you read here is written by a language model. It may be wrong and sound sure; its code may be insecure or not work; "
    "it isn't aligned to human values, so it may be harmful or biased. Check before you use it."
)
CODING_PROMPTS: Final = (
    ("Dates", "Write a Python function that says whether two periods of dates overlap, each with a first and a last day. Test it."),
    (
        "Review",
        "What goes wrong here, and how is it mended?\n\n```python\ndef add(item, items=[]):\n    items.append(item)\n    return items\n```",
    ),
    ("Shell", "Which shell command lists the ten largest files below the current folder, with their sizes?"),
)
EXAMPLES: Final = (*((example.name, example.prompt) for example in PLOT_PROMPTS), *CODING_PROMPTS)
VOTES: Final = (("left", "Left is better"), ("right", "Right is better"), ("tie", "Both are good"), ("both bad", "Both are bad"))
SIDES: Final = ("Left", "Right")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a playground offers beside talking. `no_running`: why answers can't be run; None: they can. `settings`: at the start."""

    title: str
    settings: Settings = NOTHING_ASKED
    votes: VoteFile | None = None
    no_running: str | None = None


@dataclass(slots=True, kw_only=True)
class Layout:
    """The components. `chats`, `tokens` and `runs` have one for each side."""

    chats: list[Any] = field(default_factory=list)
    tokens: list[Any] = field(default_factory=list)
    runs: list[Any] = field(default_factory=list)
    examples: list[Any] = field(default_factory=list)
    votes: list[Any] = field(default_factory=list)
    fields: list[Any] = field(default_factory=list)
    question: Any = None
    send: Any = None
    stop: Any = None
    retry: Any = None
    clear: Any = None
    status: Any = None
    names: Any = None
    voter: Any = None
    voted: Any = None
    system: Any = None
    greedy: Any = None
    ran: Any = None
    pictures: Any = None
    printed: Any = None


def layout(gr: Any, offer: Offer, names: Sequence[str]) -> Layout:
    """Lay the page out, inside gradio's Blocks. `names`: of the models, one or two; two are not told on the page."""
    made = Layout()
    gr.Markdown(f"# {offer.title}\n\n{DISCLAIMER}")
    with gr.Row():
        for side in SIDES[: len(names)]:
            with gr.Column(min_width=280):
                label = names[0] if len(names) == 1 else side
                # Dollar signs are a shell's, and no formula's.
                options = {"latex_delimiters": [], "buttons": ["copy", "copy_all"], "feedback_options": None}
                made.chats.append(gr.Chatbot(label=label, height=420, elem_id=f"{side.lower()}-chat", **options))
                made.tokens.append(gr.Markdown(elem_id=f"{side.lower()}-tokens"))
    made.status = gr.Markdown(elem_id="status")
    _questions(gr, made)
    if offer.votes is not None:
        _voting(gr, made, offer.votes)
    _running(gr, made, offer, len(names))
    _settings(gr, made, offer.settings)
    return made


def _questions(gr: Any, made: Layout) -> None:
    made.question = gr.Textbox(label="Question", info="Enter sends it, Shift+Enter begins a line.", lines=1, max_lines=12, autofocus=True)
    with gr.Row():
        made.send = gr.Button("Send", variant="primary", min_width=80)
        made.stop = gr.Button("Stop", variant="stop", interactive=False, min_width=80)
        made.retry = gr.Button("Answer again", interactive=False, min_width=80)
        made.clear = gr.Button("New talk", min_width=80)
    with gr.Row():
        made.examples = [gr.Button(name, size="sm", min_width=80) for name, _ in EXAMPLES]


def _voting(gr: Any, made: Layout, votes: VoteFile) -> None:
    told = "Who is on which side is drawn anew for each talk, and shown after the vote."
    gr.Markdown(f"## Vote\n\n{told} Votes are kept in {votes.path.name}.")
    with gr.Row():
        made.votes = [gr.Button(text, interactive=False, min_width=80) for _, text in VOTES]
        made.names = gr.Button("Show the names", interactive=False, min_width=80)
    made.voter = gr.Textbox(label="Your name", info="Kept with your votes, if you write one.", max_length=60)
    made.voted = gr.Markdown(elem_id="voted")


def _running(gr: Any, made: Layout, offer: Offer, sides: int) -> None:
    told = "It runs on the machine that serves this page, in a sandbox without network; bounds of time and memory end it."
    with gr.Accordion("Run the answer's Python", open=True):
        gr.Markdown(told if offer.no_running is None else f"Can't be run here: {offer.no_running}", elem_id="no-running")
        with gr.Row():
            labels = ["Run it"] if sides == 1 else [f"Run the {side.lower()} one's" for side in SIDES]
            made.runs = [gr.Button(label, interactive=False, min_width=80) for label in labels]
        made.ran = gr.Markdown(elem_id="ran")
        made.pictures = gr.HTML(elem_id="pictures")
        made.printed = gr.Textbox(label="What it printed", interactive=False, lines=2, max_lines=20, visible=False)


def _settings(gr: Any, made: Layout, settings: Settings) -> None:
    with gr.Accordion("System prompt and sampling", open=False):
        made.system = gr.Textbox(label="System prompt", info="Nothing: each model's own.", value=settings.system or "", lines=2)
        gr.Markdown("Where a field is empty, each model's own value counts. Changes count from the next question on.")
        made.greedy = gr.Checkbox(label="Greedy", info="Take the likeliest token each time.", value=settings.sampling.greedy)
        with gr.Row():
            for each in FIELDS:
                value = getattr(settings.sampling, each.name)
                text = "" if value is None else f"{value:g}"
                made.fields.append(gr.Textbox(label=each.label, info=each.info, value=text, max_lines=1, min_width=180))
