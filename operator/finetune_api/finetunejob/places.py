"""What kind of place a text names, by its first characters: a path, an address with a scheme, or else an id of the Hub.

Each question is asked in Python and by the API server (CEL, whose expressions are RE2's), so the expressions are in the words of both.
"""

import re
from typing import Final

_PATH: Final = "^[.]{0,2}/"
_ADDRESS: Final = "^[a-z0-9]+://"
# Also one that is misspelt, as in s3:/bucket.
_LIKE_AN_ADDRESS: Final = "^[A-Za-z0-9+.-]+:/"


def is_path(place: str) -> bool:
    """Whether a model's name or a source's path leads to a file or folder.

    >>> [is_path(place) for place in ("./x", "../x", "/x", "..", "x/y", ".x/y", "s3://bucket/x")]
    [True, True, True, True, False, False, False]
    """
    return place in (".", "..") or re.match(_PATH, place) is not None


def is_address(place: str) -> bool:
    """Whether a place is at an address with a scheme, as in s3://bucket/key."""
    return re.match(_ADDRESS, place) is not None


def is_hub_place(place: str) -> bool:
    """Whether a model's name or a source's path can only be an id of the Hub.

    >>> [is_hub_place(place) for place in ("org/name", "gpt2", "./x", "..", "/x", "s3://bucket/x", "s3:/bucket/x")]
    [True, True, False, False, False, False, False]
    """
    return not is_path(place) and not is_like_an_address(place)


def is_like_an_address(place: str) -> bool:
    """Whether a text begins as an address does, also as one that is misspelt (`s3:/bucket`)."""
    return re.match(_LIKE_AN_ADDRESS, place) is not None


def path_cel(field: str) -> str:
    """CEL of `is_path` for a field of the object."""
    return f"(self.{field} in ['.', '..'] || self.{field}.matches('{_PATH}'))"


def address_cel(field: str) -> str:
    """CEL of `is_address` for a field of the object."""
    return f"self.{field}.matches('{_ADDRESS}')"


def like_an_address_cel(field: str) -> str:
    """CEL of `is_like_an_address` for a field of the object."""
    return f"self.{field}.matches('{_LIKE_AN_ADDRESS}')"


def hub_place_cel(field: str) -> str:
    """CEL of `is_hub_place` for a field of the object."""
    return f"!({path_cel(field)} || {like_an_address_cel(field)})"
