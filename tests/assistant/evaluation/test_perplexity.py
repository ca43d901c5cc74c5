"""The loss of held-out dialogues, against one dialogue at a time through Transformers' own loss."""

import json
import math
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from tests.assistant.evaluation.small_benchmarks import base_model, tuned_run

from finetune_api.errors import InvalidData
from finetune_assistant.evaluation.perplexity import encoder_of, perplexity, read_dialogues

ROWS = [
    [("user", "Hello?"), ("assistant", "Good day. What do you need?")],
    [("user", "A list, please."), ("assistant", "apples\npears"), ("user", "Thanks."), ("assistant", "Gladly.")],
    [("system", "Be short."), ("user", "How deep is the sea?"), ("assistant", "Deep.")],
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("perplexity")
    tuned_run(place / "run", base_model(place / "base"))
    lines = [json.dumps({"messages": [{"role": role, "content": content} for role, content in row]}) for row in ROWS]
    (place / "held-out.jsonl").write_text("\n".join(lines) + "\n")
    return place


def _model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


@pytest.mark.parametrize(("name", "is_chat", "batch_size"), [("base", False, 1), ("base", False, 8), ("run/model", True, 2)])
def test_a_batch_gives_the_loss_of_its_dialogues_one_by_one(place: Path, name: str, is_chat: bool, batch_size: int) -> None:
    import torch

    model, notes, told = _model(place / name), list[str](), list[tuple[int, int]]()
    encoder = encoder_of(name, place / name, notes.append)
    dialogues = read_dialogues([str(place / "held-out.jsonl")], None, pytest.fail)[str(place / "held-out.jsonl")]
    found = perplexity(
        model,
        encoder,
        "held-out",
        dialogues,
        window=1024,
        batch_size=batch_size,
        limit=None,
        advance=lambda done, total: told.append((done, total)),
    )
    summed, tokens = 0.0, 0
    for each in encoder.encode(dialogues):
        (example,) = each.examples
        labels = torch.tensor([example.labels])
        count = int((labels[:, 1:] != -100).sum())
        summed += count * float(model(torch.tensor([example.input_ids]), labels=labels).loss.detach())
        tokens += count
    values = {one.metric: one for one in found}
    assert values["loss"].value == pytest.approx(summed / tokens, rel=1e-5)
    assert values["perplexity"].value == pytest.approx(math.exp(summed / tokens), rel=1e-4)
    num_bytes = sum(len(content) for row in ROWS for role, content in row if role == "assistant")
    assert values["bits per byte"].value == pytest.approx(summed / math.log(2) / num_bytes, rel=1e-5)
    assert (values["loss"].documents, values["loss"].chat_template, values["loss"].higher_is_better) == (3, is_chat, False)
    assert values["loss"].standard_error
    assert values["loss"].is_mean
    shares = list(values["loss"].by_document.values())
    assert stdev(shares) / 3**0.5 == pytest.approx(values["loss"].standard_error)
    assert told[-1] == (3, 3)
    assert ("has no chat template" in "".join(notes)) is not is_chat


def test_a_limit_takes_the_first_dialogues(place: Path) -> None:
    found = read_dialogues([str(place / "held-out.jsonl")], 2, pytest.fail)
    assert [len(dialogues) for dialogues in found.values()] == [2]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"messages": [{"role": "robot", "content": "x"}]}, "row 1"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no dialogue with an answer"),
    ],
)
def test_rows_that_are_wrong_or_of_no_use_are_told(tmp_path: Path, row: dict[str, Any], told: str) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InvalidData, match=told):
        read_dialogues([str(tmp_path / "rows.jsonl")], None, pytest.fail)
