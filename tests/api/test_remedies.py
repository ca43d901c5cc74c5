"""Every remedy is right when it is followed: what a message proposes is done to the job, and the problem is gone.

The wrong jobs are those of the other tests: what only planning refuses, what each rule refuses, and each field with hundreds of bad values.
"""

import re
from collections import Counter
from typing import Any

import pytest
from tests.api.generated_specs import Generator
from tests.api.idle_fields import IDLE_CASES
from tests.api.jobs import mapping
from tests.api.planning_refusals import REFUSALS, STORAGE
from tests.api.remedies import followed, problems_of
from tests.api.test_checks import CONTRADICTION_CASES, NAME_CASES
from tests.api.test_crd import RULE_CASES

from finetune_api.errors import Problem
from finetune_api.finetunejob import FineTuneJobSpec

BY_HAND: list[dict[str, Any]] = [
    {"training": {"maxSequenceLength": "1k"}},
    {"training": {"maxSequenceLength": "1024 tokens"}},
    {"training": {"epochs": "1_000"}},
    {"training": {"epochs": "3.0"}},
    {"training": {"epochs": 2.5}},
    {"training": {"epochs": 0.0}},
    {"training": {"epochs": "50%"}},
    {"training": {"optimizer": {"warmupRatio": "3%", "learningRate": "2e-5"}}},
    {"training": {"optimizer": {"learningRate": 2}}},
    {"training": {"optimizer": {"learningRate": "1k"}}},
    {"training": {"dropout": 1}},
    {"training": {"dropout": 1.0}},
    {"training": {"method": "dora", "sharding": "zero1", "precision": "float16"}},
    {"training": {"lora": {"r": 16}}},
    {"training": {"method": "lora", "lora": {"r": 0, "lora_alpha": 1.5, "target_modules": "all-linear"}}},
    {"training": {"method": "lora", "lora": {"target_modules": ["all-linear", "q_proj"], "modules_to_save": ["a b"]}}},
    {"publish": {"merge": False}},
    {"training": {"optimizer": {"schedule": "constant_with_warmup", "name": "adamw_torch"}}},
    {"training": {"activationCheckpointing": "yes", "tf32": 0}},
    {"checkpoints": {"every": {"seconds": "10m"}, "keep": -1}},
    {"ttlSecondsAfterFinished": "24h"},
    {"model": "org/name"},
    {"publish": {"hub": "me/my-model"}},
    {"publish": {"hub": {"repository": "me/my--model", "tokenSecret": {"name": "s"}}}},
    {"publish": {"hub": {"repository": "https://huggingface.co/me/model", "tokenSecret": {"name": "s"}}}},
    {"publish": {"hub": {"repository": "model."}}},
    {"publish": {"directory": {"path": "s3://bucket/x"}}},
    {"generation": {"minNewTokens": 300}},
    {"generation": {"minNewTokens": "many"}},
    {"model": {"name": "me/my--model"}},
    {"model": {"name": "https://huggingface.co/me/model"}},
    {"model": {"name": "org/m", "revision": 1.5}},
    {"model": {"name": "org/m", "revision": True}},
    {"dataset": {"sources": [{"path": "~/rows.jsonl"}]}},
    {"dataset": {"sources": [{"path": "hf://datasets/org/data"}]}},
    {"dataset": {"sources": [{"path": "a b"}]}},
    {"dataset": {"sources": [{"name": "org/data"}]}},
    {"dataset": {"sources": [{"path": "org/data", "format": "chat_template"}]}},
    {"dataset": {"sources": [{"path": "org/data", "limit": None, "weight": "0,5"}]}},
    {"workers": {"nodes": "2", "gpusPerNode": "eight"}},
    {"trainning": {"epochs": 1}},
    {"learning_rate": 1e-5},
    {"seed": 1, "epoch": 3},
]


# What is said of a value by itself.
OF_THE_VALUE = (
    r"is not (a whole|a number|a list|a mapping|text|true|above|below)|is (less|more) than -?[\d.]+$"
    "|has the wrong form|is empty"
)


def check(job: dict[str, Any], problem: Problem) -> int:
    """The number of ways that were tried."""
    ways = followed(job, problem)
    for way in ways:
        left = problems_of(way)
        same = [found for found in left if found.field == problem.field and found.message == problem.message]
        assert not same, f"{problem}\n   was followed, and is still there"
        # A value that is suggested is one that the field takes; whether other fields go with it is another matter.
        if problem.message != "there is no such field" and not problem.remedy.startswith(("shorten ", "give ")):
            again = [str(found) for found in left if found.field == problem.field and re.search(OF_THE_VALUE, found.message)]
            assert not again, f"{problem}\n   was followed, and then: {again}"
    return len(ways)


HANDS = [
    *(
        {"checkpoints": STORAGE} | {name: STORAGE | given if name == "checkpoints" else given for name, given in case.spec.items()}
        for case in REFUSALS
    ),
    *(spec for cases in RULE_CASES.values() for spec in cases),
    *(spec for cases in IDLE_CASES.values() for _, spec in cases),
    *(spec for spec, _ in (*CONTRADICTION_CASES, *NAME_CASES)),
    *BY_HAND,
]


@pytest.mark.parametrize("spec", HANDS, ids=lambda spec: str(spec)[:100])
def test_a_remedy_followed_makes_the_problem_vanish(spec):
    job = mapping(**spec)
    found = problems_of(job)
    assert found
    for problem in found:
        assert problem.remedy, str(problem)
        check(job, problem)


def test_each_bad_value_of_each_field_has_a_remedy_that_helps():
    """Thousands of them: other types, bounds and one beyond, forms, lengths, typing slips in keys, nulls."""
    followed_words: Counter[str] = Counter()
    unfollowed: Counter[str] = Counter()
    for case in Generator(FineTuneJobSpec).cases("spec"):
        job = {**mapping(), "spec": case.whole}
        for problem in problems_of(job) if isinstance(case.whole, dict) else []:
            assert problem.remedy, str(problem)
            counter = followed_words if check(job, problem) else unfollowed
            counter[problem.remedy[:30]] += 1
    assert followed_words.total() > 3000
    assert unfollowed.total() < followed_words.total() / 5, unfollowed
