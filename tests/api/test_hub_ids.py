"""finetune_api/finetunejob/hub_ids.py, beside the Hub's own client."""

import itertools

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from finetune_api.finetunejob.hub_ids import hub_id_problem, like_hub_id

PARTS = [
    "a",
    "A1",
    "_a",
    "a_",
    "-a",
    "a-",
    ".a",
    "a.",
    "a-b",
    "a--b",
    "a.b",
    "a..b",
    "a.-b",
    "a-.b",
    "a.git",
    ".git",
    "git",
    "a b",
    "\u00e9",
    "",
]
PARTS += ["a" * 95, "a" * 96, "a" * 97, "a\n", "a:b", "a@b"]
NAMES = [*PARTS, *map("/".join, itertools.product(PARTS, repeat=2)), "a/b/c", "/a/b", "a//b"]


def client_refuses(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return True
    return False


def test_what_the_hubs_client_refuses_is_refused_and_no_more():
    """A name without an organisation is one too. The client takes a line break at the end, which the Hub can't."""
    different = [name for name in NAMES if (hub_id_problem(name) is not None) != client_refuses(name)]
    assert [name for name in different if not name.endswith("\n")] == []


def test_the_nearest_name_is_one_that_the_hub_takes():
    assert sum(like_hub_id(name) is not None for name in NAMES) > 200
    for name in NAMES:
        like = like_hub_id(name)
        assert like is None or hub_id_problem(like) is None
        assert hub_id_problem(name) is not None or like == name


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("me/my--model", "me/my-model"),
        ("me/model.git", "me/model"),
        ("me/model.", "me/model"),
        ("me/-model", "me/model"),
        ("me/a..b", "me/a.b"),
        ("me/my model", "me/my-model"),
        ("https://huggingface.co/me/model", "me/model"),
        ("hf://datasets/me/data", "me/data"),
        ("me/" + "a" * 100, "me/" + "a" * 96),
        ("me/", "me"),
        ("a/b/c", None),
    ],
)
def test_a_name_is_mended(name, like):
    assert like_hub_id(name) == like
