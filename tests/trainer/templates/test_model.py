"""Chat templates in Jinja: what is learnt of a dialogue, which dialogues are refused, and what is told."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from tests.tools.small_tokenizers import ROOT, template_tokens, tokenizer
from tests.trainer.chat_data import CHATML, dialogue, encoder, messages

from finetune_api.errors import InvalidModel
from finetune_api.finetunejob import TemplateSpec
from finetune_trainer.data.dialogues import Dialogue, Message
from finetune_trainer.preparation.examples import Encoded
from finetune_trainer.preparation.labels import Encoder
from finetune_trainer.templates.registry import template_from_json, template_from_spec, template_notes
from finetune_trainer.templates.tokenizer import TokenizerFiles, read_tokenizer

TEMPLATES = ROOT / "tests/data/templates"
CALL = {"type": "function", "function": {"name": "look_up", "arguments": {"word": "cat"}}}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"word": {"type": "string"}}}}}


def made(template: str, *, kind: str = "byte_level", day: date | None = None, **spec: Any) -> Encoder:
    """An encoder with a template of tests/data/templates, or with a text."""
    text = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8") if template.isidentifier() else template
    small = tokenizer(kind, tuple(template_tokens(text)))
    named = {"bos_token": "<s>", "eos_token": "</s>"}
    files = TokenizerFiles(path=Path("tokenizer"), tokenizer=small, named_tokens=named, chat_template=text, digest="")
    return Encoder(small, template_from_spec(TemplateSpec(name="model", **spec), files, day))


def one(encoder: Encoder, item: Dialogue, **options: Any) -> Encoded:
    (encoded,) = encoder.encode([item], **options)
    return encoded


def learnt(encoder: Encoder, item: Dialogue, **options: Any) -> list[list[str]]:
    """Per example, the texts that are learnt."""
    encoded = one(encoder, item, **options)
    assert encoded.refused is None
    return [
        [encoder.tokenizer.decode(each.input_ids[span.start : span.stop], skip_special_tokens=False) for span in each.supervised]
        for each in encoded.examples
    ]


def with_tools(*more: Message, calls: int = 1) -> Dialogue:
    said = [Message(role="user", content="Look up cat.")]
    for _ in range(calls):
        said += [Message(role="assistant", content="", tool_calls=(CALL,)), Message(role="tool", content="An animal.", name="look_up")]
    return Dialogue(source="s", row=1, tree="t", messages=(*said, Message(role="assistant", content="It is.")), tools=(TOOL,))


# What is learnt


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("chatml", [["one<|over|>", "two<|over|>"]]),
        ("space_before_answer", [[" one</s>", " two</s>"]]),
        ("empty_think_block", [["<think></think>\none<|user|>", "<think></think>\ntwo<|user|>"]]),
        ("last_ends_twice", [["one<|end|>", "two<|end|>"]]),
        ("left_open", [["one<|answer_end|>", "two<|answer_end|>"]]),
        ("marked", [["one<|over|>", "two<|over|>"]]),
        ("think_in_last", [["<think>\n\n</think>\n\none<|over|>"], ["<think>\n\n</think>\n\ntwo<|over|>"]]),
        ("channel", [["<|channel|>final<|text|>one<|done|>"], ["<|channel|>final<|text|>two<|done|>"]]),
    ],
)
def test_an_answer_is_learnt_from_where_its_prompt_ends_to_what_closes_it(template: str, expected: list[list[str]]) -> None:
    """W1, W2, W3, W4, N1 and marks."""
    assert learnt(made(template), dialogue("first", "one", "second", "two")) == expected


def test_examples_of_one_dialogue_are_bounded_and_the_rest_is_counted() -> None:
    """W4: one example a turn, of the last turns."""
    ours = made("think_in_last", max_examples_per_dialogue=3)
    talk = dialogue(*[f"{kind}{number}" for number in range(6) for kind in "qa"])
    encoded = one(ours, talk)
    assert (len(encoded.examples), encoded.own_examples, encoded.beyond_bound) == (3, 2, 3)
    assert [texts[0].split("\n")[-1] for texts in learnt(ours, talk)] == ["a3<|over|>", "a4<|over|>", "a5<|over|>"]


def test_tool_calls_and_reasoning_are_learnt() -> None:
    talk = with_tools()
    thinking = talk._replace(messages=(*talk.messages[:-1], Message(role="assistant", content="It is.", reasoning="I see.")))
    call = '\n<tool_call>\n{"name": "look_up", "arguments": {"word": "cat"}}\n</tool_call><|over|>'
    assert learnt(made("tools"), thinking) == [[call, "<think>\nI see.\n</think>\n\nIt is.<|over|>"]]


def test_a_template_without_tools_refuses_such_rows_by_number() -> None:
    assert one(made("chatml"), with_tools()).refused == "the row has tool calls or tools, and the template writes none"
    assert "has no tool calls" in str(one(encoder(name="default"), with_tools()).refused)


def test_the_word_tools_in_a_template_does_not_make_it_write_calls() -> None:
    text = "{# tools tool_calls #}" + (TEMPLATES / "chatml.jinja").read_text(encoding="utf-8")
    assert one(made(text), with_tools()).refused is not None


def test_reasoning_that_a_template_does_not_write_is_told_with_a_count() -> None:
    talk = dialogue("first", "one")
    thinking = talk._replace(messages=(talk.messages[0], talk.messages[1]._replace(reasoning="hm")))
    assert one(made("chatml"), thinking).reasoning_left_out == 1


def test_a_flag_of_a_message_comes_before_the_masking() -> None:
    talk = dialogue("first", "one", "second", "two")
    flagged = talk._replace(messages=(talk.messages[0], talk.messages[1]._replace(learnt=False), *talk.messages[2:]))
    assert learnt(made("chatml"), flagged) == [["two<|over|>"]]
    assert learnt(encoder(name="no_system"), flagged) == [["two<|end|>"]]


@pytest.mark.parametrize(("masking", "expected"), [("last_assistant", ["two<|over|>"]), ("all", None)])
def test_other_maskings(masking: str, expected: list[str] | None) -> None:
    ours = made("chatml", masking=masking)
    talk = dialogue("first", "one", "second", "two")
    found = one(ours, talk).examples[0]
    assert learnt(ours, talk) == [expected or [ours.tokenizer.decode(found.input_ids, skip_special_tokens=False)]]


# One dialogue that the template can't take is one bad row


@pytest.mark.parametrize(
    ("template", "talk", "reason"),
    [
        ("space_before_answer", dialogue("q", "a", system="Be kind."), "only users and assistants speak here"),
        ("{% for m in messages %}{% if m.role == 'user' %}<|u|>{{ m.content }}{% else %}<|a|>"
         "{{ m.content.split('</think>')[-1] }}<|e|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}",
         dialogue("q", "<think>x</think>y"), "message 2 (assistant): the template changes its text"),
        ("{% for m in messages %}{% if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|e|>{% endif %}{% endfor %}"
         "{% if add_generation_prompt %}<|assistant|>{% endif %}",
         dialogue("q", "a", system="Be kind."), "message 1 (system): the template leaves its text out"),
    ],
)  # fmt: skip
def test_a_dialogue_that_the_template_can_not_take_is_refused_alone(template: str, talk: Dialogue, reason: str) -> None:
    ours = made(template)
    bad, good = ours.encode([talk, dialogue("q", "a")])
    assert bad.refused is not None
    assert reason in bad.refused
    assert good.refused is None
    assert len(good.examples) == 1


def test_an_empty_system_message_is_no_message() -> None:
    ours = made("space_before_answer")
    assert one(ours, dialogue("q", "a", system="")).examples == one(ours, dialogue("q", "a")).examples


def test_white_space_that_a_template_strips_is_told_with_a_count() -> None:
    ours = made("stripping")
    talk = dialogue(" q ", "\n    indented code\n", "q2", " a2")
    assert one(ours, talk).altered == 3
    assert learnt(ours, talk) == [["indented code<|eot|>", "a2<|eot|>"]]


# Cost and limits


@pytest.mark.parametrize("body", ["{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "{{ 'x' * 10 ** 12 }}"])
def test_a_template_that_never_ends_or_eats_memory_is_bounded(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_trainer.templates.trial._SECONDS", 2)
    with pytest.raises(InvalidModel, match=r"does not come to an end within 2 s|writes more than any conversation explains|numbers"):
        made(body + CHATML)


def test_a_template_whose_text_doubles_runs_out_of_its_memory_and_not_of_ours() -> None:
    body = "{% set n = namespace(x='abcdefgh') %}{% for a in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
    with pytest.raises(InvalidModel, match="memory"):
        made(body + CHATML)


def test_the_cost_of_a_long_dialogue_grows_with_its_length() -> None:
    """Renderings are counted, not seconds: twice the exchanges must not mean four times the messages rendered."""
    ours = made("chatml")
    rendered: list[int] = []
    source = ours.template.source  # type: ignore[attr-defined]

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(source, name)

        def render(self, conversation: Any, *rest: Any) -> str:
            rendered.append(len(conversation))
            return str(source.render(conversation, *rest))

    ours.template = replace(ours.template, source=Counting())  # type: ignore[type-var]
    costs = []
    for exchanges in (100, 400):
        rendered.clear()
        encoded = one(ours, dialogue(*["text"] * (2 * exchanges)))
        assert len(encoded.examples[0].supervised) == exchanges
        costs.append(sum(rendered))
    assert costs[1] < 5 * costs[0]


def test_a_row_with_ten_thousand_tool_calls_is_learnt_in_bounded_time() -> None:
    encoded = one(made("tools"), with_tools(calls=10_000))
    assert encoded.refused is None
    assert len(encoded.examples[0].supervised) == 10_001


# Dates, variables, auto, the user's own


def test_the_date_of_a_run_is_frozen_and_told() -> None:
    ours = made("date", day=date(2026, 3, 4))
    assert "04 March 2026" in ours.template.render(messages("q", "a"))
    assert any("2026-03-04" in note for note in ours.template.notes)
    again = template_from_json(ours.template.to_json())
    assert "04 March 2026" in again.render(messages("q", "a"))


def test_a_text_that_the_template_writes_of_its_own_is_told() -> None:
    assert any("Today is" in note and "text of its own" in note for note in made("date").template.notes)


def test_variables_reach_the_template() -> None:
    with pytest.raises(InvalidModel, match="set a variable of the template"):
        made("thinks_unless_told")
    told = made("thinks_unless_told", variables={"enable_thinking": False})
    assert learnt(told, dialogue("q", "a")) == [["a<|over|>"]]
    # An engine that sets nothing asks as the model was trained.
    from transformers.utils.chat_template_utils import render_jinja_template

    conversation = [{"role": "user", "content": "q"}]
    (asked,), _ = render_jinja_template([conversation], chat_template=told.template.chat_template(), add_generation_prompt=True)
    assert asked == told.template.render(messages("q"), True)
    assert template_from_json(told.template.to_json()) == told.template


def test_auto_is_the_tokenizers_own_template_where_it_has_one(tmp_path: Path) -> None:
    from tests.trainer.templates.test_framed import model_folder

    own = read_tokenizer(model_folder(tmp_path))
    spec = TemplateSpec()
    assert template_from_spec(spec, own).name == "model"
    assert template_notes(spec, template_from_spec(spec, own), own)[0] == "template: the chat template of the model's tokenizer"
    without = replace(own, chat_template=None)
    assert template_from_spec(spec, without).name == "default"
    assert "default" in template_notes(spec, template_from_spec(spec, without), without)[0]


def test_templates_beside_the_default_one_are_told(tmp_path: Path) -> None:
    """Transformers takes `tool_use` for rows with tools, where a tokenizer has it."""
    from tests.trainer.templates.test_framed import model_folder

    listed = tmp_path / "listed"
    listed.mkdir()
    file = model_folder(listed, None) / "tokenizer_config.json"
    config = json.loads(file.read_text())
    named = [{"name": name, "template": CHATML} for name in ("default", "tool_use")]
    file.write_text(json.dumps(config | {"chat_template": named}))
    own = read_tokenizer(file.parent)
    assert (own.chat_template, own.other_templates) == (CHATML, ("tool_use",))
    spec = TemplateSpec()
    told = " ".join(template_notes(spec, template_from_spec(spec, own), own))
    assert "the tokenizer also has chat templates named tool_use, which are not used" in told
    file.write_text(json.dumps(config | {"chat_template": named[1:]}))
    assert read_tokenizer(file.parent).chat_template is None
    beside = file.parent / "additional_chat_templates"
    beside.mkdir()
    (beside / "rag.jinja").write_text(CHATML)
    assert read_tokenizer(file.parent).other_templates == ("rag", "tool_use")


def test_an_answer_that_white_space_closes_is_told_apart_from_one_that_nothing_closes() -> None:
    spaced = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    for text, said in {spaced: "with white space alone", spaced.replace("\n\n", ""): "with nothing"}.items():
        with pytest.raises(InvalidModel, match=f"closes an answer {said}.*spec.template.name: plain, or give it with an end"):
            made(text)
    # The remedy, followed.
    ended = spaced.replace("'\n\n'", "(eos_token if m.role == 'assistant' else '') + '\n\n'")
    assert learnt(made(ended), dialogue("q", "a")) == [["a</s>"]]


def test_the_users_own_template() -> None:
    ours = encoder(name="jinja", jinja=CHATML)
    assert ours.template.name == "jinja"
    assert learnt(ours, dialogue("q", "a")) == [["a<|im_end|>"]]
    assert template_from_json(ours.template.to_json()).chat_template() == CHATML


def test_a_tokenizer_without_the_templates_tokens_is_told() -> None:
    notes = encoder(name="jinja", jinja=CHATML).template.notes
    assert any("'<|im_end|>', which is no control token of this tokenizer" in note for note in notes)


# Tokenizer files


def test_end_and_begin_only_in_special_tokens_map_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    small = tokenizer("byte_level", ("<|im_start|>", "<|im_end|>"))
    small.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>"}))
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    ours = read_tokenizer(tmp_path).named_tokens
    assert (ours["eos_token"], ours["bos_token"]) == (theirs.eos_token, theirs.bos_token) == ("<|im_end|>", "<|im_start|>")
