"""The template that a job asks for, or that a trained model brings, and its control tokens in a tokenizer.

In: a job's `template` or a dialogue_template.json. Out: a Template of either kind; this is the only file that knows both.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tokenizers import AddedToken, Tokenizer

from finetune_api.errors import InvalidModel, InvalidSpec, Problem
from finetune_api.finetunejob import ControlTokens, TemplateSpec
from finetune_trainer.templates.framed import SYSTEM_TEXTS, FramedTemplate
from finetune_trainer.templates.model import ModelTemplate, model_template
from finetune_trainer.templates.tokenizer import TokenizerFiles
from finetune_trainer.templates.turns import Template

TEMPLATE_NAMES = (*SYSTEM_TEXTS, "model")


def template_from_spec(spec: TemplateSpec, files: TokenizerFiles) -> Template:
    """The template that a job asks for. Raises InvalidSpec, or InvalidModel if the tokenizer lacks what it needs."""
    if spec.name == "model":
        return model_template(spec, files)
    if spec.name not in SYSTEM_TEXTS:
        raise InvalidSpec([Problem("spec.template.name", f"{spec.name} is unknown", f"use one of {', '.join(TEMPLATE_NAMES)}")])
    alpaca = spec.name == "alpaca"
    if alpaca and files.end_of_text is None:
        raise InvalidModel(f"{files.path}: template alpaca needs a token that ends a text, and the tokenizer names none; set eos_token")
    text = spec.system_text if spec.system_text is not None else SYSTEM_TEXTS[spec.name]
    return FramedTemplate(
        name=spec.name,
        tokens=None if alpaca else spec.tokens or ControlTokens(),
        order=spec.token_order,
        # An alpaca prompt without a preamble has no empty lines in its place.
        system_text=None if not spec.system_turn or (alpaca and not text) else text,
        masking=spec.masking,
        end_of_text=files.end_of_text if alpaca else None,
    )


def template_from_json(text: str) -> Template:
    """The template that `to_json` wrote. Raises InvalidModel."""
    try:
        value = json.loads(text)
        if value["version"] != 1:
            raise InvalidModel(
                f"dialogue_template.json has version {value['version']}, and this program reads 1; use the one that wrote it"
            )
        return _from_value(value)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidModel(f"dialogue_template.json is damaged ({type(error).__name__}: {error}); export the model again") from None


def _from_value(value: dict[str, Any]) -> Template:
    if value["name"] == "model":
        return ModelTemplate.from_value(value)
    template = FramedTemplate(
        name=value["name"],
        tokens=None if value["tokens"] is None else ControlTokens(**value["tokens"]),
        order=value["tokenOrder"],
        system_text=value["systemText"],
        masking=value["masking"],
        end_of_text=value["endOfText"],
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
