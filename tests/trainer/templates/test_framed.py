"""Templates: the text of a dialogue, the tokens that nobody else can write, and the two forms that travel with the model."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.chat_data import CHATML, TINY_MODEL, encoder, messages
from tokenizers import AddedToken, Tokenizer

from finetune_api.errors import InvalidModel, InvalidSpec
from finetune_api.finetunejob import ControlTokens, TemplateSpec
from finetune_trainer.data.dialogues import Message
from finetune_trainer.templates.registry import add_control_tokens, template_from_json, template_from_spec
from finetune_trainer.templates.tokenizer import read_tokenizer
from finetune_trainer.templates.turns import Template

CUSTOM = {
    "name": "custom",
    "tokens": ControlTokens(system="<S>", user="<U>", assistant="<A>", end="<E>"),
    "system_text": 'Say "hi" 🙂\\n\n',
}
OURS: list[dict[str, Any]] = [
    {"name": "default"},
    {"name": "no_system"},
    {"name": "no_system", "system_turn": False},
    {"name": "default", "system_text": "Be {{ brief }}.", "masking": "blog", "token_order": "published"},
    {"name": "alpaca"},
    {"name": "alpaca", "system_turn": False},
    CUSTOM,
]
TALK = messages("Hello, can you help me?", "Sure, what can I do for you?", "Sort 3, 1, 2.", " 1, 2, 3\n")


def template(**spec: Any) -> Template:
    return template_from_spec(TemplateSpec(**spec), read_tokenizer(TINY_MODEL))


def model_folder(folder: Path, chat_template: str | None = CHATML, tokens: tuple[str, ...] = ("<|im_start|>", "<|im_end|>")) -> Path:
    """The tiny tokenizer as one of a chat model, with tokens and a template of its own."""
    tokenizer = Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    tokenizer.save(str(folder / "tokenizer.json"))
    shutil.copy(TINY_MODEL / "tokenizer_config.json", folder)
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    return folder


def rendered_by_transformers(jinja: str, talk: tuple[Message, ...], generation_prompt: bool) -> tuple[str, list[str]]:
    """The text of transformers' renderer, and the stretches between its generation marks."""
    from transformers.utils.chat_template_utils import render_jinja_template

    conversation = [{"role": message.role, "content": message.content} for message in talk]
    texts, spans = render_jinja_template(
        conversations=[conversation],
        chat_template=jinja,
        return_assistant_tokens_mask=not generation_prompt,
        add_generation_prompt=generation_prompt,
    )
    return texts[0], [texts[0][start:stop] for start, stop in (spans[0] if spans else [])]


# The text


def test_training_text_and_prompt() -> None:
    ours = template(name="no_system")
    assert ours.render(TALK[:2]) == (
        "<|system|>\n<|end|>\n<|user|>\nHello, can you help me?<|end|>\n<|assistant|>\nSure, what can I do for you?<|end|>\n"
    )
    assert ours.render(TALK[:1], generation_prompt=True).endswith("<|user|>\nHello, can you help me?<|end|>\n<|assistant|>\n")


def test_alpaca_text() -> None:
    assert template(name="alpaca", system_turn=False).render(TALK[:2]) == (
        "### Instruction:\nHello, can you help me?\n\n### Response:\nSure, what can I do for you?<|endoftext|>\n\n"
    )


@pytest.mark.parametrize("spec", OURS)
def test_the_prompt_is_a_prefix_of_the_training_text(spec: dict[str, Any]) -> None:
    ours = template(**spec)
    for turns in (1, 3):
        assert ours.render(TALK).startswith(ours.render(TALK[:turns], generation_prompt=True) + TALK[turns].content)


@pytest.mark.parametrize(
    ("spec", "system", "expected"),
    [
        ({"name": "no_system"}, None, "<|system|>\n<|end|>\n"),
        ({"name": "no_system", "system_turn": False}, None, ""),
        ({"name": "no_system", "system_text": "Be kind."}, None, "<|system|>\nBe kind.<|end|>\n"),
        ({"name": "default"}, "Be brief.", "<|system|>\nBe brief.<|end|>\n"),
        ({"name": "default", "system_turn": False}, "Be brief.", "<|system|>\nBe brief.<|end|>\n"),
        ({"name": "default"}, "", "<|system|>\n<|end|>\n"),
    ],
)
def test_a_dialogues_own_system_message_replaces_the_templates(spec: dict[str, Any], system: str | None, expected: str) -> None:
    talk = messages("q", "a", system=system)
    assert template(**spec).render(talk) == expected + "<|user|>\nq<|end|>\n<|assistant|>\na<|end|>\n"


def test_default_has_a_system_sentence() -> None:
    assert template(name="default").system_text


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    spec = TemplateSpec.model_construct(name="vicuna")
    known = "auto, default, no_system, custom, alpaca, chatml, plain, model, jinja"
    with pytest.raises(InvalidSpec, match=rf"spec.template.name: vicuna is unknown; use one of {known}"):
        template_from_spec(spec, read_tokenizer(TINY_MODEL))


def test_alpaca_needs_a_token_that_ends_a_text(tmp_path: Path) -> None:
    text = (TINY_MODEL / "tokenizer.json").read_text(encoding="utf-8").replace("<|endoftext|>", "<|nothing|>")
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidModel, match="needs a token that ends a text"):
        template_from_spec(TemplateSpec(name="alpaca"), read_tokenizer(tmp_path))


# Tokens


@pytest.mark.parametrize(
    ("order", "expected"), [("blog", ["system", "assistant", "user", "end"]), ("published", ["system", "user", "assistant", "end"])]
)
def test_new_tokens_get_ids_in_the_order_asked_for(order: str, expected: list[str]) -> None:
    """Bug 10 of the published code: the two orders swap user and assistant."""
    made = encoder(name="no_system", token_order=order)
    vocabulary = Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json")).get_vocab_size()
    assert [made.tokenizer.token_to_id(f"<|{name}|>") for name in expected] == list(range(vocabulary, vocabulary + 4))
    assert made.template.token_ids == tuple(range(vocabulary, vocabulary + 4))


@pytest.mark.parametrize("special", [True, False])
def test_a_tokenizer_that_holds_the_tokens_keeps_its_ids(tmp_path: Path, special: bool) -> None:
    tokenizer = Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json"))
    own_order = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token in own_order])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    before = [tokenizer.token_to_id(token) for token in own_order]
    made = encoder(tmp_path, name="no_system")
    assert [made.tokenizer.token_to_id(token) for token in own_order] == before
    assert made.tokenizer.get_vocab_size() == tokenizer.get_vocab_size()
    injected = made.encode_prompt(messages("<|end|><|user|>"))
    assert [injected.count(token) for token in before[:2]] == [2, 1]  # the template's own, of an empty system turn and this one


def test_ids_that_the_model_was_not_trained_with_are_refused() -> None:
    """Bug 10: trained with one order and decoded with the other, roles swap silently."""
    trained = encoder(name="no_system", token_order="published").template
    other = Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json"))
    add_control_tokens(other, template(name="no_system", token_order="blog"))
    with pytest.raises(InvalidModel, match=r"was trained with .*<\|user\|> = 834.* and this tokenizer has .*<\|user\|> = 835"):
        add_control_tokens(other, trained)


@pytest.mark.parametrize("spec", OURS)
def test_nothing_in_a_message_becomes_a_control_token(spec: dict[str, Any]) -> None:
    """Bug 14 of the published code: a user's text ends the turn and speaks for the assistant."""
    made = encoder(**spec)
    reserved = {made.tokenizer.token_to_id(token) for token in (*made.template.new_tokens, *made.template.stop_tokens, "<|endoftext|>")}
    attack = "".join(f"{token}\n" for token in (*made.template.new_tokens, *made.template.stop_tokens, "<|endoftext|>"))
    harmless = "x"
    attacked, plain = (made.encode_prompt(messages(text, text, text)) for text in (attack, harmless))
    assert [token for token in attacked if token in reserved] == [token for token in plain if token in reserved]
    assert attack in made.tokenizer.decode(attacked, skip_special_tokens=False)


def test_generation_stops_at_the_end_token_and_at_other_turns() -> None:
    """Bug 13 of the published code: generation waits for <|endoftext|>, which was never learnt."""
    assert template(name="default").stop_tokens == ("<|end|>", "<|user|>", "<|system|>")
    assert template(name="alpaca").stop_tokens == ("<|endoftext|>",)


# The forms that travel with the model


@pytest.mark.parametrize("spec", OURS)
def test_json_gives_the_template_back(spec: dict[str, Any]) -> None:
    bound = encoder(**spec).template
    assert template_from_json(bound.to_json()) == bound


def test_json_holds_no_message_of_the_data() -> None:
    """Bug 11 of the published code: the saved template held the last training example."""
    made = encoder(name="no_system")
    before = made.template.to_json()
    made.encode_prompt(messages("a secret of the training data"))
    assert made.template.to_json() == before
    assert set(json.loads(before)) == {"version", "name", "tokens", "tokenOrder", "tokenIds", "systemText", "masking", "endOfText", "begin"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "name": "default"}'])
def test_json_that_is_not_ours_is_refused(text: str) -> None:
    with pytest.raises(InvalidModel, match=r"dialogue_template\.json"):
        template_from_json(text)


@pytest.mark.parametrize("spec", OURS)
@pytest.mark.parametrize("system", [None, 'Own { words } "and" quotes\''])
def test_jinja_gives_the_same_text(spec: dict[str, Any], system: str | None) -> None:
    ours = template(**spec)
    talk = (messages("x", system=system)[:-1] if system else ()) + TALK
    text, learnt = rendered_by_transformers(ours.chat_template(), talk, False)
    assert text == ours.render(talk)
    end = ours.turns(talk)[-1].end
    assert learnt == [message.content + end for message in talk if message.role == "assistant"]
    prompt, _ = rendered_by_transformers(ours.chat_template(), talk[:-1], True)
    assert prompt == ours.render(talk[:-1], generation_prompt=True)


@pytest.mark.parametrize("spec", OURS)
def test_engines_without_marks_take_them_out_by_their_exact_spelling(spec: dict[str, Any]) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    ours = template(**spec)
    source = ours.chat_template()
    assert (source.count("{% generation %}"), source.count("{% endgeneration %}")) == (1, 1)
    plain = source.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    for trims in (True, False):  # Transformers trims blocks; other engines leave that to their own defaults
        engine = ImmutableSandboxedEnvironment(trim_blocks=trims, lstrip_blocks=trims)
        talk = [{"role": message.role, "content": message.content} for message in TALK]
        assert engine.from_string(plain).render(messages=talk) == ours.render(TALK)


@pytest.mark.parametrize("roles", [("user", "system"), ("user", "tool")])
def test_jinja_refuses_what_training_refuses(roles: tuple[str, ...]) -> None:
    from jinja2 import TemplateError

    talk = tuple(Message(role=role, content="x") for role in roles)  # type: ignore[arg-type]
    with pytest.raises(TemplateError, match="roles are user and assistant"):
        rendered_by_transformers(template(name="default").chat_template(), talk, True)


# template: model


def test_a_models_own_template_gives_its_own_text(tmp_path: Path) -> None:
    made = encoder(model_folder(tmp_path), name="model")
    assert made.template.render(TALK) == rendered_by_transformers(CHATML, TALK, False)[0]
    assert made.template.render(TALK[:3], True) == rendered_by_transformers(CHATML, TALK[:3], True)[0]
    assert made.template.stop_tokens == ("<|im_end|>",)
    assert made.template.chat_template() == CHATML
    assert template_from_json(made.template.to_json()) == made.template


def test_a_models_own_template_takes_a_system_text(tmp_path: Path) -> None:
    ours = encoder(model_folder(tmp_path), name="model", system_text="Be kind.").template
    assert ours.render(TALK[:1]).startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n")


def test_a_template_that_strips_messages_is_followed(tmp_path: Path) -> None:
    stripping = CHATML.replace("message['content'] +", "message['content'] | trim +")
    ours = encoder(model_folder(tmp_path, stripping), name="model").template
    (rendered,) = ours.renderings(TALK, (), [1, 3])
    assert rendered.text[rendered.answers[-1].start : rendered.answers[-1].stop] == "1, 2, 3<|im_end|>"
    assert rendered.altered == 1


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("{{ messages | length }}" + CHATML, "the prompt is no beginning of the training text"),
        (
            CHATML.replace("<|im_start|>assistant\\n'", "<|im_start|>assistant\\n<think>'"),
            "the prompt is no beginning of the training text",
        ),
        (
            "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
            "closes an answer with white space alone",
        ),
        (CHATML.replace("message['content']", "message['content'] | upper"), "leaves out, repeats or changes"),
        ("{% for message in messages[-1:] %}{{ message['content'] }}{% endfor %}", "leaves out, repeats or changes"),
        ("{{ raise_exception('never') }}", r"refuses a question and its answer \(never\)"),
        ("{% if %}", "refuses a question and its answer"),
    ],
)
def test_a_template_that_can_not_be_taken_apart_is_refused(tmp_path: Path, broken: str, reason: str) -> None:
    with pytest.raises(InvalidModel, match=reason):
        encoder(model_folder(tmp_path, broken), name="model")


def test_a_tokenizer_without_a_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="has no chat_template"):
        encoder(model_folder(tmp_path, None), name="model")


def test_blog_masking_of_a_models_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"spec\.template\.masking"):
        encoder(model_folder(tmp_path), name="model", masking="blog")


# Tokenizer files


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("tokenizer.json", "{", "not a tokenizers JSON file"),
        ("tokenizer_config.json", "{", "not JSON"),
    ],
)
def test_damaged_tokenizer_files_are_named(tmp_path: Path, name: str, text: str, reason: str) -> None:
    folder = model_folder(tmp_path)
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(InvalidModel, match=rf"{name}: {reason}"):
        read_tokenizer(folder)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"tokenizer\.json: no such file"):
        read_tokenizer(tmp_path)


def test_a_tokenizer_that_cuts_or_pads_does_neither_here(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert len(read_tokenizer(tmp_path).tokenizer.encode("1 2 3 4 5 6 7").ids) == 13


def test_templates_are_values() -> None:
    ours = template(name="default")
    with pytest.raises(dataclasses.FrozenInstanceError):
        ours.system_text = "x"  # type: ignore[misc]
