"""For each field that acts under a condition of its own object: a spec in which it is set and can't act, so that it is refused."""

from typing import Any, Final

from pydantic import BaseModel
from pydantic.alias_generators import to_camel
from tests.api.jobs import STARCODERBASE

from finetune_api import finetunejob as api

_KEYS: Final = {"name": "s"}


def _source(path: str = "org/data", **fields: Any) -> dict[str, Any]:
    return {"dataset": {"sources": [{"path": path, **fields}]}}


IDLE_CASES: Final[dict[type[BaseModel], list[tuple[str, dict[str, Any]]]]] = {
    api.BaseModelSpec: [
        ("revision", {"model": {"name": "./base", "revision": "v2"}}),
        ("revision", {"model": {"name": "s3://bucket/base", "revision": "v2"}}),
        ("token_secret", {"model": {"name": "/models/base", "tokenSecret": _KEYS}}),
        ("token_secret", {"model": {"name": "..", "tokenSecret": _KEYS}}),
        ("cache", {"model": {"name": "/models/base", "cache": {"claimName": "c"}}}),
    ],
    api.ModelShape: [
        ("sliding_layers", {"model": {"shape": {**STARCODERBASE.model_dump(by_alias=True, exclude_none=True), "slidingLayers": 1}}})
    ],
    api.DataSource: [
        ("config", _source("./data", config="en")),
        ("config", _source("s3://bucket/data", config="en")),
        ("revision", _source("./data", revision="v2")),
        ("revision", _source("s3://bucket/data", revision="v2")),
        ("columns.messages", _source(format="alpaca", columns={"messages": "m"})),
        ("columns.messages", _source(format="oasst", columns={"messages": "m"})),
        ("columns.prompt", _source(format="messages", columns={"prompt": "m"})),
        ("columns.completion", _source(format="sharegpt", columns={"completion": "m"})),
        ("columns.context", _source(format="messages", columns={"context": "m"})),
        ("columns.system", _source(format="oasst", columns={"system": "m"})),
        ("columns.tree", _source(format="oasst", columns={"tree": "m"})),
        ("columns.tools", _source(format="text", columns={"tools": "m"})),
        ("columns.text", _source(format="messages", columns={"text": "m"})),
        *(
            (f"message_property_mappings.{name}", _source(format="alpaca", messagePropertyMappings={to_camel(name): "x"}))
            for name in api.MessageProperties.model_fields
        ),
        *((f"roles.{name}", _source(format="text", roles={name: ["bot"]})) for name in api.RoleMapping.model_fields),
        ("html", _source(format="messages", html="keep")),
        ("filter.rejected", _source(format="messages", filter={"rejected": "keep"})),
        ("filter.languages", _source(format="tokenized", filter={"languages": ["en"]})),
        ("filter.top_answers", _source(format="dolly", filter={"topAnswers": 1})),
        ("token_secret", _source("./data", tokenSecret=_KEYS)),
        ("token_secret", _source("s3://bucket/data", tokenSecret=_KEYS)),
        ("credentials_secret", _source("org/data", credentialsSecret=_KEYS)),
        ("credentials_secret", _source("/data", credentialsSecret=_KEYS)),
    ],
    api.Dataset: [
        ("repeated_messages", {"dataset": {"repeatedMessages": "once", "sources": [{"path": "org/d", "format": "messages"}]}}),
    ],
    api.TemplateSpec: [
        ("variables", {"template": {"name": "default", "variables": {"enable_thinking": False}}}),
        ("max_examples_per_dialogue", {"template": {"name": "alpaca", "maxExamplesPerDialogue": 4}}),
        ("token_order", {"template": {"name": "model", "tokenOrder": "published"}}),
        ("token_order", {"template": {"name": "chatml", "tokenOrder": "published"}}),
        ("token_order", {"template": {"name": "alpaca", "tokenOrder": "published"}}),
        ("system_turn", {"template": {"name": "model", "systemTurn": False}}),
        ("system_text", {"template": {"name": "default", "systemTurn": False, "systemText": "Be kind."}}),
    ],
    api.Optimizer: [
        ("decay_ratio", {"training": {"optimizer": {"decayRatio": 0.2}}}),
        ("decay_ratio", {"training": {"optimizer": {"decayRatio": 0.2, "schedule": "linear"}}}),
        ("minimum_learning_rate_ratio", {"training": {"optimizer": {"minimumLearningRateRatio": 0.1, "schedule": "constant"}}}),
    ],
    api.Training: [
        ("lora", {"training": {"lora": {"r": 16}}}),
        ("lora", {"training": {"method": "full", "lora": {}}}),
        ("recomputed_layers", {"training": {"activationCheckpointing": False, "recomputedLayers": "fewest"}}),
    ],
    api.FineTuneJobSpec: [
        ("publish.merge", {"publish": {"merge": False}}),
        ("evaluation.every_epochs", {"evaluation": {"everyEpochs": 2}}),
        ("evaluation.every_steps", {"evaluation": {"everySteps": 100}}),
        ("evaluation.early_stopping", {"evaluation": {"earlyStopping": {"patience": 2}}}),
        ("evaluation.early_stopping", {"evaluation": {"earlyStopping": {}}}),
        ("evaluation.micro_batch_size", {"evaluation": {"microBatchSize": 2}}),
        ("publish.gate.evaluation_loss", {"publish": {"gate": {"evaluationLoss": {"max": 1.3}}}}),
        ("publish.gate.judge_win_rate", {"publish": {"gate": {"judgeWinRate": {"min": 0.6}}}}),
        ("publish.gate.judge_win_rate", {"publish": {"gate": {"judgeWinRate": {"min": 0.6}}}, "evaluation": {"tasks": ["hellaswag"]}}),
    ],
    api.Evaluation: [
        ("every_epochs", {"dataset": {"evaluation": {"fraction": 0.1}}, "evaluation": {"everyEpochs": 2, "everySteps": 100}}),
        ("num_fewshot", {"evaluation": {"numFewshot": 5}}),
        ("num_fewshot", {"evaluation": {"numFewshot": 0, "samples": {}}}),
        ("limit", {"evaluation": {"limit": 100, "judge": {"model": "m"}}}),
        ("task_data", {"evaluation": {"taskData": "/data", "tasks": []}}),
        ("batch_size", {"evaluation": {"batchSize": 2}}),
        ("pod", {"evaluation": {"pod": {"gpus": 1}}}),
        ("pod", {"evaluation": {"pod": {}}}),
    ],
}
