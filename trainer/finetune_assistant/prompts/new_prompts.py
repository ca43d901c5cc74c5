"""New code prompts, asked of a model at an endpoint: kinds and languages in the shares of ours, none of ours among them.

In: how many, an endpoint, a file. Out: JSON lines as our own have them, written anew after each reply; a file that is there is filled up.
What the endpoint is, and what becomes of the prompts, is unknown here.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from finetune_api.errors import EndpointFailed, FineTuneError, Interrupted, RunConflict
from finetune_assistant.curation.words import words
from finetune_assistant.endpoint.client import Message, Reply
from finetune_assistant.prompts.code_prompts import Prompt, code_prompts, read_prompts
from finetune_trainer.files.atomic import write_atomically

_AT_ONCE = 5  # prompts of one request
_BARREN = 3  # replies in a row without a new prompt, after which it is given up
_SHORTEST, _LONGEST = 40, 6_000  # characters
_RUN = 3  # words in a row that two prompts are compared by
_ALIKE = 0.5  # share of such runs that makes one prompt the other's double

_SYSTEM = (
    "You write requests that programmers send to an assistant, to find out how good it is. Each is written as by another person, "
    "says all that is needed to answer it, is about another subject than the others, and has no answer in it."
)
_KINDS = {
    "write": "Each asks for code, and shows none.",
    "review": "Each shows code of 5 to 40 lines in a fenced block, with one mistake that a careful reader can find, and asks for a review. "
    "It doesn't say what the mistake is.",
}
_FORM = "Reply with a JSON list of strings, one a request, and nothing else."


class Author(Protocol):
    """Who is asked."""

    def ask(self, messages: Sequence[Message]) -> Reply:
        """The reply to a request."""


@dataclass(slots=True)
class Filled:
    """A file of prompts, as far as it got. `dropped`: reason -> how many, of what was written."""

    prompts: list[Prompt] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def missing(count: int, prompts: Sequence[Prompt] = ()) -> Counter[tuple[str, str]]:
    """Kinds and languages of what makes `count` of `prompts`: each next one is what lags furthest behind its share of ours.

    >>> missing(4)
    Counter({('write', 'python'): 2, ('review', 'python'): 1, ('write', 'javascript'): 1})
    """
    ours, there = ([(prompt.kind, prompt.language) for prompt in each] for each in (code_prompts(), prompts))
    found: Counter[tuple[str, str]] = Counter()
    for _ in range(len(there), count):
        kind = _furthest_behind([kind for kind, _ in ours], [kind for kind, _ in there])
        language = _furthest_behind(*([language for of, language in each if of == kind] for each in (ours, there)))
        found[kind, language] += 1
        there.append((kind, language))
    return found


def _furthest_behind(ours: Sequence[str], there: Sequence[str]) -> str:
    shares, counted = Counter(ours), Counter(there)
    number = sum(counted[name] for name in shares) + 1
    return max(sorted(shares), key=lambda name: shares[name] / len(ours) * number - counted[name])


def fill(path: Path, count: int, author: Author, on_progress: Callable[[int, int], None]) -> Filled:
    """Ask until the file holds `count` prompts. Raises EndpointFailed when nothing new comes, RunConflict, InvalidData."""
    with _held(path):
        filled = Filled(prompts=list(read_prompts(path)) if path.is_file() and path.stat().st_size else [])
        with _told(filled, count, path):
            on_progress(len(filled.prompts), count)
            written = partial(_write, path, filled, on_progress, count)
            for (kind, language), number in missing(count, filled.prompts).items():
                _add(filled, kind, language, number, author, written)
    return filled


def _add(filled: Filled, kind: str, language: str, number: int, author: Author, written: Callable[[], None]) -> None:
    """`number` more of one kind and language."""
    barren = 0
    known = [_runs(prompt.prompt) for prompt in (*code_prompts(), *filled.prompts)]
    while number > 0:
        reply = author.ask(_messages(filled, kind, language, min(number, _AT_ONCE), barren))
        found = 0
        for text in _texts(reply.text):
            runs = _runs(text)
            if reason := _unfit(text, kind) or ("a double" if any(_alike(runs, other) for other in known) else ""):
                filled.dropped[reason] += 1
            elif found < number:
                known.append(runs)
                filled.prompts.append(Prompt(id=f"new-{len(filled.prompts) + 1:03}", prompt=text, kind=kind, language=language))
                found += 1
        number -= found
        barren = 0 if found else barren + 1
        if barren == _BARREN:
            why = ", ".join(f"{times} x {reason}" for reason, times in filled.dropped.most_common()) or "no JSON list of texts"
            told = f"{_BARREN} replies in a row had no new prompt ({kind}, {language}; so far: {why})"
            raise EndpointFailed(f"{told}; choose another --model or --temperature")
        if found:
            written()


def _messages(filled: Filled, kind: str, language: str, number: int, attempt: int) -> list[Message]:
    """The same prompts so far are the same request, which is answered from what is kept; another attempt is another one."""
    here = [prompt for prompt in filled.prompts if (prompt.kind, prompt.language) == (kind, language)]
    ours = [prompt.prompt for prompt in code_prompts() if (prompt.kind, prompt.language) == (kind, language)]
    lines = [f"Write {number} requests about {language}. {_KINDS[kind]}", _FORM]
    lines.append(f"Not like these:\n{json.dumps(ours[:3], ensure_ascii=False)}")
    if here:
        beginnings = [" ".join(prompt.prompt.split())[:80] for prompt in here]
        lines.append(f"Nor about what these are about:\n{json.dumps(beginnings, ensure_ascii=False)}")
    if attempt:
        lines.append(f"This is attempt {attempt + 1}: what you wrote before was no JSON list, or not new.")
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "\n\n".join(lines)}]


def _texts(reply: str) -> list[str]:
    """The strings of the list in a reply, whatever is around it; empty where there is none.

    >>> _texts('Here you are: ["Sort a list.", 7, " "]')
    ['Sort a list.']
    """
    begin, end = reply.find("["), reply.rfind("]")
    try:
        found: Any = json.loads(reply[begin : end + 1], strict=False)
    except (ValueError, RecursionError):
        return []
    return [text.strip() for text in found if isinstance(text, str) and text.strip()] if isinstance(found, list) else []


def _unfit(text: str, kind: str) -> str:
    if not _SHORTEST <= len(text) <= _LONGEST:
        return "too short or too long"
    if ("```" in text) != (kind == "review"):
        return "no code to review" if kind == "review" else "code in a request to write some"
    return ""


def _runs(text: str) -> frozenset[tuple[str, ...]]:
    found = words(text)
    return frozenset(tuple(found[at : at + _RUN]) for at in range(max(1, len(found) - _RUN + 1)))


def _alike(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> bool:
    return len(one & other) >= _ALIKE * min(len(one), len(other))


def _write(path: Path, filled: Filled, on_progress: Callable[[int, int], None], count: int) -> None:
    rows = "".join(json.dumps(asdict(prompt), ensure_ascii=False) + "\n" for prompt in filled.prompts)
    write_atomically(path, rows.encode("utf-8", errors="replace"))
    on_progress(len(filled.prompts), count)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    from finetune_trainer.files.locks import LockHeld, locked

    lock = path.with_name(f".{path.name}.lock")
    try:
        with locked(lock):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except LockHeld as held:
        raise RunConflict(f"--output {path}: process {held.holder} is writing it; wait for its end, or give another file") from None


@contextmanager
def _told(filled: Filled, count: int, path: Path) -> Iterator[None]:
    """Errors and Ctrl-C say how far it got."""
    try:
        yield
    except (FineTuneError, KeyboardInterrupt) as error:
        told = f"{len(filled.prompts):,} of {count:,} prompts are in {path}: run the command again, and it goes on"
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"stopped; {told}") from error
        raise type(error)(f"{error}; {told}") from error
