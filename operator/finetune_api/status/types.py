"""Limits of FineTuneJob.status and the types of what it holds. Lists are bounded: they keep their newest entries."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import Field

LONGEST_LIST = 20
LONGEST_MESSAGE = 1024
# Of an attempt that are followed one by one.
MOST_PODS = 512
# Numbers of benchmarks that are kept beside those in storage.
MOST_TASKS = 16
# Of what a failed program said last.
MOST_LINES = 8
LONGEST_LINE = 240
# Of an attempt that has ended, and of those that one avoids.
MOST_NODES = 16
LONGEST_TASK = 128
LONGEST_WORD = 64

BY_TYPE: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}

Name = Annotated[str, Field(max_length=253)]
Word = Annotated[str, Field(max_length=LONGEST_WORD)]
Digest = Annotated[str, Field(max_length=128)]
Text = Annotated[str, Field(max_length=LONGEST_MESSAGE)]
LastLines = Annotated[list[Annotated[str, Field(max_length=LONGEST_LINE)]], Field(max_length=MOST_LINES)]
NotNegative = Annotated[float, Field(ge=0.0)]
Item = TypeVar("Item")


def newest(items: Sequence[Item]) -> list[Item]:
    """The last items that a list of the status has room for."""
    return list(items[-LONGEST_LIST:])
