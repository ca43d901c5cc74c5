"""A causal language model whose forward gives the sum of cross entropies over supervised tokens, or logits.

In: a causal language model of Transformers. Out: a module whose forward takes one packed row, the positions of its supervised tokens and
their targets, and returns a scalar. Only supervised rows of the hidden states meet the head (`cross_entropy`), and only they the parts of
the last layer that `Method` names (`last_layer`). The head runs inside its own module's forward because ZeRO-3 gathers a weight
only there. Factors and bounds on logits are part of it. A model whose logits are more than that makes its own, of a whole row. Division by
the number of supervised tokens is the engine's business.

Shapes: T tokens of the row, N supervised ones, D hidden width, V vocabulary.
"""

from typing import Any, cast

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from finetune_trainer.model.attention import SUPERVISED_ROWS
from finetune_trainer.model.cross_entropy import accumulator, cross_entropy_sum
from finetune_trainer.model.last_layer import compute_supervised_rows_only
from finetune_trainer.model.method import Method


class LossHead(nn.Linear):
    """A head that returns the loss when it gets labels, and logits when it does not."""

    factor: float = 1.0
    bound: float | None = None

    def forward(
        self,
        input: Tensor,  # noqa: A002  (torch's own name)
        labels: Tensor | None = None,
        other_rows: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        if labels is None:
            return super().forward(input)
        return cross_entropy_sum(input, self.weight, self.bias, labels, factor=self.factor, bound=self.bound, other_rows=other_rows)


class LossModel(nn.Module):
    """A language model that returns the summed loss of one call, or its logits. `model` keeps its own parameter names.

    A call is a row of packed dialogues with their boundaries, or one dialogue alone where the method is not packed.
    """

    def __init__(self, model: nn.Module, method: Method) -> None:
        super().__init__()
        self.model, self._method = model, method
        # Routers of experts that draw random numbers while training (Mixtral, Phi-MoE, DBRX): another function than at inference.
        self._never_random = [module for module in model.modules() if any("jitter" in name for name in vars(module))]

    @property
    def head(self) -> nn.Module | None:
        """The module that makes logits or losses of hidden states, where the model has one."""
        return cast("nn.Module | None", _head(self.model))

    def train(self, mode: bool = True) -> "LossModel":
        """Training mode, except for what would add noise that nobody asked for."""
        super().train(mode)
        for module in self._never_random:
            module.training = False
        return self

    def forward(
        self,
        *,
        input_ids: Tensor,
        position_ids: Tensor,
        supervised: Tensor | None = None,
        targets: Tensor | None = None,
        **boundaries: Any,
    ) -> Tensor:
        """Sum of cross entropies, an fp32 scalar; without targets the logits (T, V).

        input_ids, position_ids: (1, T). supervised: (N,), the positions that count; targets: (N,), the token that each of them predicts.
        """
        inputs = {"position_ids": position_ids, "use_cache": False, **boundaries} if self._method.packed else {}
        if supervised is None or targets is None or self._method.logits is None:
            logits_TV = cast(Any, self.model)(input_ids=input_ids, **inputs).logits[0]
            return cast(Tensor, logits_TV) if supervised is None or targets is None else _own_loss(logits_TV[supervised], targets)
        if self._method.last_layer:
            # Without one the first token's row: ranks call the same modules in the same order, in which ZeRO-3 gathers them.
            inputs[SUPERVISED_ROWS] = supervised if len(supervised) else supervised.new_zeros(1)
        hidden_TD = language_body(self.model)(input_ids=input_ids, **inputs).last_hidden_state[0]
        return cast(Tensor, _head(self.model)(hidden_TD[supervised], labels=targets))


def _own_loss(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    return cross_entropy(logits_NV.to(accumulator(logits_NV)), targets_N, reduction="sum")


def language_body(model: nn.Module) -> Any:
    """What comes before the head. Some classes name themselves as their own base model (Llama 4)."""
    base = cast(Any, model).base_model
    return base if base is not model else cast(Any, model).model


def _head(model: nn.Module) -> Any:
    """The module that makes logits. Beside adapters it may be a copy that is trained, or have rows of its own for new tokens."""
    head = cast(Any, model).get_output_embeddings()
    if hasattr(head, "modules_to_save"):
        return next(iter(head.modules_to_save.values()))
    return getattr(head, "token_adapter", head)


def last_layer(model: nn.Module) -> nn.Module:
    """The layer after which nothing looks at another token's state; a module of nothing where there is no list of layers."""
    count = cast(Any, model).config.get_text_config().num_hidden_layers
    lists = (part for part in language_body(model).modules() if isinstance(part, nn.ModuleList) and len(part) == count)
    return next((layers[-1] for layers in lists), nn.Module())


def install_loss_head(model: nn.Module, method: Method | None = None) -> LossModel:
    """`model` with its head turned into a LossHead in place, wrapped in a LossModel. Parameters keep their names and identity."""
    method = method or Method()
    if method.logits is not None:
        head, config = _head(model), cast(Any, model).config
        head = getattr(head, "base_layer", head)
        assert type(head) in (nn.Linear, LossHead), "the trial chose a head of the model's own for what is no linear map"
        head.__class__ = LossHead  # in place: hooks, tied weights and names stay
        head.factor, head.bound = method.logits.factor(config), method.logits.bound(config)
    if method.last_layer:
        compute_supervised_rows_only(last_layer(model), method.last_layer)
    return LossModel(model, method)
