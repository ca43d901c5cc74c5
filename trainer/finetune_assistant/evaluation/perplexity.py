"""Loss and perplexity of held-out dialogues: how well a model expects the answers that people gave, source by source.

In: dialogues and a model. Out: measurements per supervised token, counted as training counts: a model of ours by the template that it was
trained with, another chat model by its own, a base model by plain `User:` and `Assistant:`. Bits per byte of the answers compare across
tokenizers.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.errors import InvalidData, RunFailed
from finetune_assistant.evaluation.results import Measurement
from finetune_assistant.inference.loading import TEMPLATE_FILE
from finetune_trainer.data.dialogues import Dialogue, Dropped
from finetune_trainer.preparation.ignore_index import IGNORE_INDEX

if TYPE_CHECKING:
    from finetune_trainer.preparation.examples import Example
    from finetune_trainer.preparation.labels import Encoder

TASK = "perplexity"
Advance = Callable[[int, int], None]
Note = Callable[[str], None]
# Of one dialogue: loss summed over its supervised tokens in nats, their number, and the bytes of its answers.
Summed = tuple[float, int, int]


def read_dialogues(paths: Iterable[str], limit: int | None, note: Note) -> dict[str, list[Dialogue]]:
    """The dialogues of each source, at most `limit`; of a folder or a data set those of its split `test`. Raises InvalidData."""
    from finetune_api.jobfile import data_source
    from finetune_trainer.data.parsing import parse
    from finetune_trainer.data.sources import read
    from finetune_trainer.secrets import Secrets

    found = {}
    for path in paths:
        source = data_source(f"./{path}" if Path(path).exists() and not Path(path).is_absolute() else path)
        rows = read(source, "train" if Path(path).is_file() else "test", base=Path(), secrets=Secrets(), notice=note)
        items = (item for item in parse(rows, source) if isinstance(item, Dialogue | Dropped))
        found[path] = list(islice(_right_ones(items), limit))
        if not found[path]:
            raise InvalidData(f"--perplexity {path}: it holds no dialogue with an answer; look at `finetune data preview {path}`")
    return found


def _right_ones(items: Iterable[Dialogue | Dropped]) -> Iterator[Dialogue]:
    """Raises InvalidData for a wrong row; those that are merely of no use are left out, as training leaves them out."""
    for item in items:
        if isinstance(item, Dialogue):
            yield item
        elif item.kind == "invalid":
            raise InvalidData(f"{item.source} row {item.row}: {item.reason}; correct the row")


def encoder_of(name: str, folder: Path, note: Note) -> "Encoder":
    """What the model's dialogues are encoded with. Raises InvalidModel."""
    from finetune_api.finetunejob import TemplateSpec
    from finetune_trainer.preparation.labels import Encoder
    from finetune_trainer.templates.registry import template_from_json, template_from_spec
    from finetune_trainer.templates.tokenizer import read_tokenizer

    files = read_tokenizer(folder)
    if (folder / TEMPLATE_FILE).is_file():
        return Encoder(files.tokenizer, template_from_json((folder / TEMPLATE_FILE).read_text(encoding="utf-8")))
    if files.chat_template is None:
        note(f"{name} has no chat template, so its perplexity is of plain text: the names of the roles, and what they say")
    return Encoder(files.tokenizer, template_from_spec(TemplateSpec(name="plain" if files.chat_template is None else "model"), files))


def perplexity(
    model: Any,
    encoder: "Encoder",
    source: str,
    dialogues: Sequence[Dialogue],
    *,
    window: int,
    batch_size: int,
    limit: int | None,
    advance: Advance,
) -> list[Measurement]:
    """Loss, perplexity and bits per byte of a source. `model`: of Transformers. Raises InvalidData where nothing can be asked."""
    lines = _summed(model, encoder, dialogues, window, batch_size, advance)
    return _measurements(source, lines, len(dialogues), limit, is_chat=encoder.template.name != "plain")


def _summed(
    model: Any, encoder: "Encoder", dialogues: Sequence[Dialogue], window: int, batch_size: int, advance: Advance
) -> dict[int, Summed]:
    """One value a dialogue, by its place, of those with a supervised token. Long ones first: memory ends at once or not at all."""
    encoded = encoder.encode(dialogues, max_length=window)
    sizes = [sum(len(message.content.encode()) for message in each.messages if message.role == "assistant") for each in dialogues]
    examples = [(index, example) for index, each in enumerate(encoded) for example in each.examples if example.num_supervised]
    examples.sort(key=lambda pair: -len(pair[1].input_ids))
    losses, tokens = [0.0] * len(dialogues), [0] * len(dialogues)
    for start in range(0, len(examples), batch_size):
        advance(start, len(examples))
        chunk = examples[start : start + batch_size]
        for (index, example), loss in zip(chunk, _losses(model, [example for _, example in chunk]), strict=True):
            losses[index] += loss
            tokens[index] += example.num_supervised
    advance(len(examples), len(examples))
    return {index: each for index, each in enumerate(zip(losses, tokens, sizes, strict=True)) if each[1]}


def _losses(model: Any, examples: Sequence["Example"]) -> list[float]:
    """Summed loss of each example, in nats. Raises RunFailed when memory ends."""
    import torch
    from torch.nn import functional

    length = max(len(example.input_ids) for example in examples)
    ids = torch.tensor([example.input_ids + [0] * (length - len(example.input_ids)) for example in examples])
    labels = torch.tensor([example.labels + [IGNORE_INDEX] * (length - len(example.input_ids)) for example in examples])
    mask = torch.tensor([[1] * len(example.input_ids) + [0] * (length - len(example.input_ids)) for example in examples])
    try:
        with torch.no_grad():
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits[:, :-1].float()
            loss = functional.cross_entropy(
                logits.transpose(1, 2), labels[:, 1:].to(model.device), ignore_index=IGNORE_INDEX, reduction="none"
            )
    except torch.OutOfMemoryError as error:
        raise RunFailed(
            f"memory ran out with {len(examples)} dialogues of {length} tokens at a time; use a smaller --batch-size"
        ) from error
    return [float(each) for each in loss.sum(dim=1)]


def _measurements(source: str, by_place: Mapping[int, Summed], there: int, limit: int | None, *, is_chat: bool) -> list[Measurement]:
    """Raises InvalidData where no dialogue has a supervised token."""
    lines = list(by_place.values())
    if not lines:
        raise InvalidData(f"--perplexity {source}: none of its {there} dialogues has an answer that fits the model's window")
    loss, num_bytes = sum(line[0] for line in lines), sum(line[2] for line in lines)
    tokens = sum(line[1] for line in lines)
    per_token, error = loss / tokens, clustered_error(lines)
    # Their mean is the loss per token and their spread that of its error, so that dialogues can be paired with another model's.
    shares = {
        f"{source} {place}": per_token + (its - per_token * count) * len(lines) / tokens for place, (its, count, _) in by_place.items()
    }
    values: list[tuple[str, float, float | None]] = [("loss", per_token, error)]
    if per_token < 700:  # exp of more is no number
        values.append(("perplexity", math.exp(per_token), None if error is None else math.exp(per_token) * error))
    if num_bytes:
        values.append(("bits per byte", loss / math.log(2) / num_bytes, None))
    return [
        Measurement(
            task=f"{TASK} {source}",
            metric=metric,
            value=value,
            standard_error=standard_error,
            shots=0,
            limit=limit,
            documents=len(lines),
            documents_there=there,
            chat_template=is_chat,
            higher_is_better=False,
            by_document=shares if metric == "loss" else {},
        )
        for metric, value, standard_error in values
    ]


def clustered_error(lines: Sequence[Summed]) -> float | None:
    """Standard error of the loss per token where tokens come in dialogues: of a ratio of sums over them. None for a single one.

    >>> clustered_error([(2.0, 1, 0), (2.0, 1, 0)])
    0.0
    """
    if len(lines) < 2:
        return None
    tokens = sum(line[1] for line in lines)
    mean = sum(line[0] for line in lines) / tokens
    squares = sum((loss - mean * count) ** 2 for loss, count, _ in lines)
    return math.sqrt(squares * len(lines) / (len(lines) - 1)) / tokens
