"""finetune_assistant/drafting/translation.py, conversions.py and foreign_sources.py: axolotl's and TRL's files in the fields of a job."""

from collections.abc import Mapping
from typing import Any

import pytest

from finetune_api.finetunejob import DataSource
from finetune_assistant.drafting.acceptance import problem_with
from finetune_assistant.drafting.fields_below import nested
from finetune_assistant.drafting.translation import Translation, translation

# An axolotl file of ours, with its own names of keys.
AXOLOTL: dict[str, Any] = {
    "base_model": "org/base",
    "model_type": "AutoModelForCausalLM",
    "tokenizer_type": "AutoTokenizer",
    "trust_remote_code": False,
    "load_in_8bit": False,
    "load_in_4bit": False,
    "strict": False,
    "chat_template": "chatml",
    "datasets": [
        {
            "path": "org/chats",
            "type": "chat_template",
            "split": "train",
            "field_messages": "conversations",
            "message_property_mappings": {"role": "from", "content": "value"},
            "roles": {"user": ["human"], "assistant": ["gpt"]},
            "roles_to_train": ["assistant"],
            "train_on_eos": "turn",
        },
        {"path": "org/orders", "type": "alpaca", "name": "english", "shards": 4},
    ],
    "dataset_prepared_path": "prepared",
    "val_set_size": 0.02,
    "output_dir": "./outputs/x",
    "sequence_len": 2048,
    "sample_packing": True,
    "pad_to_sequence_len": True,
    "adapter": None,
    "lora_r": None,
    "wandb_project": "mine",
    "wandb_entity": None,
    "gradient_accumulation_steps": 4,
    "micro_batch_size": 2,
    "num_epochs": 2,
    "optimizer": "adamw_torch_fused",
    "lr_scheduler": "linear",
    "learning_rate": 1e-5,
    "train_on_inputs": False,
    "group_by_length": False,
    "bf16": "auto",
    "tf32": False,
    "gradient_checkpointing": True,
    "resume_from_checkpoint": None,
    "logging_steps": 1,
    "flash_attention": True,
    "warmup_steps": 20,
    "evals_per_epoch": 4,
    "saves_per_epoch": 1,
    "save_total_limit": 2,
    "weight_decay": 0.1,
    "deepspeed": "deepspeed_configs/zero3.json",
    "special_tokens": {"pad_token": "<pad>"},
    "seed": 7,
    "frobnicate": 3,
}


def translated(workers: int = 1, **file: Any) -> Translation:
    return translation(file, workers=workers, told_of="of this machine")


def accounted(found: Translation) -> set[str]:
    """Every key that something is said of."""
    return {*found.carried(), *found.same, *found.left}


def leaves(file: Mapping[str, Any]) -> set[str]:
    """The keys of a file, those of its data sets with their places."""
    listed = {f"datasets[{index}].{key}" for index, item in enumerate(file.get("datasets", ())) for key in item}
    return {key for key in file if key != "datasets"} | listed


def test_each_key_of_an_axolotl_file_is_carried_over_or_listed():
    found = translated(**AXOLOTL)
    assert len(leaves(AXOLOTL)) > 50
    assert accounted(found) == leaves(AXOLOTL)
    assert all(found.left.values()), "each with a reason"


def test_what_an_axolotl_file_comes_to():
    found = translated(workers=2, **AXOLOTL)
    assert found.model is not None
    assert found.model.name == "org/base"
    assert found.spec == {
        "template": {"name": "chatml"},
        "dataset": {"evaluation": {"fraction": 0.02}},
        "publish": {"directory": {"path": "./outputs/x"}},
        "training": {
            "maxSequenceLength": 2048,
            "microBatchSize": 2,
            "epochs": 2,
            "optimizer": {"schedule": "linear", "learningRate": 1e-5, "warmupSteps": 20, "weightDecay": 0.1},
            "tf32": False,
            "seed": 7,
            "globalBatchSize": 16,
        },
        "checkpoints": {"keep": 2},
    }
    assert found.said["training.globalBatchSize"] == "micro_batch_size 2 x gradient_accumulation_steps 4 x 2 workers (of this machine)"
    chats, orders = found.sources
    assert chats == DataSource.model_validate(
        {
            "path": "org/chats",
            "format": "messages",
            "columns": {"messages": "conversations"},
            "messagePropertyMappings": {"role": "from", "content": "value"},
            "roles": {"user": ["human"], "assistant": ["gpt"]},
        }
    )
    assert orders == DataSource(path="org/orders", format="alpaca", config="english", weight=0.25)
    assert {"optimizer", "bf16", "train_on_inputs", "gradient_checkpointing", "datasets[0].roles_to_train"} <= set(found.same)


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ({"chat_template": "tokenizer_default"}, "template.name", "model"),
        ({"chat_template": "jinja", "chat_template_jinja": "{{ messages }}"}, "template.jinja", "{{ messages }}"),
        ({"train_on_inputs": True}, "template.masking", "all"),
        ({"completion_only_loss": False}, "template.masking", "all"),
        ({"train_on_last_turn_only": True}, "template.masking", "last_assistant"),
        ({"num_epochs": 2.0}, "training.epochs", 2),
        ({"max_steps": 50, "num_epochs": 3}, "training.epochs", None),
        ({"max_steps": -1, "num_train_epochs": 3}, "training.maxSteps", None),
        ({"lr_scheduler_type": "constant_with_warmup"}, "training.optimizer.schedule", "constant"),
        ({"warmup_ratio": 0.1, "warmup_steps": 5}, "training.optimizer.warmupRatio", None),
        ({"bf16": True, "torch_dtype": "bfloat16"}, "training.precision", "bf16"),
        ({"bf16": False}, "training.precision", "fp32"),
        ({"bf16": False, "fp16": True}, "training.precision", None),
        ({"micro_batch_size": 3}, "training.globalBatchSize", 3),
        ({"gradient_accumulation_steps": 8, "per_device_train_batch_size": "auto"}, "training.globalBatchSize", None),
        ({"save_steps": 50}, "checkpoints.every.steps", 50),
        ({"save_steps": 0.1}, "checkpoints.every.steps", None),
        ({"val_set_size": 200}, "dataset.evaluation.fraction", None),
        ({"datasets": [{"path": "org/d"}], "test_datasets": [{"path": "org/d", "split": "test"}]}, "dataset.evaluation.split", "test"),
        ({"test_datasets": [{"path": "org/other", "split": "test"}]}, "dataset.evaluation.split", None),
        ({"hub_model_id": "me/x", "output_dir": "out"}, "publish.directory", None),
        ({"report_to": "wandb"}, "reportTo", ["wandb"]),
        ({"report_to": "none"}, "reportTo", []),
        ({"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}, "publish.checkpoint", "best"),
        ({"learning_rate": 2e-4, "adapter": "lora"}, "training.optimizer.learningRate", 2e-4),
        ({"learning_rate": 2e-4, "adapter": "ia3"}, "training.optimizer.learningRate", None),
        ({"adapter": "qlora", "load_in_4bit": True}, "training.method", "qlora"),
        ({"adapter": "lora", "load_in_4bit": True}, "training.method", "qlora"),
        ({"adapter": "lora", "load_in_4bit": False}, "training.method", "lora"),
        ({"adapter": "lora", "load_in_8bit": True}, "training.method", "lora"),
        ({"adapter": "lora", "lora_r": 32, "lora_alpha": 16}, "training.lora", {"r": 32, "lora_alpha": 16}),
        ({"use_peft": True, "lora_target_modules": ["q_proj"]}, "training.lora.target_modules", ["q_proj"]),
        ({"adapter": "lora", "lora_target_linear": True, "lora_r": 16}, "training.lora", {"r": 16}),
        ({"use_peft": True, "lora_target_modules": ".*q_proj"}, "training.lora", None),
        ({"use_peft": False, "lora_r": 32}, "training.lora", None),
        ({"lora_r": 32}, "training.method", None),
        ({"learning_rate": 2e-5}, "training.optimizer.learningRate", 2e-5),
        ({"per_device_eval_batch_size": 8}, "evaluation.microBatchSize", 8),
        ({"lr": "fast"}, "training.optimizer.learningRate", None),
        ({"eval_steps": 50}, "evaluation.everySteps", 50),
        ({"eval_steps": 50, "eval_strategy": "steps"}, "evaluation.everySteps", 50),
        ({"eval_steps": 50, "eval_strategy": "epoch"}, "evaluation.everySteps", None),
        ({"eval_steps": 0.1}, "evaluation.everySteps", None),
        ({"early_stopping_patience": 3}, "evaluation.earlyStopping", {"patience": 3}),  # our default, and it asks for an early end
        ({"early_stopping_patience": 5, "early_stopping_threshold": 0.01}, "evaluation.earlyStopping", {"patience": 5, "minDelta": 0.01}),
        ({"early_stopping_threshold": 0.01}, "evaluation.earlyStopping", None),
        ({"early_stopping": False}, "evaluation.earlyStopping", None),
    ],
)
def test_a_value_is_converted_or_its_key_is_listed(file, path, value):
    found = translated(**file)
    assert nested(found.spec, path) == value
    if value is not None:
        assert problem_with(path, value) is None or path == "template.jinja"
    assert accounted(found) >= {key for key in file if key != "datasets"}


@pytest.mark.parametrize(
    ("item", "source"),
    [
        ({"path": "org/d", "type": "completion", "field": "body"}, {"format": "text", "columns": {"text": "body"}}),
        ({"path": "org/d", "type": "sharegpt:load_role", "conversation": "chatml"}, {"format": "sharegpt"}),
        (
            {"path": "org/d", "type": "chat_template", "message_field_role": "from"},
            {"format": "messages", "messagePropertyMappings": {"role": "from"}},
        ),
        (
            {"path": "org/d", "type": {"field_instruction": "q", "field_output": "a", "format": "[{instruction}]"}},
            {"format": "prompt-completion", "columns": {"prompt": "q", "completion": "a"}},
        ),
        ({"path": "org/d", "type": "gpteacher"}, {}),
        ({"path": "org/d", "split": "train[:10%]"}, {}),
        ({"path": "./d.jsonl", "name": "english"}, {}),
        ({"path": "json", "data_files": ["a.jsonl"], "ds_type": "json"}, {"path": "a.jsonl"}),
        ("org/d", {}),
    ],
)
def test_a_data_set_is_a_source(item, source):
    found = translated(datasets=[item])
    written = found.sources[0].model_dump(by_alias=True, exclude_unset=True)
    path = item["path"] if isinstance(item, dict) else item
    assert {"path": path, **source} == written
    if isinstance(item, dict):
        inside = {f"datasets[0].type.{key}" for key in item["type"]} if isinstance(item.get("type"), dict) else {"datasets[0].type"}
        assert accounted(found) >= {f"datasets[0].{key}" for key in item if key not in ("type", "path")} | (
            inside if "type" in item else set()
        )


def test_files_behind_a_loader_are_a_source_each():
    found = translated(datasets=[{"path": "json", "data_files": ["a.jsonl", "b.jsonl"], "type": "alpaca"}])
    assert [(source.path, source.format) for source in found.sources] == [("a.jsonl", "alpaca"), ("b.jsonl", "alpaca")]


@pytest.mark.parametrize("datasets", [[3], [{"type": "alpaca"}]])
def test_what_is_no_data_set_is_listed(datasets):
    found = translated(base_model="org/m", datasets=datasets)
    assert found.sources == ()
    assert "datasets[0]" in found.left


def test_the_keys_of_one_data_set_are_its_source_as_trl_has_them():
    found = translated(model_name_or_path="org/m", dataset_name="org/d", dataset_config="english", dataset_train_split="train_sft")
    assert found.sources == (DataSource(path="org/d", config="english", split="train_sft"),)


def test_a_mixture_of_trl_is_several_sources():
    mixture = {"datasets": [{"path": "org/a", "weight": 0.5}, {"id": "org/b", "config": "en"}], "test_split_size": 0.1}
    found = translated(dataset_mixture=mixture)
    assert found.sources == (DataSource(path="org/a", weight=0.5), DataSource(path="org/b", config="en"))
    assert "test_split_size" in accounted(found)


def test_a_secret_is_never_shown():
    found = translated(
        hub_token="hf_abcdefgh12345678", wandb_api_key="k" * 40, hf_token="hf_other", datasets=[{"path": "org/d", "token": "hf_s"}]
    )
    assert not any(secret in repr(found) for secret in ("hf_abcdefgh12345678", "k" * 40, "hf_other", "hf_s"))
    assert {"hub_token", "wandb_api_key", "hf_token", "datasets[0].token"} == set(found.left)


def test_nothing_is_held_out_where_the_file_says_so():
    assert translated(val_set_size=0).holds_nothing_out
    assert not translated(val_set_size=0.1).holds_nothing_out
