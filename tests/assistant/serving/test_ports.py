"""Ports: one playground each, any free one, and addresses that are none of this machine's."""

import pytest

from finetune_api.errors import InvalidInput
from finetune_assistant.serving.ports import bound


def test_two_playgrounds_on_one_port_are_refused() -> None:
    with bound("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(InvalidInput, match=rf"--port {port} on 127.0.0.1 can't be had .*; try --port 0 for any free one"):
            bound("127.0.0.1", port)
        with bound("127.0.0.1", 0) as second:
            assert second.getsockname()[1] != port


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"--host 192\.0\.2\.1 is no address of this machine"):
        bound("192.0.2.1", 0)
