"""What kind of place a text names, by its first characters: a path, an address with a scheme, or else an id of the Hub.

Each question is asked in Python and by the API server (CEL, whose expressions are RE2's), so the expressions are in the words of both.
"""

import re
from collections.abc import Mapping
from typing import Final

# Object storage by scheme: what a bucket, or Azure's container, may be called.
BUCKET_NAMES: Final[Mapping[str, re.Pattern[str]]] = {
    "s3": re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"),
    "gs": re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"),
    "az": re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*"),
}
# As other programs spell the scheme.
_SPELT: Final = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "azure": "az", "abfs": "az", "abfss": "az", "wasb": "az", "wasbs": "az"}
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


def scheme(place: str) -> str:
    """The scheme of an address; empty for a path or an id.

    >>> scheme("s3://bucket/key"), scheme("./x")
    ('s3', '')
    """
    return place.partition("://")[0] if "://" in place else ""


def is_storage(place: str) -> bool:
    """Whether a place is an address of object storage, with a name that a bucket may have.

    >>> [is_storage(place) for place in ("s3://bucket/a", "gs://bucket", "az://container/a", "az://a--b/c", "s3://ab/c", "gcs://bucket/a")]
    [True, True, True, False, False, False]
    """
    names = BUCKET_NAMES.get(scheme(place))
    return names is not None and names.fullmatch(place.partition("://")[2].partition("/")[0]) is not None


def is_storage_misspelt(place: str) -> bool:
    """Whether a place means object storage and can't be had as such: another spelling, or a name that no bucket has.

    >>> [is_storage_misspelt(place) for place in ("s3:/bucket/x", "gcs://bucket/x", "az://a--b/x", "s3://bucket/x", "https://host/x")]
    [True, True, True, False, False]
    """
    before, colon, _ = place.partition(":")
    return bool(colon) and (before in BUCKET_NAMES or before.lower() in _SPELT) and not is_storage(place)


def storage_remedy(place: str, rest: str) -> str:
    """How to write a place that is no address of object storage as one; `rest`: what stands after the bucket.

    >>> storage_remedy("gcs://bucket/a", "key")
    'write gs://bucket/key'
    """
    known = _SPELT.get(place.partition(":")[0].lower(), scheme(place))
    if known == "az":
        return f"write az://container/{rest}; a container's name has 3 to 63 of a-z, 0-9 and single `-`"
    if known in BUCKET_NAMES:
        named = f"write {known}://bucket/{rest}"
        return named if scheme(place) != known else f"{named}; a bucket's name has 3 to 63 of a-z, 0-9, `-`, `.`"
    return f"write s3://bucket/{rest}, gs://bucket/{rest} or az://container/{rest}"


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
