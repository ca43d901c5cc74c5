"""Which way of computing an architecture is right: found by trying each on a small random copy of it.

In: a model's config. Out: a Method. The reference is the model itself as Transformers computes it, eager attention, one dialogue at a time,
in evaluation mode, with its own logits. A way is right when the loss and every gradient of three dialogues are the reference's. Tried, best
first: dialogues packed, with our head; packed, with the model's own logits; one dialogue a call, with either. What none of them is right
for is refused. Where the first is right, so may be a last layer that computes supervised tokens only, which is tried, too.
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from finetune_api.errors import InvalidModel
from finetune_api.finetunejob import Training
from finetune_trainer.model.attention import ATTENTION
from finetune_trainer.model.build import quietly, read_config, with_dropout
from finetune_trainer.model.inputs import model_inputs
from finetune_trainer.model.last_layer import ways
from finetune_trainer.model.loss import install_loss_head, language_body, last_layer
from finetune_trainer.model.method import LogitRule, Method, logit_rules
from finetune_trainer.model.micro_batch import MicroBatch, flat_micro_batch, joined, single_dialogues
from finetune_trainer.model.miniature import random_model, small_config
from finetune_trainer.preparation.ignore_index import IGNORE_INDEX

# Dialogues longer than the copy's windows, and one of a single token; ids of control tokens (0 to 2) are left out.
_DIALOGUES = ([3, 5, 7, 12, 6, 4, 17, 8, 9, 21], [11, 4, 13], [9], [20, 3, 8, 14, 5, 29, 10])
# Of a gradient's difference, relative to its length: rounding gives 1e-6, a leak 1e-1 and more.
_TOLERANCE = 1e-3
# Some architectures amplify rounding by as much as 1e5 (Gemma 3n): they are allowed this multiple of what a change of the weights by
# one rounding does to their gradients, but never more than the last number.
_OF_ROUNDING, _ROUNDING, _MOST = 5.0, 1e-7, 0.25

Gradients = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class _Outcome:
    loss: float
    gradients: Gradients


def choose_method(folder: Path, training: Training) -> Method:
    """The way to train the architecture of a model folder. Raises InvalidModel, naming it and what it lacks, when no way is right."""
    longest = training.micro_batch_size * training.max_sequence_length
    return method_for(read_config(folder), longest=longest, checkpointing=training.activation_checkpointing)


def method_for(config: Any, *, longest: int = 2**62, checkpointing: bool = True) -> Method:
    """`choose_method` for a Transformers config. `longest`: tokens of the longest call."""
    name = (config.architectures or [type(config).__name__])[0]
    problems = []
    for narrow in (True, False):
        with quietly():
            try:
                trial = _Trial(small_config(with_dropout(config, 0.0), narrow=narrow, longest=longest), checkpointing=checkpointing)
            except Exception as error:  # whatever an architecture does on sizes that it was not made for: a wider copy is next
                problems.append(f"{type(error).__name__}: {error}")
                continue
            try:
                return trial.method()
            except InvalidModel as error:
                raise InvalidModel(f"{name} {error}; use another architecture") from None
    raise InvalidModel(f"{name} can't be tried on a small copy ({problems[0]}); use another architecture")


class _Trial:
    """The reference on one small copy, and what is compared with it."""

    def __init__(self, config: Any, *, checkpointing: bool) -> None:
        self._config, self._checkpointing = config, checkpointing
        model = self._model = random_model(config, "eager").eval()
        self._weights = model.state_dict()
        self._rows = [_row([dialogue]) for dialogue in _DIALOGUES]
        logits = [_own_logits(model, row) for row in self._rows]
        if not all(bool(one.isfinite().all()) for one in logits):
            raise ValueError("its logits are not finite")
        self._is_causal = _is_causal(model, logits[0])
        self._rules = _rules_that_fit(model, self._rows[0], logits[0].detach())
        self._expected = _outcome(model, sum((_loss(one, row) for one, row in zip(logits, self._rows, strict=True)), torch.zeros(())))
        self._rounding: float | None = None

    def method(self) -> Method:
        """The first way that is right. Raises InvalidModel, what the architecture lacks, when none is."""
        if not self._is_causal:
            raise InvalidModel("lets a token see later ones: it is no causal language model")
        if self._checkpointing and not self._model.supports_gradient_checkpointing:
            raise InvalidModel("has no activation checkpointing: set spec.training.activationCheckpointing: false")
        reasons: dict[bool, str] = {}
        for method in self._ways():
            problem = self._problem(method)
            if problem is None:
                return self._shortened(method) if method.packed else replace(method, why_unpacked=reasons.get(True, ""))
            reasons.setdefault(method.packed, problem)
        raise InvalidModel(f"{reasons[False]}, even one dialogue at a time")

    def _ways(self) -> Iterator[Method]:
        heads: list[LogitRule | None] = [*self._rules, None]
        for packed, attention in ((True, ATTENTION), (False, "sdpa"), (False, "eager")):
            for head in heads:
                yield Method(attention=attention, packed=packed, logits=head)

    def _shortened(self, method: Method) -> Method:
        """With the last layer on supervised tokens only, where that is right and the head is ours."""
        if method.logits is None:
            return method
        found = (replace(method, last_layer=parts) for parts in ways(last_layer(self._model)))
        return next((one for one in found if self._problem(one) is None), method)

    def _problem(self, method: Method) -> str | None:
        """What is wrong with a way, or None."""
        try:
            got = self._tried(method)
        except InvalidModel as error:
            return "can't be packed: " + str(error) if method.packed else str(error)
        except Exception as error:  # arguments and views that an architecture was not made for
            return f"does not run ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'})"
        apart = _difference(got, self._expected)
        if apart <= _TOLERANCE or apart <= min(_MOST, _OF_ROUNDING * self._rounding_noise()):
            return None
        if method.packed and "position_ids" not in _parameters(self._body):
            return "takes no positions, so dialogues in a row would have those of the row"
        return "lets dialogues of a packed row see one another" if method.packed else "gives another loss or gradient than its own"

    def _rounding_noise(self) -> float:
        """How far the reference moves when its weights move by one rounding."""
        if self._rounding is None:
            model = random_model(self._config, "eager").eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1 + _ROUNDING * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
            self._rounding = _difference(
                _outcome(model, sum((_loss(_own_logits(model, row), row) for row in self._rows), torch.zeros(()))), self._expected
            )
        return self._rounding

    def _tried(self, method: Method) -> _Outcome:
        model = random_model(self._config, method.attention)
        model.load_state_dict(self._weights)
        self._body = language_body(model) if method.logits is not None else model
        if self._checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        whole = install_loss_head(model, method).train()
        row = _row(_DIALOGUES)
        calls = [row] if method.packed else single_dialogues(row)
        return _outcome(model, sum((whole(**model_inputs(call, torch.device("cpu"))) for call in calls), torch.zeros(())))


def _row(dialogues: Sequence[Sequence[int]]) -> MicroBatch:
    """Dialogues whose first third is not learnt, as a question isn't."""
    labels = [np.array([*one[1:], IGNORE_INDEX]) for one in dialogues]
    for one in labels:
        one[: len(one) // 3] = IGNORE_INDEX
    return flat_micro_batch([np.asarray(one) for one in dialogues], labels)


def _is_causal(model: Any, logits: Tensor) -> bool:
    """Whether a later token leaves the logits of earlier ones as they are. `logits`: of the first dialogue."""
    changed = joined([[*_DIALOGUES[0][:6], 22, 23, *_DIALOGUES[0][8:]]])
    moved = (_own_logits(model, changed) - logits).detach().abs().amax(dim=-1)
    return float(moved[:6].max()) <= 1e-4 * float(moved[6:].max())


def _own_logits(model: Any, row: MicroBatch) -> Tensor:
    return cast(Tensor, model(input_ids=torch.as_tensor(row.input_ids)[None]).logits[0])


def _loss(logits: Tensor, row: MicroBatch) -> Tensor:
    return cross_entropy(logits.float(), torch.as_tensor(row.labels), ignore_index=IGNORE_INDEX, reduction="sum")


def _rules_that_fit(model: Any, row: MicroBatch, logits: Tensor) -> list[LogitRule]:
    """The rule by which the head's output becomes the logits; none where the head is no linear map of the last hidden states."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        return []
    with torch.no_grad():
        try:
            plain = head(language_body(model)(input_ids=torch.as_tensor(row.input_ids)[None]).last_hidden_state)[0]
        except Exception:  # a body that can't be called alone: the model makes its own logits
            return []
    for rule in logit_rules(model.config):
        bound, made = rule.bound(model.config), plain * rule.factor(model.config)
        made = made if bound is None else bound * torch.tanh(made / bound)
        if torch.allclose(made, logits, rtol=1e-4, atol=1e-5 * float(logits.abs().max())):
            return [rule]
    return []


def _outcome(model: Any, loss: Tensor) -> _Outcome:
    names, trained = zip(*((name, one) for name, one in model.named_parameters() if one.requires_grad), strict=True)
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    found = {name: torch.zeros_like(p) if g is None else g for name, p, g in zip(names, trained, gradients, strict=True)}
    return _Outcome(float(loss.detach()), found)


def _difference(got: _Outcome, expected: _Outcome) -> float:
    """The largest difference of a gradient, relative to it, or of the loss (which is known better). What is nearly nothing is
    measured against all gradients together. Not a number counts as infinite."""
    whole = float(torch.stack([one.norm() for one in expected.gradients.values()]).norm())
    apart = [float((got.gradients[name] - one).norm()) / (float(one.norm()) + 1e-3 * whole) for name, one in expected.gradients.items()]
    apart.append(10 * abs(got.loss - expected.loss) / abs(expected.loss))
    return max(apart) if all(math.isfinite(one) for one in apart) else math.inf


def _parameters(module: Any) -> set[str]:
    return set(inspect.signature(module.forward).parameters)
