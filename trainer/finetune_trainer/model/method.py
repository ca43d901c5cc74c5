"""How an architecture is computed: what the trial on a small copy found to be right. A value that rank 0 tells the others."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune_trainer.model.attention import ATTENTION

if TYPE_CHECKING:  # `make test-gpu` computes losses on machines without pydantic
    from finetune_api.training_run import SplitShape

# Fields of configs that scale logits, and that bound them: s * logits or logits / s, then c * tanh(logits / c).
SCALES = ("logit_scale", "logits_scaling", "logits_scale", "lm_head_multiplier")
CAPS = ("final_logit_softcapping", "logits_soft_cap")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitRule:
    """What lies between a linear head and the logits, by names of the config's fields, whose values differ between models."""

    scale: str | None = None
    divides: bool = False
    cap: str | None = None

    def factor(self, config: Any) -> float:
        """What logits are multiplied by."""
        value = 1.0 if self.scale is None else float(getattr(config, self.scale))
        return 1.0 / value if self.divides else value

    def bound(self, config: Any) -> float | None:
        """What logits are bounded by, if they are."""
        return None if self.cap is None else float(getattr(config, self.cap))


def logit_rules(config: Any) -> list[LogitRule]:
    """Every way in which this config's fields may change logits, the plainest first. Which is the model's, the trial finds out."""
    set_fields = [field for field in SCALES if isinstance(getattr(config, field, None), int | float)]
    caps = [None, *(field for field in CAPS if isinstance(getattr(config, field, None), int | float))]
    scales = [(None, False), *((field, divides) for field in set_fields for divides in (False, True))]
    return [LogitRule(scale=scale, divides=divides, cap=cap) for cap in caps for scale, divides in scales]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """`attention`: its name in Transformers. `packed`: dialogues share a call. `logits`: None means that the model makes its own.

    `last_layer`: modules of the last layer that compute supervised tokens only.
    """

    attention: str = ATTENTION
    packed: bool = True
    logits: LogitRule | None = LogitRule()
    last_layer: tuple[str, ...] = ()
    why_unpacked: str = ""


def cost_of(method: Method, data: "SplitShape") -> str | None:
    """What a way other than the usual one costs, as a sentence for the user; None for the usual one."""
    if not method.packed:
        return (
            f"dialogues are computed one a call, for the architecture {method.why_unpacked}: "
            f"{data.segments:,} calls an epoch where {data.rows:,} packed rows would do"
        )
    if method.logits is None:
        return (
            "the architecture makes its own logits: those of a whole micro-batch are held at once, which the plan's memory does not count"
        )
    return None
