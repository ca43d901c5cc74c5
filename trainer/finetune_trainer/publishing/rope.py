"""Rotary positions in config.json, in the words of older readers too.

Transformers 5 keeps all of them in `rope_parameters`. Transformers 4, mlx-lm, TGI, candle and llama.cpp's older converters read
`rope_theta`, `rope_scaling` and a few fields of single families at the top level, and take 10,000 in silence where there are none.
In: what Transformers 5 understands of a config. Out: the same in the older words, as far as they have words for it. Transformers 5
reads both alike (`rope_scaling` even first), so nothing may stand there that says something else.
"""

from collections.abc import Mapping
from typing import Any

# What older readers look for beside, or in place of, `rope_theta` and `partial_rotary_factor`.
_OWN_NAMES: dict[str, dict[str, str]] = {
    "gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
    "gpt_neox_japanese": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
}
# Families with one frequency for full and one for sliding attention: the older names of the two.
_TWO_THETAS: dict[str, tuple[str, str]] = {
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
    "gemma3n_text": ("rope_theta", "rope_local_base_freq"),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta"),
    "olmo3": ("rope_theta", "rope_theta"),
}
# Of these, older readers take a scaling of exactly `type`, `short_factor` and `long_factor`, and the original length from the top level.
_PHI3 = ("phi3", "phi4_multimodal")
# Families whose first readers knew these kinds only, by `type` and `factor`, and take no third key.
_TWO_KEYS = ("falcon", "gpt_neox", "llama", "olmo", "olmo2", "persimmon", "phi", "stablelm")
_OLDEST_KINDS = ("linear", "dynamic")


def older_rope_fields(model_type: str, rope: Mapping[str, Any]) -> dict[str, Any]:
    """Top-level fields that say the same as Transformers 5's `rope_parameters`; empty where older readers had no words for it.

    >>> older_rope_fields("llama", {"rope_type": "default", "rope_theta": 100000.0})
    {'rope_theta': 100000.0, 'rope_scaling': None}
    """
    layers = {name: one for name, one in rope.items() if isinstance(one, Mapping)}
    if layers:
        return _of_two(model_type, layers)
    if "rope_theta" not in rope:
        return {}
    fields = {name: rope[name] for name in ("rope_theta", "partial_rotary_factor") if name in rope}
    own = {other: rope[name] for name, other in _OWN_NAMES.get(model_type, {}).items() if name in rope}
    return fields | own | _scaling(model_type, rope)


def _of_two(model_type: str, layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of a family whose kinds of layers have rotary positions of their own.

    What the older words can't tell apart is left out: a reader that refuses is better than one that is wrong.
    """
    if model_type not in _TWO_THETAS or set(layers) != {"full_attention", "sliding_attention"}:
        return {}
    full, sliding = layers["full_attention"], layers["sliding_attention"]
    of_full, of_sliding = _TWO_THETAS[model_type]
    if of_full == of_sliding and full["rope_theta"] != sliding["rope_theta"]:
        return {}
    scaling = _scaling(model_type, full)
    # Older readers scale the full layers only, and ModernBERT's none.
    if _scaled(sliding) or (_scaled(full) and model_type == "modernbert-decoder"):
        return {}
    return {of_full: full["rope_theta"], of_sliding: sliding["rope_theta"]} | scaling


def _scaled(rope: Mapping[str, Any]) -> bool:
    return bool(rope.get("rope_type", "default") != "default")


def _scaling(model_type: str, rope: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_scaling`: null where there is none, since an older family's own default may have one."""
    if not _scaled(rope):
        return {"rope_scaling": None}
    kind = rope["rope_type"]
    outside = ("rope_theta", "partial_rotary_factor", "type", "rope_type")
    settings = {name: value for name, value in rope.items() if name not in outside}
    if model_type in _PHI3:
        original = settings.pop("original_max_position_embeddings", None)
        # More settings than those three, older readers refuse; fewer would be another arithmetic.
        return {"rope_scaling": {"type": kind} | settings} | ({} if original is None else {"original_max_position_embeddings": original})
    second = {} if model_type in _TWO_KEYS and kind in _OLDEST_KINDS else {"rope_type": kind}
    return {"rope_scaling": second | {"type": kind} | settings}
