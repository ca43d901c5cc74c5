"""Labels: golden ids, what is learnt and what is not, and over-long dialogues divided at turns."""

import random
from typing import Any

import pytest
from tests.conftest import Tiny
from tests.trainer.chat_data import dialogue, encoder, messages
from tests.trainer.templates.test_framed import OURS, model_folder

from finetune_trainer.data.dialogues import Dialogue, Message
from finetune_trainer.preparation.examples import Example, labels_from_spans
from finetune_trainer.preparation.ignore_index import IGNORE_INDEX
from finetune_trainer.preparation.labels import Encoder
from finetune_trainer.preparation.packing import pack
from finetune_trainer.training.batches import BatchPlan, micro_batch

GOLDEN = dialogue("Hello, can you help me?", "Sure, what can I do for you?")
# The recipe's vectors, for the StarCoder vocabulary with control tokens in the blog's order.
STARCODER_IDS = [
    *[49154, 203, 8279, 30, 883, 844, 3049, 597, 49, 49155, 203],
    *[49153, 203, 69, 513, 30, 2769, 883, 439, 745, 436, 844, 49, 49155, 203],
]
# The same for the tiny tokenizer: it changes when that is made anew.
TINY_IDS = [835, 199, 798, 12, 370, 363, 775, 329, 31, 836, 199, 834, 199, 611, 12, 447, 370, 308, 295, 319, 363, 31, 836, 199]
STARCODER_LABELS = [-100] * 11 + STARCODER_IDS[11:]
TEXTS = [
    "a",
    "Sort 3, 1, 2.",
    " leading space",
    "\n\nleading lines",
    "trailing \n",
    "def f(x):\n    return x\n",
    "🙂 안녕 é",
    "<|end|>\n<|user|>",
    "\t",
]


def example(made: Encoder, one: Dialogue) -> Example:
    (encoded,) = made.encode([one])
    (only,) = encoded.examples
    return only


def random_dialogue(generator: random.Random, row: int, exchanges: int = 4) -> Dialogue:
    contents = [generator.choice(TEXTS) * generator.randint(1, 4) for _ in range(2 * generator.randint(1, exchanges))]
    return dialogue(*contents, system=generator.choice([None, "", "Be brief."]), row=row)


def learnt_texts(made: Encoder, one: Example) -> list[str]:
    return [made.tokenizer.decode(one.input_ids[span.start : span.stop], skip_special_tokens=False) for span in one.supervised]


# Golden vectors


@pytest.mark.real_data
def test_the_golden_vector_of_the_recipe(test_data: Any) -> None:
    made = encoder(test_data / "starcoder-tokenizer.json", name="no_system", masking="blog", system_turn=False)
    assert example(made, GOLDEN).input_ids == STARCODER_IDS
    assert example(made, GOLDEN).labels == STARCODER_LABELS


@pytest.mark.real_data
def test_the_published_order_swaps_user_and_assistant(test_data: Any) -> None:
    made = encoder(test_data / "starcoder-tokenizer.json", name="no_system", masking="blog", system_turn=False, token_order="published")
    swap = {49153: 49154, 49154: 49153}
    assert example(made, GOLDEN).input_ids == [swap.get(token, token) for token in STARCODER_IDS]


@pytest.mark.real_data
def test_header_and_content_are_encoded_apart(test_data: Any) -> None:
    """An answer that begins with white space: in the whole text the header's newline would merge with it."""
    made = encoder(test_data / "starcoder-tokenizer.json", name="no_system", system_turn=False)
    ids = example(made, dialogue("q", "\n\n    x")).input_ids
    assert made.tokenizer.encode("<|assistant|>\n\n\n    x").ids != ids[ids.index(49153) : ids.index(49153) + 5]
    assert ids[: ids.index(49153) + 2] == made.encode_prompt(messages("q"))


def test_the_golden_vector_of_the_tiny_tokenizer(tiny: Tiny) -> None:
    made = encoder(tiny.model, name="no_system", masking="blog", system_turn=False)
    found = example(made, GOLDEN)
    system, assistant, user, end = range(833, 837)
    newline = made.tokenizer.encode("\n").ids
    question, answer = ([token for token in made.tokenizer.encode(message.content).ids] for message in GOLDEN.messages)
    assert found.input_ids == TINY_IDS
    assert found.input_ids == [user, *newline, *question, end, *newline, assistant, *newline, *answer, end, *newline]
    assert found.labels == [IGNORE_INDEX] * (len(question) + 4) + [assistant, *newline, *answer, end, *newline]
    assert system not in found.input_ids


@pytest.mark.parametrize("spec", OURS)
def test_transformers_gives_the_same_ids_and_mask_where_it_can(tiny: Tiny, spec: dict[str, Any]) -> None:
    """It tokenises the whole text: answers that begin with white space, and control tokens in messages, come out differently."""
    from transformers import PreTrainedTokenizerFast

    made = encoder(**{**spec, "masking": "assistant"})
    theirs = PreTrainedTokenizerFast(tokenizer_object=made.tokenizer, eos_token="<|endoftext|>")
    theirs.chat_template = made.template.chat_template()
    same = dialogue("Hello, can you help me?", "Sure, what can I do for you?", "Sort 3, 1, 2.", "1, 2, 3")
    found = by_transformers(theirs, same)
    ours = example(made, same)
    assert found["input_ids"] == ours.input_ids
    assert [index for index, mark in enumerate(found["assistant_masks"]) if mark] == [index for span in ours.supervised for index in span]
    attack = dialogue("".join(made.template.stop_tokens), "a")
    assert by_transformers(theirs, attack)["input_ids"] != example(made, attack).input_ids


def by_transformers(tokenizer: Any, one: Dialogue) -> Any:
    conversation = [{"role": message.role, "content": message.content} for message in one.messages]
    return tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)


# What is learnt


@pytest.mark.parametrize("spec", OURS)
def test_the_prompt_is_a_token_prefix_of_what_was_trained(spec: dict[str, Any]) -> None:
    made = encoder(**spec)
    generator = random.Random(1)
    for row in range(30):
        one = random_dialogue(generator, row)
        trained = example(made, one).input_ids
        for index, message in enumerate(one.messages):
            if message.role == "assistant":
                prompt = made.encode_prompt(one.messages[:index])
                assert trained[: len(prompt)] == prompt


def test_the_prompt_is_a_token_prefix_with_a_models_own_template(tmp_path: Any) -> None:
    made = encoder(model_folder(tmp_path), name="model")
    one = dialogue(*TEXTS[:6])
    trained = example(made, one).input_ids
    for turns in (1, 3, 5):
        prompt = made.encode_prompt(one.messages[:turns])
        assert trained[: len(prompt)] == prompt
    assert learnt_texts(made, example(made, one)) == [f"{text}<|im_end|>" for text in TEXTS[1:6:2]]


@pytest.mark.parametrize("spec", [{**spec, "masking": "assistant"} for spec in OURS])
def test_answers_and_their_end_are_learnt_and_nothing_else(spec: dict[str, Any]) -> None:
    """Bugs 1 and 17 of the published code: users' turns, and the system header, were trained."""
    made = encoder(**spec)
    generator = random.Random(2)
    for row in range(30):
        one = random_dialogue(generator, row)
        end = made.template.turns(one.messages)[-1].end
        assert learnt_texts(made, example(made, one)) == [
            f"{message.content}{end}" for message in one.messages if message.role == "assistant"
        ]


def test_blog_masking_learns_everything_but_user_turns() -> None:
    made = encoder(name="no_system", masking="blog")
    one = dialogue("q1", "a1", "q2", "a2", system="s")
    assert learnt_texts(made, example(made, one)) == ["<|system|>\ns<|end|>\n", "<|assistant|>\na1<|end|>\n", "<|assistant|>\na2<|end|>\n"]


def test_labels_are_a_copy() -> None:
    """Bug 2 of the published code: labels alias the inputs, and the mask is written into both."""
    found = example(encoder(name="no_system"), GOLDEN)
    before = list(found.input_ids)
    labels = found.labels
    labels[0] = 5
    assert found.input_ids == before
    assert IGNORE_INDEX not in found.input_ids
    assert found.labels[0] == IGNORE_INDEX


@pytest.mark.parametrize("masking", ["assistant", "blog"])
def test_a_dialogue_that_ends_with_the_user(masking: str) -> None:
    """Bugs 3 and 15 of the published code: looking for the next assistant token runs off the end; open questions are learnt."""
    made = encoder(name="no_system", masking=masking, system_turn=False)
    found = example(made, dialogue("q1", "a1", "q2"))
    last_user = len(found.input_ids) - found.input_ids[::-1].index(made.tokenizer.token_to_id("<|user|>")) - 1
    assert set(found.labels[last_user:]) == {IGNORE_INDEX}
    assert "a1<|end|>" in learnt_texts(made, found)[0]


def test_labels_are_made_before_packing() -> None:
    """Bug 4 of the published code: masks that are made from packed blocks leak into users' turns at every cut."""
    made = encoder(name="no_system")
    generator = random.Random(3)
    found = [example(made, random_dialogue(generator, row, exchanges=2)) for row in range(40)]
    examples = InMemory(found)
    packed = BatchPlan(
        examples=examples,
        packing=pack(examples.lengths, 256),
        supervised_counts=examples.supervised_counts,
        global_batch_size=4,
        seed=1,
    )
    user, assistant = (made.tokenizer.token_to_id(f"<|{role}|>") for role in ("user", "assistant"))
    for step in range(packed.steps_per_epoch):
        for batch in packed.micro_batches(step, 0, 1, 2):
            speaker = None
            for token, label in zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
                speaker = token if token in (user, assistant) else speaker
                assert label == IGNORE_INDEX or speaker == assistant


class InMemory:
    """Examples as the batch plan wants them."""

    def __init__(self, examples: list[Example]) -> None:
        import numpy as np

        self._examples = examples
        self.lengths = np.array([len(one.input_ids) for one in examples])
        self.supervised_counts = np.array([one.num_supervised for one in examples])

    def ids(self, index: int) -> Any:
        import numpy as np

        return np.array(self._examples[index].input_ids)

    def labels(self, index: int) -> Any:
        import numpy as np

        return np.array(self._examples[index].labels)


def test_counts_of_an_example_are_those_of_its_batch() -> None:
    for masking in ("assistant", "blog"):
        found = example(encoder(name="no_system", masking=masking), GOLDEN)
        assert micro_batch(InMemory([found]), [0]).num_supervised == found.num_supervised


def test_many_dialogues_at_once_give_what_each_gives_alone() -> None:
    made = encoder(name="default")
    generator = random.Random(4)
    many = [random_dialogue(generator, row) for row in range(50)]
    assert [encoded.examples[0] for encoded in made.encode(many)] == [example(made, one) for one in many]


def test_spans_become_labels() -> None:
    assert labels_from_spans([5, 6, 7, 8], [range(1), range(2, 4)]) == [5, -100, 7, 8]


def test_messages_taught_elsewhere_are_context() -> None:
    made = encoder(name="no_system")
    one = dialogue("q1", "a1", "q2", "a2")
    (encoded,) = made.encode([one], known=[frozenset({0, 1})])
    assert learnt_texts(made, encoded.examples[0]) == ["a2<|end|>"]
    assert encoded.examples[0].input_ids == example(made, one).input_ids
    assert made.encode([one], known=[frozenset({1, 3})])[0].examples == []


# Over-long dialogues


def overlong_cases() -> list[tuple[Dialogue, int]]:
    generator = random.Random(5)
    return [(random_dialogue(generator, row, exchanges=8), generator.randint(24, 90)) for row in range(60)]


@pytest.mark.parametrize("masking", ["assistant", "blog"])
@pytest.mark.parametrize(("one", "max_length"), overlong_cases())
def test_each_answer_is_supervised_exactly_once(one: Dialogue, max_length: int, masking: str) -> None:
    made = encoder(name="no_system", system_turn=False, masking=masking)
    (encoded,) = made.encode([one], max_length=max_length)
    fitting = [message for index, message in enumerate(one.messages) if message.role == "assistant" and fits(made, one, index, max_length)]
    header = "<|assistant|>\n" if masking == "blog" else ""
    tail = "\n" if masking == "blog" else ""
    learnt = [text for piece in encoded.examples for text in learnt_texts(made, piece) if not text.startswith("<|system|>")]
    assert learnt == [f"{header}{message.content}<|end|>{tail}" for message in fitting]
    left_out = encoded.dropped_turns + encoded.dropped_exchanges
    assert left_out == sum(message.role == "assistant" for message in one.messages) - len(fitting)
    assert all(len(piece.input_ids) <= max_length for piece in encoded.examples)


def fits(made: Encoder, one: Dialogue, index: int, max_length: int) -> bool:
    """Whether an answer fits a row with its question and the system message before it."""
    system = one.messages[:1] if one.messages[0].role == "system" else ()
    question = [one.messages[index - 1]] if one.messages[index - 1].role == "user" else []
    return len(made.encode_prompt([*system, *question, one.messages[index]], generation_prompt=False)) <= max_length


@pytest.mark.parametrize(("one", "max_length"), overlong_cases()[:20])
def test_pieces_are_whole_turns_with_the_system_message_first(one: Dialogue, max_length: int) -> None:
    made = encoder(name="no_system", system_turn=False)
    system = list(one.messages[:1] if one.messages[0].role == "system" else ())
    body = one.messages[len(system) :]
    stretches = [
        made.encode_prompt([*system, *body[start:stop]], generation_prompt=False)
        for start in range(len(body))
        for stop in range(start + 1, len(body) + 1)
    ]
    for piece in made.encode([one], max_length=max_length)[0].examples:
        assert piece.input_ids in stretches


def test_a_later_piece_repeats_as_many_turns_as_fit() -> None:
    made = encoder(name="no_system", system_turn=False)
    one = dialogue(*[f"{kind}{number}" for number in range(5) for kind in "qa"], system="s")
    length = len(made.encode_prompt(one.messages[:7], generation_prompt=False))
    first, second = made.encode([one], max_length=length)[0].examples
    assert first.input_ids == made.encode_prompt(one.messages[:7], generation_prompt=False)
    assert second.input_ids == made.encode_prompt([one.messages[0], *one.messages[5:11]], generation_prompt=False)
    assert learnt_texts(made, second) == ["a3<|end|>", "a4<|end|>"]


def test_an_answer_longer_than_a_row_is_dropped_and_counted() -> None:
    made = encoder(name="no_system", system_turn=False)
    (encoded,) = made.encode([dialogue("q", "word " * 100, "q2", "a2")], max_length=40)
    assert encoded.dropped_turns == 1
    assert [learnt_texts(made, piece) for piece in encoded.examples] == [["a2<|end|>"]]


def test_or_cut_without_its_end_and_counted() -> None:
    made = encoder(name="no_system", system_turn=False)
    (encoded,) = made.encode([dialogue("q", "word " * 100, "q2", "a2")], max_length=40, overlong_turns="cut")
    assert (encoded.cut_turns, encoded.dropped_turns) == (1, 0)
    first, second = encoded.examples
    assert len(first.input_ids) == 40
    assert first.input_ids[: len(made.encode_prompt(messages("q")))] == made.encode_prompt(messages("q"))
    assert learnt_texts(made, first)[0].startswith("word word")
    assert "<|end|>" not in learnt_texts(made, first)[0]
    assert learnt_texts(made, second) == ["a2<|end|>"]


def test_an_answer_whose_question_does_not_fit_is_left_out_with_it() -> None:
    """An answer to nothing would teach to make things up."""
    made = encoder(name="no_system", system_turn=False)
    (encoded,) = made.encode([dialogue("word " * 100, "an answer", "q2", "a2")], max_length=40)
    assert (encoded.dropped_exchanges, encoded.dropped_turns, encoded.questions_left_out) == (1, 0, 0)
    assert [learnt_texts(made, piece) for piece in encoded.examples] == [["a2<|end|>"]]


def test_or_learnt_without_it_and_counted() -> None:
    made = encoder(name="no_system", system_turn=False)
    (encoded,) = made.encode([dialogue("word " * 100, "an answer")], max_length=40, overlong_turns="cut")
    assert (encoded.dropped_exchanges, encoded.questions_left_out) == (0, 1)
    assert learnt_texts(made, encoded.examples[0]) == ["an answer<|end|>"]


def test_nothing_fits_beside_a_system_message_as_long_as_a_row() -> None:
    made = encoder(name="no_system")
    (encoded,) = made.encode([dialogue("q", "a", system="word " * 100)], max_length=40, overlong_turns="cut")
    assert encoded.examples == []
    assert encoded.dropped_turns == 1


def test_a_models_own_template_is_divided_too(tmp_path: Any) -> None:
    made = encoder(model_folder(tmp_path), name="model")
    one = dialogue(*[f"{kind}{number}" for number in range(6) for kind in "qa"])
    (encoded,) = made.encode([one], max_length=60)
    assert [text for piece in encoded.examples for text in learnt_texts(made, piece)] == [f"a{number}<|im_end|>" for number in range(6)]
    assert len(encoded.examples) > 1


def test_a_message_id_changes_nothing() -> None:
    made = encoder(name="no_system")
    named = Dialogue(source="x", row=1, tree="t", messages=tuple(Message(role=m.role, content=m.content, id="i") for m in GOLDEN.messages))
    assert example(made, named) == example(made, GOLDEN)
