"""finetune_assistant/inference/own_thread.py"""

import threading

import pytest

from finetune_assistant.inference.own_thread import OwnThread


def test_every_task_runs_in_the_same_other_thread() -> None:
    thread = OwnThread()
    idents = {thread.run(threading.get_ident) for _ in range(3)}
    assert len(idents) == 1
    assert idents != {threading.get_ident()}


def test_what_a_task_raises_is_raised_and_the_next_one_runs() -> None:
    thread = OwnThread()
    with pytest.raises(ZeroDivisionError):
        thread.run(lambda: 1 // 0)
    assert thread.run(lambda: 2) == 2


def test_tasks_wait_for_those_before_them() -> None:
    thread, gate, order = OwnThread(), threading.Event(), list[int]()
    first = thread.begin(lambda: (gate.wait(20), order.append(1)))
    second = thread.begin(lambda: order.append(2))
    assert not second.done()
    gate.set()
    second.result(20)
    assert first.done()
    assert order == [1, 2]
