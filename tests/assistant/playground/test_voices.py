"""What a playground relies on of a dialogue, by the script of the tests and by a real model."""

import threading
from collections.abc import Callable

import pytest
from tests.assistant.playground.scripted import TOO_LONG, Scripted
from tests.assistant.tiny_models import exported_run

from finetune_api.errors import InvalidData
from finetune_assistant.inference.loading import load
from finetune_assistant.inference.own_thread import OwnThread
from finetune_assistant.inference.sampling import Sampling
from finetune_assistant.playground.voices import Dialogue, voice_of
from finetune_trainer.data.dialogues import Message

GREEDY = Sampling(greedy=True)


@pytest.fixture(scope="module", params=["scripted", "real"])
def begin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None], Dialogue]:
    if request.param == "scripted":
        return lambda system: Scripted("tuned", threading.Event(), system, GREEDY, False)
    voice = voice_of(load(str(exported_run(tmp_path_factory.mktemp("runs") / "tiny"))), "tuned", OwnThread())
    return lambda system: voice.begin(system, GREEDY)


def test_a_dialogue_grows_by_question_and_answer(begin: Callable[[str | None], Dialogue]) -> None:
    dialogue = begin("Be brief.")
    pieces: list[str] = []
    answer = dialogue.ask("Hello", pieces.append)
    assert "".join(pieces).strip() == answer.text.strip()
    assert answer.stopped in ("end", "length")
    assert [message.role for message in dialogue.messages] == ["system", "user", "assistant"]
    assert dialogue.messages[2].content == answer.text


def test_a_dialogue_goes_on_elsewhere_and_with_another_system_text(begin: Callable[[str | None], Dialogue]) -> None:
    dialogue = begin(None)
    first = dialogue.ask("Hello")
    again = begin(None)
    again.go_on_with([])
    assert again.ask("Hello").text == first.text
    longer = again.ask("Hello")
    assert longer.prompt_tokens > first.prompt_tokens
    dialogue.set_system("Be brief.")
    assert dialogue.messages[0] == Message(role="system", content="Be brief.")
    dialogue.set_system(None)
    assert [message.role for message in dialogue.messages] == ["user", "assistant"]


def test_an_interrupt_keeps_what_was_written(begin: Callable[[str | None], Dialogue]) -> None:
    pieces: list[str] = []

    def once(text: str) -> None:
        pieces.append(text)
        raise KeyboardInterrupt

    dialogue = begin(None)
    answer = dialogue.ask("Hello", once)
    assert answer.stopped == "interrupted"
    assert answer.text.strip() == pieces[0].strip()
    assert dialogue.messages[-1].content == answer.text


def test_a_question_that_does_not_fit_is_refused_and_forgotten(begin: Callable[[str | None], Dialogue]) -> None:
    dialogue = begin(None)
    with pytest.raises(InvalidData):
        dialogue.ask("word " * TOO_LONG)
    assert dialogue.messages == []
