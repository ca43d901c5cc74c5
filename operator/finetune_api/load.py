"""What one worker carries: the settings that memory and time of a micro-step depend on, as numbers.

In: a model's shape and a job's settings. Out: a Load, and the counts that both formulas need. What they come to is `memory`'s and
`step_time`'s business.
"""

from dataclasses import dataclass
from typing import Literal

from finetune_api.finetunejob import ModelShape, ZeroOptimization
from finetune_api.model_shape import PLAIN_FEED_FORWARD

Method = Literal["full", "lora", "qlora"]

# Bytes of a weight of the base that QLoRA holds: 4 bits, for each 64 of them a scale in 8 bits, for 256 scales one in 32 (NF4, quantised
# twice).
BYTES_IN_FOUR_BITS = (4 + 8 / 64 + 32 / (64 * 256)) / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one worker has to carry. `tokens` is those of a micro-step, `supervised` the share of them that meets the head; `adapters` the
    parameters that LoRA trains. `recompute_every`: of so many layers one recomputes its activations, with `checkpointing`.
    """

    shape: ModelShape
    zero: ZeroOptimization
    device: Literal["cpu", "gpu"]
    precision: Literal["bf16", "fp16", "fp32"]
    world_size: int
    tokens: int
    checkpointing: bool
    supervised: float = 1.0
    stage: Literal[2, 3] = 3
    method: Method = "full"
    adapters: int = 0
    recompute_every: int = 1
    moments_in_8_bits: bool = False
    offloads_optimizer: bool = False
    offloads_parameters: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether one worker holds everything, and has nothing to send (finetune_api.engines)."""
        return self.world_size == 1 and not (self.offloads_optimizer or self.offloads_parameters)

    @property
    def recomputed(self) -> int:
        """Layers that recompute their activations: the first, and every n-th after it."""
        return -(-self.shape.layers // self.recompute_every) if self.checkpointing else 0

    @property
    def recomputed_share(self) -> float:
        """Those, of all layers."""
        return self.recomputed / self.shape.layers

    @property
    def width(self) -> int:
        """Bytes of a weight, a gradient or an activation."""
        return 4 if self.precision == "fp32" else 2

    @property
    def trained(self) -> int:
        """Parameters that get a gradient."""
        return self.shape.parameters if self.method == "full" else self.adapters

    @property
    def frozen(self) -> int:
        """Parameters of the base that stay as they are."""
        return 0 if self.method == "full" else self.shape.parameters

    @property
    def quantised(self) -> int:
        """Weights of the base that are kept in 4 bits: those of layers' matrices, but for experts that share one tensor."""
        if self.method != "qlora":
            return 0
        has_experts = self.shape.active_parameters is not None
        each = attention_weights(self.shape) if has_experts else layer_weights(self.shape)
        return min(self.shape.layers * each, self.shape.parameters)

    @property
    def base_bytes(self) -> int:
        """The base as it is held whole."""
        return self.width * (self.shape.parameters - self.quantised) + int(BYTES_IN_FOUR_BITS * self.quantised)

    @property
    def partition(self) -> int:
        """Trained parameters whose optimizer state one worker owns."""
        return -(-self.trained // self.world_size)

    @property
    def host_bytes(self) -> int:
        """What is offloaded to a worker's host: gradients, masters and moments in fp32, weights."""
        if self.device == "cpu":
            return 0
        optimizer = 16 * self.partition if self.offloads_optimizer else 0
        weights = self.width * -(-self.shape.parameters // self.world_size) if self.offloads_parameters else 0
        return optimizer + weights


def moment_bytes(load: Load) -> float:
    """Bytes of a parameter's moments: two numbers in fp32, or two codes with a scale for each 256 of them."""
    return 2 + 2 * 4 / 256 if load.moments_in_8_bits else 8


def layer_weights(shape: ModelShape) -> int:
    """Weights of a layer's matrix products that one token meets: attention and feed-forward, norms and biases aside.

    >>> gpt2 = dict(architecture="GPT2LMHeadModel", layers=2, hidden_size=4, intermediate_size=16, attention_heads=2, head_size=2)
    >>> layer_weights(ModelShape(**gpt2, key_value_heads=2, vocabulary_size=10, parameters=1000))
    192
    """
    if shape.active_parameters is not None:  # experts: what the config's widths make of them differs by family
        return max(0, shape.active_parameters - shape.vocabulary_size * shape.hidden_size) // shape.layers
    return sum(inner * outer for inner, outer in linear_layers(shape))


def attention_weights(shape: ModelShape) -> int:
    """Weights of a layer's matrices before and after attention."""
    return sum(inner * outer for inner, outer in linear_layers(shape)[:4])


def linear_layers(shape: ModelShape) -> list[tuple[int, int]]:
    """(inputs, outputs) of each matrix of a layer: queries, keys and values, what attention gives back, feed-forward."""
    queries, keys = shape.attention_heads * shape.head_size, shape.key_value_heads * shape.head_size
    hidden, wide = shape.hidden_size, shape.intermediate_size
    ups = 1 if shape.architecture in PLAIN_FEED_FORWARD else 2
    return [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden), *[(hidden, wide)] * ups, (wide, hidden)]


def has_own_head(shape: ModelShape) -> bool:
    """Whether what layers leave of the parameters is two tables of tokens. Of a model of experts that isn't known; one is assumed."""
    if shape.active_parameters is not None:
        return False
    tables = shape.parameters - shape.layers * sum(inner * outer for inner, outer in linear_layers(shape))
    return tables > 1.5 * shape.vocabulary_size * shape.hidden_size


def adapter_parameters(shape: ModelShape, rank: int) -> int:
    """Parameters of LoRA's pairs of matrices on every linear layer."""
    return shape.layers * sum(rank * (inner + outer) for inner, outer in linear_layers(shape))


def layer_bytes_per_token(load: Load) -> int:
    """Activations of one layer: (18 H + 4 I) per token in bf16, which is 34 H where I = 4 H (Korthikanti et al. 2022, without
    the attention matrix, which is never stored); a gated feed-forward has twice as many wide tensors, and norms that torch makes in steps.
    """
    is_plain = load.shape.architecture in PLAIN_FEED_FORWARD
    wide = 4 if is_plain else 8
    either = (18 * load.shape.hidden_size + wide * load.shape.intermediate_size) * load.width // 2
    return either + (0 if is_plain else _steps_of_norms(load) * load.shape.hidden_size)


def _steps_of_norms(load: Load) -> int:
    """Bytes, by the width, that both norms by the root of the mean square keep besides their input: what they scaled, for a weight that
    is trained, and in 16 bits a copy of the input in fp32 in place of it.
    """
    scaled = 2 * load.width if load.method == "full" else 0
    return scaled + (4 if load.width == 2 else 0)


def gradient_bytes_per_token(load: Load) -> int:
    """Gradients of a layer that goes backward, at most: in its feed-forward, while what that kept is let go. Counted on Llama."""
    return 3 * load.shape.intermediate_size * load.width // 2
