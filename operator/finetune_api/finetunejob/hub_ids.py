"""Names of repositories on the Hugging Face Hub: what it refuses, and the nearest name that it takes.

The Hub's client refuses the same before it sends anything (huggingface_hub 2.4, `validate_repo_id`; a test compares).
"""

import re
from typing import Final

LONGEST_PART: Final = 96
_END: Final = "[A-Za-z0-9_]"
_PART: Final = f"{_END}([A-Za-z0-9_.-]*{_END})?"
# The form, in the words of both Python and RE2; what else is refused is in `hub_id_problem`.
REPOSITORY: Final = f"^{_PART}/{_PART}$"


def hub_id_problem(name: str) -> str | None:
    """Why the Hub takes no repository of this name (`org/name`, or `name` for the oldest models); None when it does.

    >>> [hub_id_problem(name) for name in ("org/name", "gpt2", "a/b.git")]
    [None, None, 'ends with .git']
    """
    if name.count("/") > 1:
        return "has more than two parts"
    if not re.fullmatch(f"({_PART}/)?{_PART}", name):
        return "has parts that hold other than letters, digits, `_`, `.` and `-`, or begin or end with `.` or `-`"
    if "--" in name or ".." in name:
        return "holds -- or .., which no name on the Hub may"
    if name.endswith(".git"):
        return "ends with .git"
    return f"has a part of more than {LONGEST_PART} characters" if max(map(len, name.split("/"))) > LONGEST_PART else None


def like_hub_id(name: str) -> str | None:
    """The nearest name that the Hub takes; None when nothing is left of a part, or there are more than two.

    >>> [like_hub_id(name) for name in ("me/my--model", "me/m.git", "me/model.", "https://huggingface.co/me/a b", "me/", "a/b/c")]
    ['me/my-model', 'me/m', 'me/model', 'me/a-b', 'me', None]
    """
    bare = re.sub(r"^(https?://(www\.)?(huggingface\.co|hf\.co)/|hf://)(datasets/|models/)?", "", name.strip()).rstrip("/")
    parts = [_like_part(part) for part in bare.removesuffix(".git").split("/")]
    found = "/".join(parts)
    return found if len(parts) <= 2 and all(parts) and hub_id_problem(found) is None else None


def _like_part(part: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", part)
    single = re.sub(r"\.\.+", ".", re.sub(r"--+", "-", plain))
    while (shorter := single[:LONGEST_PART].strip(".-")) != single:
        single = shorter
    return single
