"""A model of ours that says a sentence and a token that ends it, and would go on for ever: a next token depends on the last one alone."""

from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.assistant.tiny_models import OLD_VOCABULARY
from tests.exported_models import ModelWeights, base_folder, source_model, training_run
from tokenizers import Tokenizer

ANSWER = "Use sorted, with a key."


def chained_run(folder: Path, *, ends_with: int = -1) -> Path:
    """A run folder whose exported model answers `ANSWER`, greedily, to whatever is asked in its template, and then an ending token.

    `ends_with`: which of the control tokens it is, in their order: system, assistant, user, end. Prompts end in a newline.
    """
    from finetune_trainer.publishing.export import export

    folder.mkdir(parents=True)
    base = base_folder(folder / "base", "llama")
    run = training_run(base, template={"name": "no_system"}, generation={"repetitionPenalty": 1.0})
    (folder / "run.json").write_text(run.to_json())
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    newline, runs_on = (tokenizer.encode(text).ids[-1] for text in ("\n", "z"))
    end = run.vocabulary.new_token_ids[ends_with]
    model = source_model(base, rows=OLD_VOCABULARY + 4)
    _chain(model, [newline, *tokenizer.encode(ANSWER).ids, end, runs_on, runs_on])
    export(run, ModelWeights(model), step=3, base=base, folder=folder / "model")
    return folder


def _chain(model: Any, ids: list[int]) -> None:
    """Let each of these tokens be followed by the next one: layers add nothing, and the head knows an embedding's successor."""
    import torch

    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for number, token_id in enumerate(dict.fromkeys(ids)):
            model.model.embed_tokens.weight[token_id] = torch.eye(model.config.hidden_size)[number]
        for token_id, following in pairwise(ids):
            model.lm_head.weight[following] += model.model.embed_tokens.weight[token_id]
