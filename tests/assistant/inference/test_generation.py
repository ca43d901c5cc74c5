"""Answers in batches: equal to those of plain transformers one by one, and drawn by seeds of their own."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.assistant.tiny_models import TEMPLATE, saved_folder

from finetune_assistant.inference.generation import Generated, Request, _OwnDraws, answers, seed_of
from finetune_assistant.inference.loading import LoadedModel, load
from finetune_assistant.inference.sampling import Sampling
from finetune_trainer.data.dialogues import Message

WORDS = ["Reverse", "a", "list", "in", "Python", "and", "tell", "me", "why", "it", "works,", "with", "a", "test"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(str(saved_folder(tmp_path_factory.mktemp("models") / "llama", chat_template=TEMPLATE)))


def prompt(loaded: LoadedModel, length: int) -> list[int]:
    """A question of so many words."""
    return loaded.prompter.encode([Message(role="user", content=" ".join((WORDS * 9)[:length]))])


def by_index(batches: Any) -> list[Generated]:
    return sorted((one for batch in batches for one in batch), key=lambda one: one.index)


def test_greedy_answers_are_those_of_plain_transformers_one_by_one(loaded: LoadedModel) -> None:
    import torch

    requests = [Request(ids=prompt(loaded, length)) for length in (1, 30, 4, 17, 2)]
    found = by_index(answers(loaded, requests, sampling=Sampling(greedy=True, max_new_tokens=10), batch_size=2))
    ends = 0
    for request, one in zip(requests, found, strict=True):
        ids = torch.tensor([request.ids])
        whole = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=10, eos_token_id=0, pad_token_id=0
        )
        expected = whole[0, len(request.ids) :].tolist()
        assert (one.prompt_tokens, one.new_tokens) == (len(request.ids), len(expected))
        assert one.text == loaded.prompter.decode(expected)
        assert one.finish_reason == ("end" if expected[-1] == 0 else "length")
        ends += expected[-1] == 0
    assert len({one.text for one in found}) > 1


def test_the_longest_prompts_come_first_and_each_once(loaded: LoadedModel) -> None:
    requests = [Request(ids=prompt(loaded, length)) for length in (3, 40, 1, 20, 9)]
    batches = list(answers(loaded, requests, sampling=Sampling(greedy=True, max_new_tokens=1), batch_size=2))
    assert [[one.index for one in batch] for batch in batches] == [[1, 3], [4, 0], [2]]


def test_a_sampled_answer_depends_on_its_seed_and_not_on_its_batch(loaded: LoadedModel) -> None:
    sampling = Sampling(temperature=1.5, top_k=0, top_p=1.0, max_new_tokens=8)
    requests = [Request(ids=prompt(loaded, length), seed=length) for length in (5, 2, 30, 7)]
    together = by_index(answers(loaded, requests, sampling=sampling, batch_size=4))
    alone = [next(answers(loaded, [request], sampling=sampling))[0].text for request in requests]
    assert [one.text for one in together] == alone
    other = by_index(answers(loaded, [Request(ids=request.ids, seed=99) for request in requests], sampling=sampling, batch_size=4))
    assert [one.text for one in other] != alone


def test_an_end_that_a_batch_reaches_early_is_counted_and_not_shown(loaded: LoadedModel) -> None:
    """The likeliest first token of one prompt is made its end: that answer is over at once, and the others go on."""
    ids = [prompt(loaded, length) for length in (3, 25)]
    first = [loaded.model(loaded.model.dummy_inputs["input_ids"].new_tensor([each])).logits[0, -1].argmax().item() for each in ids]
    assert first[0] != first[1]
    before = loaded.model.generation_config.eos_token_id
    loaded.model.generation_config.eos_token_id = first[0]
    try:
        requests = [Request(ids=each) for each in ids]
        ended, cut = by_index(answers(loaded, requests, sampling=Sampling(greedy=True, max_new_tokens=5)))
    finally:
        loaded.model.generation_config.eos_token_id = before
    assert (ended.new_tokens, ended.finish_reason) == (1, "end")
    assert (cut.new_tokens, cut.finish_reason) == (5, "length")


def test_stop_texts_end_each_answer_by_itself(tmp_path: Path) -> None:
    base = load(str(saved_folder(tmp_path / "base")))
    plain = [Request(ids=base.prompter.encode([Message(role="user", content=text)])) for text in ("Hello?", "Why is it so?")]
    sampling = Sampling(greedy=True, max_new_tokens=12)
    first, second = by_index(answers(base, plain, sampling=sampling))
    # What the first answer says in its middle becomes a stop text; the other doesn't say it, or later.
    middle = first.text[len(first.text) // 2 :][:2]
    assert middle.strip()
    base.prompter.stop_texts = (middle,)
    cut, other = by_index(answers(base, plain, sampling=sampling))
    assert cut.text == first.text[: first.text.index(middle)].rstrip()
    assert cut.finish_reason == "end"
    assert cut.new_tokens < first.new_tokens
    assert other.text == second.text.partition(middle)[0].rstrip()


def test_draws_follow_the_probabilities() -> None:
    import torch

    weights = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    counts: Counter[int] = Counter()
    draw = _OwnDraws(range(500))
    for _ in range(8):
        scores = draw(None, weights.log().repeat(500, 1))
        assert scores.isfinite().sum().item() == 500
        counts.update(scores.argmax(dim=-1).tolist())
    assert set(counts) == {1, 3, 4}
    # Four standard deviations of 4,000 draws.
    assert all(abs(counts[token] / 4000 - weights[token].item()) < 0.035 for token in counts)


def test_a_seed_is_the_samples_own() -> None:
    seeds = {seed_of(base, digest, occurrence, sample) for base in (1, 2) for digest in "ab" for occurrence in (0, 1) for sample in (0, 1)}
    assert len(seeds) == 16
    assert seed_of(1, "a", 0, 0) == seed_of(1, "a", 0, 0)
