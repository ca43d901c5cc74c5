"""The card of a data set: `datasets` and the Hub read its head, people the rest, and it names no machine."""

import yaml
from tests.assistant.curation.rows import dialogue

from finetune_assistant.curation.card import DATA_FILE, MARK, DataCard, data_card
from finetune_assistant.curation.pipeline import Examined
from finetune_assistant.curation.statistics import Statistics


def card(**fields: object) -> str:
    statistics = Statistics()
    for number in range(3):
        found = dialogue("Q" * 30, "A" * 60, row=number)._replace(source="/home/ann/secret/a|b.jsonl" if number else "org/chats")
        statistics.add(Examined(found, language="en"))
    return data_card(
        DataCard(**{"title": "Chats", "place": "org/new", "licence": "cc-by-sa-4.0", "rows": 3, "statistics": statistics} | fields)
    )  # type: ignore[arg-type]


def test_the_head_is_what_the_hub_reads() -> None:
    matter = yaml.safe_load(card().split("---\n")[1])
    assert matter == {
        "license": "cc-by-sa-4.0",
        "language": ["en"],
        "task_categories": ["text-generation"],
        "size_categories": ["n<1K"],
        "tags": ["finetune-operator"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": DATA_FILE}]}],
    }


def test_what_people_read() -> None:
    text = card(choices=["at least 2 turns"], not_used={"near-duplicate of an earlier row": 1234})
    assert MARK in text
    assert "3 rows of dialogues" in text
    assert "| org/chats | 1 |" in text
    assert "| a\\|b.jsonl | 2 |" in text
    assert "ann" not in text
    assert "- at least 2 turns" in text
    assert "| 1,234 | near-duplicate of an earlier row |" in text
    assert 'load_dataset("org/new", split="train")' in text
    assert "67 % of all characters" in text


def test_a_card_of_prompts_says_nothing_of_answers() -> None:
    text = card(kind="prompts")
    assert "3 rows of prompts, written by" in text
    assert "| learnt |" not in text


def test_a_card_without_choices_says_so() -> None:
    text = card()
    assert "All rows that can be learnt from are here." in text
    assert "What was left out" not in text
    assert "\n\n\n" not in text
