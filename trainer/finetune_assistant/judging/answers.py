"""Answers to be judged: what models said to prompts, read from files, and two models' answers to the same prompts side by side.

In: JSON lines as `finetune generate` writes them: `prompt` (text, or messages) or `messages`, `answer`, and if they are there `id`,
`sample`, `model`, `kind`, `language`. Out: answers cut at control tokens. What a judge makes of them is unknown here.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api.errors import InvalidData
from finetune_api.json_text import json_value
from finetune_assistant.prompts.code_prompts import Prompt, code_prompts

# Control tokens of chat templates: ours, ChatML's, Llama's, Gemma's, Phi's and the ends of text of GPT-2 and Llama 2.
_TOKEN_NAMES = (
    "end|endoftext|end_of_text|user|system|assistant|im_start|im_end|im_sep|eot_id|eom_id|start_header_id|end_header_id|begin_of_text"
)
_CONTROL_TOKEN = re.compile(rf"<\|(?:{_TOKEN_NAMES})\|>|<(?:start|end)_of_turn>|</s>\s*\Z")
_LEAD = re.compile(r"\A\s*(?:<\|im_start\|>assistant|<\|assistant\|>|<\|start_header_id\|>assistant<\|end_header_id\|>)\s*")
_NAMED = 3  # prompts that a message names

Turns = tuple[tuple[str, str], ...]  # role and text of each message up to the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer. `key`: what the same prompt has in another model's file; `cut`: the answer ran on past a control token."""

    key: str
    turns: Turns
    text: str
    model: str
    kind: str = ""
    language: str = ""
    cut: bool = False

    @property
    def prompt(self) -> str:
        """The request as one text."""
        return prompt_text(self.turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two answers to one prompt."""

    key: str
    turns: Turns
    answer_a: str
    answer_b: str
    kind: str = ""
    language: str = ""

    @property
    def prompt(self) -> str:
        """The request as one text."""
        return prompt_text(self.turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Pairs in the order of the first file, the names of the two models, and the prompts that only one of them answered."""

    pairs: Sequence[Pair]
    names: tuple[str, str]
    only_one: Sequence[str] = ()


def read_answers(path: Path, *, stop: Sequence[str] = ()) -> list[Answer]:
    """The answers of a file, in its order. `stop`: further texts that end an answer. Raises InvalidData, naming the row."""
    known = {prompt.prompt: prompt for prompt in code_prompts()}
    answers: dict[str, Answer] = {}
    for number, row in _rows(path):
        answer = _answer(row, f"{path} row {number}", path.stem, known, stop)
        key = _free(answer.key, answers)
        answers[key] = replace(answer, key=key)
    if not answers:
        raise InvalidData(f"{path} holds no answers; write it with `finetune generate MODEL prompts.jsonl -o {path}`")
    return list(answers.values())


def _free(key: str, taken: Collection[str]) -> str:
    """A key that isn't taken: a prompt that is there twice has two answers, the first for the first.

    >>> _free("p", ["p", "p again 2"])
    'p again 3'
    """
    number = 1
    while (free := key if number == 1 else f"{key} again {number}") in taken:
        number += 1
    return free


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row, object), counted as lines."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _object(line, f"{path} row {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(f"{path} can't be read: {getattr(error, 'strerror', None) or error}; give a file of JSON lines") from error


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        row = json_value(line)
    except ValueError as error:
        raise InvalidData(f"{place} is no JSON: {error}; write one object a line") from error
    if not isinstance(row, dict):
        raise InvalidData(f"{place} is no object; write {{'prompt': ..., 'answer': ...}}")
    return row


def _answer(row: Mapping[str, Any], place: str, stem: str, known: Mapping[str, Prompt], stop: Sequence[str]) -> Answer:
    turns = _turns(row.get("messages") or row.get("prompt"), place)
    prompt = prompt_text(turns)
    if not isinstance(row.get("answer"), str):
        raise InvalidData(f"{place} has no text `answer`; it has {', '.join(sorted(map(str, row)))}")
    text = _whole(cut_at_control_tokens(row["answer"], stop))
    ours = known.get(prompt)
    identity = str(row["id"]) if row.get("id") is not None else prompt
    sample = row.get("sample")
    return Answer(
        key=identity if sample in (None, 0) else f"{identity} sample {sample}",
        turns=turns,
        text=text,
        model=str(row.get("model") or stem),
        kind=str(row.get("kind") or (ours.kind if ours else "")),
        language=str(row.get("language") or (ours.language if ours else "")),
        cut=text != row["answer"].strip(),
    )


def _turns(prompt: Any, place: str) -> Turns:
    """The messages of a prompt; a text is a user's. Raises InvalidData."""
    if isinstance(prompt, str) and prompt.strip():
        return (("user", _whole(prompt)),)
    if isinstance(prompt, list) and prompt and all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in prompt):
        return tuple((str(turn.get("role", "user")), _whole(turn["content"])) for turn in prompt)
    raise InvalidData(f"{place}: `prompt` is neither a text nor a list of messages with role and content")


def _whole(text: str) -> str:
    """Without halves of characters, which JSON can hold, and which can be neither written nor sent."""
    return text.encode("utf-8", errors="replace").decode()


def prompt_text(turns: Turns) -> str:
    r"""A prompt as text: of several messages each with its role before it.

    >>> prompt_text((("user", "Sort a list."),))
    'Sort a list.'
    >>> prompt_text((("user", "Hi"), ("assistant", "Hello!")))
    'user: Hi\n\nassistant: Hello!'
    """
    return turns[0][1] if len(turns) == 1 else "\n\n".join(f"{role}: {text}" for role, text in turns)


def pair_row(pair: Pair) -> dict[str, Any]:
    """A pair for JSON, its prompt as in the files of answers."""
    prompt = pair.prompt if len(pair.turns) == 1 and pair.turns[0][0] == "user" else as_messages(pair.turns)
    texts = {name: getattr(pair, name) for name in ("answer_a", "answer_b", "kind", "language")}
    return {"key": pair.key, "prompt": prompt, **texts}


def pair_of(row: Mapping[str, Any]) -> Pair:
    """What `pair_row` made. Raises KeyError, or InvalidData."""
    texts = {name: _whole(str(row[name])) for name in ("key", "answer_a", "answer_b")}
    return Pair(
        turns=_turns(row["prompt"], f"pair {row['key']}"), **texts, kind=str(row.get("kind", "")), language=str(row.get("language", ""))
    )


def as_messages(turns: Turns) -> list[dict[str, str]]:
    """As chat templates and TRL have them."""
    return [{"role": role, "content": text} for role, text in turns]


def cut_at_control_tokens(text: str, stop: Sequence[str] = ()) -> str:
    r"""An answer up to the first token with which a template goes on; the header of the answer itself is taken off.

    >>> cut_at_control_tokens("<|assistant|>\nUse a set.<|end|>\n<|user|>\nThanks")
    'Use a set.'
    >>> cut_at_control_tokens("It is 4.\n-----\nHuman: and", stop=["-----"])
    'It is 4.'
    """
    text = _LEAD.sub("", text)
    found = _CONTROL_TOKEN.search(text)
    ends = [found.start()] if found else []
    ends += [place for word in stop if (place := text.find(word)) >= 0]
    return text[: min(ends, default=len(text))].strip()


def paired(a: Sequence[Answer], b: Sequence[Answer]) -> Pairs:
    """The answers to the same prompts. Raises InvalidData when there are none, or when one `id` stands for two prompts."""
    others = {answer.key: answer for answer in b}
    pairs = []
    for one in a:
        other = others.get(one.key)
        if other is None:
            continue
        if one.turns != other.turns:
            raise InvalidData(f"id {one.key!r} has another prompt in each file; give both models the same prompts")
        kind, language = one.kind or other.kind, one.language or other.language
        pairs.append(Pair(key=one.key, turns=one.turns, answer_a=one.text, answer_b=other.text, kind=kind, language=language))
    if not pairs:
        raise InvalidData(f"the files have no prompt in common: {_first(a)} against {_first(b)}; let both models answer the same prompts")
    common = {pair.key for pair in pairs}
    only_one = [answer.key for answer in (*a, *b) if answer.key not in common]
    return Pairs(pairs=pairs, names=_names(a, b), only_one=only_one)


def _first(answers: Sequence[Answer]) -> str:
    return ", ".join(repr(answer.key[:40]) for answer in answers[:_NAMED])


def _names(a: Sequence[Answer], b: Sequence[Answer]) -> tuple[str, str]:
    """What the two models are called; never the same."""
    names = [", ".join(sorted({answer.model for answer in answers})) for answers in (a, b)]
    return (names[0], names[1]) if names[0] != names[1] else (f"{names[0]} (first file)", f"{names[1]} (second file)")
