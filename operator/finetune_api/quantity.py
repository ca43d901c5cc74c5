"""Kubernetes quantities as numbers, in the forms that FineTuneJob allows."""

from decimal import Decimal
from typing import Final

_SUFFIXES: Final = {
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}


def number(quantity: str) -> Decimal:
    """The quantity's value.

    >>> [str(number(text)) for text in ("8", "500m", "1.5Gi")]
    ['8', '0.500', '1610612736.0']
    """
    suffix = quantity.lstrip("0123456789.")
    return Decimal(quantity.removesuffix(suffix)) * _SUFFIXES.get(suffix, Decimal(1))
