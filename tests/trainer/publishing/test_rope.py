"""Rotary positions in the older words: Transformers 5, which reads those first, must understand the same as without them."""

import copy
from typing import Any

import pytest

from finetune_trainer.publishing.rope import older_rope_fields

KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 3.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.5},
}


def families() -> list[str]:
    """Every causal language model of the installed Transformers that has rotary positions by default."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found = []
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            config = CONFIG_MAPPING[name]()
        except Exception:
            continue
        if getattr(config, "rope_parameters", None):
            found.append(name)
    return found


def changed(rope: dict[str, Any], kind: str) -> dict[str, Any]:
    """The same with another frequency and kind, in full attention where layers differ."""
    if any(not isinstance(one, dict) for one in rope.values()):
        kept = {name: value for name, value in rope.items() if name == "partial_rotary_factor"}
        return {"rope_type": kind, "rope_theta": 77_000.0} | kept | KINDS[kind]
    return {layer: changed(one, kind if layer == "full_attention" else "default") for layer, one in rope.items()}


def without_type(value: Any) -> Any:
    return {name: without_type(one) for name, one in value.items() if name != "type"} if isinstance(value, dict) else value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_transformers_5_understands_the_same_of_every_family(kind: str) -> None:
    from transformers import CONFIG_MAPPING

    tried = 0
    for name in families():
        plain = CONFIG_MAPPING[name]().to_dict()
        for field in ("rope_theta", "rope_scaling", "partial_rotary_factor"):
            plain.pop(field, None)
        if None in plain["rope_parameters"].values():  # layers without positions
            continue
        plain["rope_parameters"] = changed(plain["rope_parameters"], kind)
        try:
            understood = CONFIG_MAPPING[name].from_dict(copy.deepcopy(plain)).rope_parameters
        except Exception:  # a family that knows no such kind
            continue
        both = plain | older_rope_fields(name, copy.deepcopy(understood))
        again = CONFIG_MAPPING[name].from_dict(copy.deepcopy(both)).rope_parameters
        assert without_type(again) == without_type(understood), name
        tried += 1
    assert tried > 90


@pytest.mark.parametrize(
    ("family", "rope", "expected"),
    [
        ("llama", {"rope_type": "linear", "factor": 2.0, "rope_theta": 5.0}, {"type": "linear", "factor": 2.0}),
        ("cohere", {"rope_type": "linear", "factor": 2.0, "rope_theta": 5.0}, {"rope_type": "linear", "type": "linear", "factor": 2.0}),
        (
            "phi3",
            {
                "rope_type": "longrope",
                "short_factor": [1.0],
                "long_factor": [2.0],
                "original_max_position_embeddings": 9,
                "rope_theta": 5.0,
            },
            {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
        ),
    ],
)
def test_a_scaling_has_the_keys_that_older_readers_take(family: str, rope: dict[str, Any], expected: dict[str, Any]) -> None:
    fields = older_rope_fields(family, rope)
    assert fields["rope_scaling"] == expected
    assert fields["rope_theta"] == 5.0
    assert fields.get("original_max_position_embeddings") == rope.get("original_max_position_embeddings")


def test_what_older_words_cannot_say_is_not_said() -> None:
    """Two frequencies in a family whose older form has one: 10,000 by default would be as wrong as either."""
    full, sliding = {"rope_type": "default", "rope_theta": 5.0}, {"rope_type": "default", "rope_theta": 6.0}
    assert older_rope_fields("olmo3", {"full_attention": full, "sliding_attention": sliding}) == {}
    assert older_rope_fields("laguna", {"full_attention": full, "sliding_attention": sliding}) == {}
    assert older_rope_fields("gemma3_text", {"full_attention": full, "sliding_attention": sliding}) == {
        "rope_theta": 5.0,
        "rope_local_base_freq": 6.0,
        "rope_scaling": None,
    }
