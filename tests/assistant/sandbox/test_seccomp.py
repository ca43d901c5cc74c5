"""The filter: run by hand for both architectures, and by the kernel for this one."""

import errno
import os

import pytest

from finetune_assistant.sandbox.run import execute
from finetune_assistant.sandbox.seccomp import DENIED, NEWEST, instructions

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED, KILLED = 0x7FFF0000, 0x80000000
MACHINES = tuple(AUDIT)
# Calls of every Python program: read, mmap, futex, openat, execve, socketpair, clone of a thread.
NEEDED = {"x86_64": (0, 9, 202, 257, 59, 53, 56), "aarch64": (63, 222, 98, 56, 221, 199, 220)}
CLONE, PRLIMIT, SOCKET = {"x86_64": 56, "aarch64": 220}, {"x86_64": 302, "aarch64": 261}, {"x86_64": 41, "aarch64": 198}


def verdict(machine: str, number: int, *, argument: int = 0, architecture: int | None = None) -> int:
    """What the filter says of a call, as the kernel would work it out."""
    data = {0: number, 4: AUDIT[machine] if architecture is None else architecture, 16: argument}
    program, place, loaded = instructions(machine), 0, 0
    while True:
        code, if_true, if_false, constant = program[place]
        if code == 0x06:
            return constant
        if code == 0x20:
            loaded = data[constant]
            place += 1
            continue
        holds = {0x15: loaded == constant, 0x35: loaded >= constant, 0x45: bool(loaded & constant)}[code]
        place += 1 + (if_true if holds else if_false)


def error(number: int) -> int:
    return 0x00050000 | number


@pytest.mark.parametrize("machine", MACHINES)
def test_every_denied_call_is_denied_and_what_python_needs_is_not(machine: str) -> None:
    numbers = [each[MACHINES.index(machine)] for each in DENIED.values()]
    assert {verdict(machine, number) for number in numbers if number is not None} == {error(errno.EPERM)}
    assert {verdict(machine, number) for number in NEEDED[machine]} == {ALLOWED}


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_that_are_denied_by_an_argument(machine: str) -> None:
    assert verdict(machine, CLONE[machine], argument=0x003D0F00) == ALLOWED  # a thread, as the C library starts one
    assert {verdict(machine, CLONE[machine], argument=1 << bit) for bit in (17, 25, 26, 27, 28, 29, 30)} == {error(errno.EPERM)}
    assert [verdict(machine, PRLIMIT[machine], argument=process) for process in (0, 1)] == [ALLOWED, error(errno.EPERM)]


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_new_does_not_exist_and_another_architecture_ends_the_program(machine: str) -> None:
    assert [verdict(machine, number) for number in (NEWEST, NEWEST + 1, 435, 0x40000000)] == [ALLOWED, *[error(errno.ENOSYS)] * 3]
    assert verdict(machine, SOCKET[machine]) == error(errno.ENETDOWN)
    assert verdict(machine, 0, architecture=0x40000003) == KILLED


@pytest.mark.usefixtures("sandbox")
def test_the_kernel_denies_them() -> None:
    """With arguments that no call could do anything with, were it allowed."""
    column = MACHINES.index(os.uname().machine)
    numbers = {name: each[column] for name, each in DENIED.items() if each[column] is not None}
    code = f"""
import ctypes
call = ctypes.CDLL(None, use_errno=True).syscall
for name, number in {numbers!r}.items():
    ctypes.set_errno(0)
    if call(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6) != -1 or ctypes.get_errno() != {errno.EPERM}:
        print(name, ctypes.get_errno())
"""
    execution = execute(code)
    assert (execution.ended, execution.exit_code, execution.stdout, execution.stderr) == ("exit", 0, "", "")
