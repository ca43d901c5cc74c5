"""What is published of a name that a job gives: a Hub id whole, of a folder or an address no more than leads a reader to a copy of it."""

import re

from finetune_api.finetunejob.places import is_address, is_path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(name: str) -> bool:
    """Whether a model or data set is named by its Hub id, rather than by a path or an s3:// address."""
    return _HUB_ID.fullmatch(name) is not None


def shown(name: str) -> str:
    """A Hub id as it is; of a path or an address only the last part, since the rest tells of the author's machines.

    >>> [shown(name) for name in ("org/base", "/home/ann/base/", "s3://bucket/models/base")]
    ['org/base', 'base', 'base']
    """
    return name if is_hub_id(name) else name.rstrip("/").rsplit("/", 1)[-1]


def beside(name: str) -> str:
    """A local path as one beside the job file; a Hub id or an address as it is.

    >>> [beside(name) for name in ("org/base", "/home/ann/base/", "s3://bucket/models/base")]
    ['org/base', './base', 's3://bucket/models/base']
    """
    return f"./{shown(name)}" if is_path(name) else name


def is_on_hub(name: str) -> bool:
    """Whether a base model is had from the Hub; its oldest models have names of one part.

    >>> [is_on_hub(name) for name in ("org/base", "gpt2", "./base", "s3://bucket/models/base")]
    [True, True, False, False]
    """
    return not (is_path(name) or is_address(name))


def loadable(name: str) -> str:
    """Where libraries that know folders and the Hub alone look for a model: one that isn't on the Hub in a folder beside.

    Never a bare word, which could be another's model on the Hub.

    >>> [loadable(name) for name in ("org/base", "gpt2", "/home/ann/base/", "s3://bucket/models/base")]
    ['org/base', 'gpt2', './base', './base']
    """
    return name if is_on_hub(name) else f"./{shown(name)}"
