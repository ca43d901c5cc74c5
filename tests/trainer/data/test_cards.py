"""finetune_trainer/data/cards.py: what a README.md says of itself, whoever wrote it."""

import pytest

from finetune_trainer.data.cards import HubCard, hub_card

BIBTEX = "@article{chats,\n  title = {{Chats}},\n}"
README = f"""---
license: other
license_name: our-licence
license_link: https://example.org/terms
language: [en, code]
tags:
- instruction
---
# Chats

```python
@decorator
```

```bibtex
{BIBTEX}
```
"""


def test_a_card_of_the_hubs_form() -> None:
    card = hub_card(README)
    assert card == HubCard(
        licences=("other",),
        licence_name="our-licence",
        licence_link="https://example.org/terms",
        tags=("instruction", "en", "code"),
        citation=BIBTEX,
    )
    assert HubCard.from_json(card.to_json()) == card


@pytest.mark.parametrize(
    ("matter", "expected"),
    [
        ("tags: [code]", True),
        ("language: code", True),
        ("metrics: [code_eval]", True),
        ("tags: [codec, source-code]", False),
        ("pipeline_tag: text-generation", False),
    ],
)
def test_a_model_of_code_is_one_that_says_so(matter: str, expected: bool) -> None:
    assert hub_card(f"---\n{matter}\n---\n").is_of_code is expected


@pytest.mark.parametrize(
    "readme",
    [
        "",
        "# license: mit",
        "---\nlicense: [a\n---\n",
        "---\n- a\n---\n",
        "---\nlicense: mit\n",
        "---\nlicense: 2026-99-99\n---\n",
        "---\nlicense: {id: mit}\n---\n",
        f"---\nlicense: {'x' * 1000}\n---\n",
        f"---\nlicense: {'[' * 5000}\n---\n",
        "---\nlicense: !!python/object/apply:os.getcwd []\n---\n",
        "```\n@article{cut, title={a\n```",
        f"```bibtex\n@article{{long, title={{{'x' * 10_000}}}}}\n```",
    ],
)
def test_what_is_no_card_says_nothing(readme: str) -> None:
    assert hub_card(readme) == HubCard()


@pytest.mark.parametrize("value", [None, [], "x", {"licences": {"a": 1}, "citation": 3, "tags": [["x"], 4]}])
def test_what_to_json_did_not_write_is_an_empty_card(value: object) -> None:
    assert HubCard.from_json(value) == HubCard()


def test_texts_are_of_one_line_and_hold_nothing_hidden() -> None:
    card = hub_card('---\nlicense: "mi\\x1bt"\nlicense_name: "a\\n  b"\n---\n```bib\n@misc{a,\x00 title={b}}\n```')
    assert (card.licences, card.licence_name, card.citation) == (("mit",), "a b", "@misc{a, title={b}}")
