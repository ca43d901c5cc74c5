"""Try a folder of chat templates: which can be learnt from, why the others can't, and whether ids and labels are right.

    python -m tests.tools.templates FOLDER [--json]

In: a folder whose files are Jinja chat templates, whatever their names. Out: a line for each, and counts. Each template is tried with
many conversations and small tokenizers of four kinds; ids are compared with those of Transformers' `apply_chat_template`, and what is
learnt with what the answers say. Public templates are not ours to copy: this tool is.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.tools.small_tokenizers import KINDS, template_tokens, tokenizer
from tokenizers import Tokenizer

from finetune_api.errors import FineTuneError
from finetune_api.finetunejob import TemplateSpec
from finetune_trainer.data.dialogues import Dialogue, Message
from finetune_trainer.preparation.labels import Encoder
from finetune_trainer.templates.conversation import CallStyle, payload
from finetune_trainer.templates.registry import template_from_spec
from finetune_trainer.templates.tokenizer import TokenizerFiles

TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look a word up.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string", "description": "The word."}}, "required": ["word"]},
    },
}


@dataclass(slots=True)
class Verdict:
    """What became of one template."""

    name: str
    supported: bool
    reason: str = ""  # why not
    answers: int = 0  # that were learnt
    wrong: list[str] = field(default_factory=list)  # ids or labels that are not as they should be
    seams: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # conversations, by reason
    examples_a_turn: bool = False
    tools: bool = False
    marked: bool = False


def message(role: str, content: str, **more: Any) -> Message:
    """For short."""
    return Message(role=role, content=content, **more)  # type: ignore[arg-type]


def conversations() -> Iterator[tuple[str, Dialogue]]:
    """Each text is unlike every other, so that what is learnt can be told from what isn't. Those called plain must work."""
    exchanges = [("What is Alpha?", "Alpha is the first."), ("And Beta, then?", "Beta comes second."), ("Tell me of Gamma.", "Gamma: 3.")]
    for count in (1, 2, 3):
        yield f"plain {count}", _dialogue([text for pair in exchanges[:count] for text in pair])
    code = ["Sort it.\nPlease!", "def sort(items):\n    return sorted(items)", "Thanks 🙂 é", "안녕 you"]
    yield "plain code", _dialogue(code)
    yield "system", _dialogue(["Who are you?", "Nobody special."], system="Be brief.")
    yield "empty system", _dialogue(["Who are you?", "Nobody special."], system="")
    yield "open question", _dialogue(["First one?", "Yes, first.", "Second one?"])
    yield "white space", _dialogue(["  Space before", "  spaced answer ", "after \n", "\n\n    indented\n"])
    yield "thought in an answer", _dialogue(["Think!", "<think>hm</think>Done.", "Again!", "Done again."])
    yield "reasoning", _dialogue_of([message("user", "Why so?"), message("assistant", "Because.", reasoning="Let me see.")])
    yield (
        "tools",
        _dialogue_of(
            [
                message("user", "Look up cat."),
                message("assistant", "", tool_calls=(_call("cat"),)),
                message("tool", "An animal.", name="look_up", tool_call_id="call00001"),
                message("assistant", "A cat is an animal."),
            ],
            tools=(TOOL,),
        ),
    )


def _call(word: str) -> dict[str, Any]:
    return {"type": "function", "id": "call00001", "function": {"name": "look_up", "arguments": {"word": word}}}


def _dialogue(texts: list[str], system: str | None = None) -> Dialogue:
    first = [] if system is None else [message("system", system)]
    return _dialogue_of([*first, *(message("assistant" if index % 2 else "user", text) for index, text in enumerate(texts))])


def _dialogue_of(messages: list[Message], tools: tuple[dict[str, Any], ...] = ()) -> Dialogue:
    return Dialogue(source="conversations", row=1, tree="1", messages=tuple(messages), tools=tools)


def judged(name: str, template: str, variables: dict[str, Any] | None = None) -> Verdict:
    """Try one template."""
    verdict = Verdict(name=name, supported=False)
    tokens = tuple(template_tokens(template))
    for kind in KINDS:
        made = tokenizer(kind, tokens)
        files = TokenizerFiles(
            path=Path(name), tokenizer=made, named_tokens={"bos_token": "<s>", "eos_token": "</s>"}, chat_template=template, digest=""
        )
        try:
            encoder = Encoder(made, template_from_spec(TemplateSpec(name="model", variables=variables), files))
        except FineTuneError as error:
            verdict.reason = str(error)
            return verdict
        facts = encoder.template.facts  # type: ignore[attr-defined]
        verdict.marked, verdict.tools = facts.marked, facts.calls is not None
        by_transformers = _transformers(made, template, variables or {}, facts.calls or CallStyle())
        for title, dialogue in conversations():
            _try(verdict, f"{kind}, {title}", title, dialogue, encoder, by_transformers)
            if verdict.reason:
                return verdict
    verdict.supported = not verdict.wrong
    verdict.reason = "" if verdict.supported else verdict.wrong[0]
    return verdict


def _try(verdict: Verdict, where: str, title: str, dialogue: Dialogue, encoder: Encoder, by_transformers: Any) -> None:
    (encoded,) = encoder.encode([dialogue])
    if encoded.refused:
        if title.startswith("plain"):
            verdict.reason = encoded.refused
        reason = f"{title}: {encoded.refused}"
        verdict.refused[reason] = verdict.refused.get(reason, 0) + 1
        return
    answers = [index for index, each in enumerate(dialogue.messages) if each.role == "assistant"]
    learnt = [
        (example, span, encoder.tokenizer.decode(example.input_ids[span.start : span.stop], skip_special_tokens=False))
        for example in encoded.examples
        for span in example.supervised
    ]
    verdict.answers += len(learnt)
    verdict.seams += encoded.seams
    verdict.examples_a_turn |= len(encoded.examples) > 1
    if len(learnt) > len(answers):  # an answer may be learnt in several ranges: what holds no next answer belongs to the one before
        whole = [learnt[0]]
        for example, span, text in learnt[1:]:
            wanted = dialogue.messages[answers[len(whole)]].content.strip() if len(whole) < len(answers) else None
            if wanted and wanted in text:
                whole.append((example, span, text))
            else:
                whole[-1] = (*whole[-1][:2], whole[-1][2] + text)
        learnt = whole
    if len(learnt) != len(answers):
        verdict.wrong.append(f"{where}: {len(learnt)} of {len(answers)} answers learnt")
        return
    for index, (_, _, text) in zip(answers, learnt, strict=True):
        problem = _wrong_label(dialogue, index, text, title)
        if problem:
            verdict.wrong.append(f"{where}: {problem}")
    for example in encoded.examples:
        if not encoded.seams and not _is_theirs(example.input_ids, dialogue, encoded.closed, by_transformers):
            verdict.wrong.append(f"{where}: ids are not those of apply_chat_template")


def _wrong_label(dialogue: Dialogue, index: int, text: str, title: str) -> str | None:
    """Labels hold the answer and nothing that others wrote."""
    own = dialogue.messages[index]
    wanted = own.content.split("</think>")[-1].strip() or own.tool_calls[0]["function"]["name"]
    if "".join(wanted.split()) not in "".join(text.split()):
        return f"answer {wanted!r} is learnt as {text!r}"
    others = [each.content.strip() for other, each in enumerate(dialogue.messages) if other != index and len(each.content.strip()) > 3]
    foreign = next((other for other in others if "".join(other.split()) in "".join(text.split()) and other not in wanted), None)
    return f"{foreign!r} is learnt in {text!r}" if foreign else None


def _is_theirs(ids: list[int], dialogue: Dialogue, closed: int, by_transformers: Any) -> bool:
    """Whether the ids are those of the whole dialogue, or of its beginning up to an answer; beside an end that was added."""
    found = [list(by_transformers(dialogue.messages[: count + 1], dialogue.tools)) for count in reversed(range(len(dialogue.messages)))]
    return any(each == ids or (closed and each and each == ids[: len(each)] and len(ids) - len(each) <= 8) for each in found)


def _transformers(made: Tokenizer, template: str, variables: dict[str, Any], style: CallStyle) -> Any:
    """`apply_chat_template` of the whole dialogue; nothing where it refuses."""
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    theirs.chat_template = template

    def ids(messages: tuple[Message, ...], tools: tuple[dict[str, Any], ...]) -> list[int]:
        if messages and messages[0].role == "system" and not messages[0].content:
            messages = messages[1:]
        conversation = payload(messages, style)
        try:
            return list(theirs.apply_chat_template(conversation, tools=list(tools) or None, return_dict=True, **variables)["input_ids"])
        except Exception:  # whatever a template raises: the beginning of a dialogue need not be one that it takes
            return []

    return ids


def main() -> None:
    """Ends with 1 when a label or an id is wrong."""
    parser = argparse.ArgumentParser(description="Try a folder of chat templates.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON object a template")
    parser.add_argument("--variables", type=json.loads, default=None, metavar="JSON", help="variables of every template")
    arguments = parser.parse_args()
    verdicts = []
    for file in sorted(path for path in arguments.folder.iterdir() if path.is_file()):
        text = file.read_text(encoding="utf-8", errors="replace")
        if file.suffix == ".json":
            value = json.loads(text)
            text = value.get("chat_template", "") if isinstance(value, dict) else str(value)
        verdict = judged(file.name, text, arguments.variables)
        verdicts.append(verdict)
        if arguments.json:
            print(json.dumps(asdict(verdict), ensure_ascii=False), flush=True)
        else:
            how = "supported, one example a turn" if verdict.examples_a_turn else "supported"
            print(f"{file.name}: {how if verdict.supported else verdict.reason}", flush=True)
    wrong = sum(len(verdict.wrong) for verdict in verdicts)
    answers, count = sum(verdict.answers for verdict in verdicts), sum(verdict.supported for verdict in verdicts)
    print(f"{count} of {len(verdicts)} supported, {answers:,} answers learnt, {wrong} wrong", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
