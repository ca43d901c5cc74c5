"""The JSON that the card and a job's status take."""

import json
import math

from finetune_assistant.evaluation.compare import differences
from finetune_assistant.evaluation.results import EvaluatedModel, Evaluation, Measurement, to_json


def _model(name: str, right: list[float]) -> EvaluatedModel:
    one = Measurement(
        task="arc_challenge",
        metric="acc_norm",
        value=sum(right) / len(right),
        standard_error=math.nan,
        shots=25,
        limit=4,
        documents=4,
        documents_there=1172,
        chat_template=True,
        by_document={str(index): value for index, value in enumerate(right)},
    )
    return EvaluatedModel(model=name, digest="d" * 64, revision=None, dtype="bfloat16", device="cpu", window=64, seconds=1.5, results=[one])


def test_every_number_stands_with_what_it_depends_on() -> None:
    base, tuned = _model("base", [0, 0, 0, 1]), _model("tuned", [1, 1, 1, 1])
    found = Evaluation(models=[base, tuned], differences=differences(base, tuned), settings={"limit": 4}, notes=["a note"])
    read = json.loads(to_json(found))
    assert read["schema"] == "finetune-evaluation/1"
    assert read["libraries"].keys() >= {"lm-eval", "transformers", "torch"}
    assert read["models"][1]["digest"] == "d" * 64
    assert read["models"][1]["results"] == [
        {
            "task": "arc_challenge",
            "metric": "acc_norm",
            "value": 1.0,
            "standardError": None,  # JSON has no NaN
            "shots": 25,
            "limit": 4,
            "documents": 4,
            "documentsThere": 1172,
            "chatTemplate": True,
            "higherIsBetter": True,
            "group": None,
            "samples": None,
        }
    ]
    (difference,) = read["differences"]
    assert (difference["base"], difference["tuned"], difference["difference"]) == ("base", "tuned", 0.75)
    assert difference["verdict"] == "better"
    assert read["notes"] == ["a note"]
    assert read["created"].endswith("+00:00")
