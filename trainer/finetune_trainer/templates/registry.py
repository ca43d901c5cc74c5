"""The template that a job asks for, or that a trained model brings, and its control tokens in a tokenizer.

In: a job's `template` or a dialogue_template.json. Out: a Template of either kind; this is the only file that knows both.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from tokenizers import AddedToken, Tokenizer

from finetune_api.errors import InvalidModel, InvalidSpec, Problem
from finetune_api.finetunejob import ControlTokens, TemplateSpec
from finetune_api.json_text import json_value
from finetune_trainer.templates.framed import PLAIN_NAMES, SYSTEM_TEXTS, FramedTemplate
from finetune_trainer.templates.model import ModelTemplate, Source
from finetune_trainer.templates.probe import REMEDY, probed
from finetune_trainer.templates.tokenizer import TokenizerFiles
from finetune_trainer.templates.trial import try_out
from finetune_trainer.templates.turns import Template

TEMPLATE_NAMES = ("auto", *SYSTEM_TEXTS, "model", "jinja")


def chosen_name(spec: TemplateSpec, files: TokenizerFiles) -> str:
    """What `auto` stands for: the tokenizer's own template where it has one, else ours."""
    return spec.name if spec.name != "auto" else "default" if files.chat_template is None else "model"


def template_from_spec(spec: TemplateSpec, files: TokenizerFiles, day: date | None = None) -> Template:
    """The template that a job asks for. `day`: what templates that write a date are told. Raises InvalidSpec or InvalidModel."""
    name = chosen_name(spec, files)
    if name in ("model", "jinja"):
        return _jinja_template(name, spec, files, day or datetime.now(UTC).date())
    if name not in SYSTEM_TEXTS:
        raise InvalidSpec([Problem("spec.template.name", f"{name} is unknown", f"use one of {', '.join(TEMPLATE_NAMES)}")])
    plain = name in PLAIN_NAMES
    if plain and files.end_of_text is None:
        raise InvalidModel(f"{files.path}: template {name} needs a token that ends a text, and the tokenizer names none; set eos_token")
    text = spec.system_text if spec.system_text is not None else SYSTEM_TEXTS[name]
    return FramedTemplate(
        name=name,
        tokens=None if plain or name == "chatml" else spec.tokens or ControlTokens(),
        order=spec.token_order,
        # An alpaca prompt without a preamble has no empty lines in its place.
        system_text=None if not spec.system_turn or (plain and not text) else text,
        masking=spec.masking,
        end_of_text=files.end_of_text if plain else None,
        begin=files.begin,
    )


def template_notes(spec: TemplateSpec, template: Template, files: TokenizerFiles) -> list[str]:
    """What a user should know of the template before training: which one it is, where the job leaves that open, and what it does."""
    names = ", ".join(files.other_templates)
    unused = (
        f"the tokenizer also has chat templates named {names}, which are not used, for rows with tools either; one of them can be given "
    )
    others = [f"{unused}as spec.template.jinja with name: jinja"] if names and template.name != "jinja" else []
    chosen = {"model": "the chat template of the model's tokenizer", "default": "default, for the tokenizer has no chat template"}
    return [*([f"template: {chosen[template.name]}"] if spec.name == "auto" else []), *others, *template.notes]


def _jinja_template(name: str, spec: TemplateSpec, files: TokenizerFiles, day: date) -> ModelTemplate:
    """Tried before it is used. Raises InvalidModel or InvalidSpec."""
    text = spec.jinja if name == "jinja" else files.chat_template
    if text is None:
        raise InvalidModel(f"{files.path}: the tokenizer has no chat_template, which template model needs; {REMEDY}")
    if spec.masking == "blog":
        message = f"blog is defined by control tokens of ours, and template {name} has none"
        raise InvalidSpec([Problem("spec.template.masking", message, "use assistant, or set spec.template.name: default")])
    source = Source(text=text, variables={**files.named_tokens, **(spec.variables or {})}, day=day, chosen=tuple(spec.variables or ()))
    try_out(source)
    facts = probed(source, tuple(files.control_tokens(text)))
    return ModelTemplate(
        name=name,
        source=source,
        facts=facts,
        system_text=spec.system_text if spec.system_turn else None,
        masking=spec.masking,
        most_examples=spec.max_examples_per_dialogue,
    )


def template_from_json(text: str) -> Template:
    """The template that `to_json` wrote. Raises InvalidModel."""
    try:
        value = json_value(text)
        if value["version"] != 2:
            raise InvalidModel(
                f"dialogue_template.json has version {value['version']}, and this program reads 2; use the one that wrote it"
            )
        return _from_value(value)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidModel(f"dialogue_template.json is damaged ({type(error).__name__}: {error}); export the model again") from None


def _from_value(value: dict[str, Any]) -> Template:
    if value["name"] in ("model", "jinja"):
        return ModelTemplate.from_value(value)
    template = FramedTemplate(
        name=value["name"],
        tokens=None if value["tokens"] is None else ControlTokens(**value["tokens"]),
        order=value["tokenOrder"],
        system_text=value["systemText"],
        masking=value["masking"],
        end_of_text=value["endOfText"],
        begin=value["begin"],
    )
    ids = value["tokenIds"]
    return template if ids is None else replace(template, token_ids=tuple(ids[token] for token in template.new_tokens))


def add_control_tokens(tokenizer: Tokenizer, template: Template) -> Template:
    """Give each control token one id, in the template's order; those that the tokenizer holds keep theirs. Changes `tokenizer`.

    Returns the template with the ids. If it has ids already, it comes from a trained model, and they must be the same: raises InvalidModel.
    """
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in template.new_tokens])
    ids: tuple[int, ...] = tuple(map(tokenizer.token_to_id, template.new_tokens))  # type: ignore[arg-type]  # all are there now
    for token, token_id in zip(template.new_tokens, ids, strict=True):
        if tokenizer.encode(token, add_special_tokens=False).ids != [token_id]:
            raise InvalidModel(f"control token {token} does not become one token of this tokenizer; choose another text for it")
    if template.token_ids is not None and template.token_ids != ids:
        raise InvalidModel(
            f"the model was trained with {_pairs(template.new_tokens, template.token_ids)}, and this tokenizer has "
            f"{_pairs(template.new_tokens, ids)}; roles would be mistaken for one another: use the tokenizer exported with the model"
        )
    return replace(template, token_ids=ids) if isinstance(template, FramedTemplate) else template


def _pairs(tokens: Sequence[str], ids: Sequence[int]) -> str:
    return ", ".join(f"{token} = {token_id}" for token, token_id in zip(tokens, ids, strict=True))
