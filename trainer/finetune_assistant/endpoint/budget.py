"""What asking may cost: tokens and money, counted before a request is sent and corrected when its reply says what it took.

In: messages and usages. Out: a reservation, or BudgetSpent. Requests that are under way hold their reservations, so that several threads
together stay within the budget. Endpoints are unknown here.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.errors import BudgetSpent

_BYTES_A_TOKEN = 3  # fewer than English text and code have, so that estimates are rather too high


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one request, as its endpoint counts them, or `estimated`."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False

    @property
    def tokens(self) -> int:
        """Both."""
        return self.prompt_tokens + self.completion_tokens

    def as_row(self) -> dict[str, Any]:
        """As it is kept; `Usage(**row)` reads it."""
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens, "estimated": self.estimated}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars for a million tokens."""

    prompt: float = 0.0
    completion: float = 0.0

    def usd(self, usage: Usage) -> float:
        """What a request costs."""
        return (usage.prompt_tokens * self.prompt + usage.completion_tokens * self.completion) / 1e6


class Budget:
    """What was spent, what requests under way may cost, and what all of it may be."""

    def __init__(self, *, tokens: int | None = None, usd: float | None = None, prices: Prices = Prices()) -> None:
        """None is without limit."""
        self._most_tokens, self._most_usd, self._prices = tokens, usd, prices
        self._lock = threading.Lock()
        self._reserved: list[Usage] = []
        self.tokens = 0
        self.usd = 0.0

    def count(self, usage: Usage) -> None:
        """Something that was spent before."""
        with self._lock:
            self._count(usage)

    def reserve(self, messages: Sequence[Mapping[str, str]], max_tokens: int) -> Usage:
        """Set aside what a request may cost at most, by estimate. Raises BudgetSpent."""
        prompt_bytes = sum(len(message["content"].encode("utf-8", errors="replace")) for message in messages)
        usage = Usage(prompt_tokens=prompt_bytes // _BYTES_A_TOKEN + 8 * len(messages), completion_tokens=max_tokens, estimated=True)
        with self._lock:
            tokens = self.tokens + sum(one.tokens for one in (*self._reserved, usage))
            usd = self.usd + sum(self._prices.usd(one) for one in (*self._reserved, usage))
            if self._most_tokens is not None and tokens > self._most_tokens:
                spent = f"{self.tokens:,} of {self._most_tokens:,} tokens are spent"
                raise BudgetSpent(f"{spent}, and the next request may take {usage.tokens:,}; raise --budget-tokens")
            if self._most_usd is not None and usd > self._most_usd:
                spent = f"{self.usd:.4f} of {self._most_usd:.4f} USD are spent"
                raise BudgetSpent(f"{spent}, and the next request may cost {self._prices.usd(usage):.4f}; raise --budget-usd")
            self._reserved.append(usage)
        return usage

    def release(self, reserved: Usage) -> None:
        """The request got no reply."""
        with self._lock:
            self._forget(reserved)

    def settle(self, reserved: Usage, usage: Usage) -> None:
        """The request got its reply, and this is what it took."""
        with self._lock:
            self._forget(reserved)
            self._count(usage)

    def _forget(self, reserved: Usage) -> None:
        self._reserved = [one for one in self._reserved if one is not reserved]

    def _count(self, usage: Usage) -> None:
        self.tokens += usage.tokens
        self.usd += self._prices.usd(usage)
