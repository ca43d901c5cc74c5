import pytest

from finetune_api.accelerators import ACCELERATORS, accelerator, nearest_name
from finetune_api.fields import field_kind, keys, located, nearest, paths
from finetune_api.finetunejob import DataSource, FineTuneJobSpec, PodSettings, ZeroOptimization


def test_keys_are_those_of_yaml():
    assert list(keys(DataSource))[:3] == ["path", "config", "revision"]
    assert "sub_group_size" in keys(ZeroOptimization)
    assert field_kind(DataSource, "token_secret") is None


def test_kinds():
    assert field_kind(FineTuneJobSpec, "workers").model is not None
    assert field_kind(PodSettings, "nodeSelector").is_mapping
    volumes = field_kind(PodSettings, "volumes")
    assert (volumes.is_list, volumes.item.__name__) == (True, "Volume")
    assert field_kind(DataSource, "format").is_text
    assert field_kind(DataSource, "limit").optional


def test_paths_reach_into_lists():
    assert {"spec.dataset.sources[].filter.topAnswers", "spec.workers.volumes[].ephemeral.size"} <= set(paths(FineTuneJobSpec))


@pytest.mark.parametrize(
    ("word", "meant"), [("max_steps", "maxSteps"), ("MAXSTEPS", "maxSteps"), ("maxStep", "maxSteps"), ("epoch", "epochs"), ("zzz", None)]
)
def test_nearest(word, meant):
    assert nearest(word, ["epochs", "maxSteps"]) == meant


def test_locations():
    assert located(()) == ""
    assert located(("spec", "workers", "env", 2, "name")) == "spec.workers.env[2].name"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("nvidia-a100-80gb", "nvidia-a100-80gb"),
        ("NVIDIA-A100-SXM4-80GB", "nvidia-a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "nvidia-a100-40gb"),
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb"),
        ("nvidia-tesla-a100", "nvidia-a100-40gb"),
        ("NVIDIA H200", "nvidia-h200-141gb"),
        ("NVIDIA L4", "nvidia-l4"),
        ("Tesla T4", "nvidia-tesla-t4"),
        ("NVIDIA GeForce RTX 4090", "nvidia-rtx-4090"),
    ],
)
def test_a_gpu_has_many_spellings(name, known):
    assert accelerator(name).name == known


def test_unknown_gpus():
    assert accelerator("") is None
    assert accelerator("tpu-v5") is None
    assert nearest_name("nvidia-h100-80g") == "nvidia-h100-80gb"


def test_names_are_unique():
    assert len({card.name for card in ACCELERATORS}) == len(ACCELERATORS)
