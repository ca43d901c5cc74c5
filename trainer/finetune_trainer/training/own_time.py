"""How long a rank takes for work in which it waits for no other: the head's pass over the hidden states, by the token.

In a step ranks wait for one another in every layer, so that all of them take as long as the slowest. The head has its weight by the time it
begins, and exchanges nothing until it ends. It is a large product (three in training), which shows whether a device is slow, and not
whether its network or its host is.
"""

import time
from typing import Any

import torch
from torch import nn


class OwnTime:
    """Watches the head from when it is made on, in training. On a GPU its stream tells the time, and nothing waits for it before `take`."""

    def __init__(self, head: nn.Module | None, device: torch.device) -> None:
        """After the engine is made: ZeRO-3's own hooks fetch the weight before ours begin, and let it go after they end.

        Without a head, as of a model that makes its logits otherwise, there is no time.
        """
        self._on_gpu = device.type == "cuda"
        self._tokens = 0
        self._spans: list[tuple[Any, Any]] = []
        self._began: Any = None
        if head is not None:
            head.register_forward_pre_hook(self._begin)
            head.register_forward_hook(self._end, prepend=True)

    def take(self) -> float | None:
        """Seconds a token since the last call; None where there was none."""
        spans, tokens = self._spans, self._tokens
        self._spans, self._tokens = [], 0
        if not tokens:
            return None
        if self._on_gpu:
            spans[-1][1].synchronize()
            return float(sum(began.elapsed_time(ended) for began, ended in spans)) / 1000 / tokens
        return float(sum(ended - began for began, ended in spans)) / tokens

    def _begin(self, head: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._began = self._now() if head.training and arguments and arguments[0].numel() else None

    def _end(self, head: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
        if self._began is not None:
            self._spans.append((self._began, self._now()))
            self._tokens += arguments[0].shape[:-1].numel()
            self._began = None

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
