"""A playground from names to a served page: the command and a Space begin here, and differ in where they listen.

In: a Start. Out: a page that is served until it is closed. What can be refused is refused before models are loaded, which may take minutes.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from finetune_api.errors import InvalidInput
from finetune_assistant.inference.loading import Dtype, LoadIn, load, model_place
from finetune_assistant.inference.own_thread import OwnThread
from finetune_assistant.inference.sampling import AS_THE_MODEL, Sampling
from finetune_assistant.playground.layout import Offer
from finetune_assistant.playground.pictures import why_not_run
from finetune_assistant.playground.serving import Served, served
from finetune_assistant.playground.talks import Talks
from finetune_assistant.playground.voices import Settings, Voice, voice_of
from finetune_assistant.playground.votes import VoteFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a playground is of. `prompt`: dialogue prompting of the base, or of the model where there is no base. `votes` is a path."""

    model: str
    base: str | None = None
    revision: str | None = None
    prompt: str | None = None
    system: str | None = None
    sampling: Sampling = AS_THE_MODEL
    dtype: Dtype = "auto"
    load_in: LoadIn | None = None
    votes: str | None = None


def voice_names(start: Start) -> tuple[str, ...]:
    """What the page and the votes call the models: visitors need not know where folders lie. Raises InvalidInput for the same twice.

    >>> voice_names(Start(model="runs/tiny/model", base="org/base"))
    ('tiny', 'org/base')
    """
    given = [start.model, *([start.base] if start.base is not None else [])]
    short = [_short(name) for name in given]
    names = short if len(set(short)) == len(short) else given
    if len(set(names)) == len(names):
        return tuple(names)
    if start.prompt is None:
        raise InvalidInput(f"--base {start.base} is MODEL itself; name another, or ask it by dialogue prompting with --prompt")
    return names[0], f"{names[1]} by {Path(start.prompt).stem} prompt"


def _short(name: str) -> str:
    """The last part of a folder's path that says something; a model on the Hub as it is."""
    path = Path(name)
    if not (path.is_absolute() or path.exists() or name.count("/") != 1):
        return name
    parts = [part for part in path.parts if part not in ("/", ".", "..")]
    return next((part for part in reversed(parts) if part != "model"), name)


def check(start: Start) -> VoteFile | None:
    """Refuse what would fail after the models are loaded; where votes go. Raises InvalidInput."""
    names = voice_names(start)
    for name in (start.model, start.base):
        if name is not None:
            model_place(name)
    if len(names) == 1:
        if start.votes is not None:
            raise InvalidInput("--votes is for two models; name the other with --base")
        return None
    votes = VoteFile(path=Path(start.votes or "votes.jsonl"), names=(names[0], names[1]))
    votes.check()
    return votes


@contextmanager
def playground(
    start: Start, listener: socket.socket, *, share: bool = False, told: Callable[[str], None] = lambda _note: None
) -> Iterator[Served]:
    """Load the models and serve their page on a bound socket until the block ends. `told` gets what a user should know of the models."""
    try:
        votes = check(start)
        # Before the models are loaded: a package may be missing. Imported here, it would be too late.
        from finetune_assistant.playground.page import blocks

        names = voice_names(start)
        prompts = [None, start.prompt] if start.base is not None else [start.prompt]
        voices: list[Voice] = []
        for name, place, prompt in zip(names, (start.model, start.base), prompts, strict=False):
            assert place is not None
            revision = start.revision if place is start.model else None
            thread = OwnThread()
            loaded = thread.run(partial(load, place, revision=revision, prompt=prompt, dtype=start.dtype, load_in=start.load_in))
            for note in loaded.notes:
                told(note)
            voices.append(voice_of(loaded, name, thread))
        settings = Settings(system=start.system, sampling=start.sampling)
        for voice in voices:
            voice.begin(settings.system, settings.sampling)  # a prompt file may be too long for its window
        talks = Talks(voices)
        page = blocks(talks, Offer(title=f"Playground: {names[0]}", settings=settings, votes=votes, no_running=why_not_run()))
    except BaseException:
        listener.close()
        raise
    with served(page, listener, share=share) as at:
        try:
            yield at
        finally:
            talks.close()
