"""The sandbox, attacked: each probe tries one thing that must not be possible, is harmless where it is, and says what came of it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import ROOT

from finetune_api.errors import Interrupted
from finetune_assistant.sandbox.limits import Limits
from finetune_assistant.sandbox.run import LIMITS, execute

pytestmark = pytest.mark.usefixtures("sandbox")
_PATIENCE_SECONDS = 30.0


def printed(code: str, limits: Limits = LIMITS) -> str:
    """What a program prints that must end well."""
    execution = execute(code, limits=limits)
    assert execution.succeeded, execution
    return execution.stdout.strip()


def with_argument(argument: str) -> list[int]:
    """Processes of this machine that have the argument."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if argument.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_for(holds: Callable[[], object]) -> None:
    """Until `holds()`; the test fails where it never does."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_program_says_what_it_did_and_leaves_its_files() -> None:
    code = """
import sys
print("out", sys.argv[1:], open("data.txt").read())
print("err", file=sys.stderr)
open("a.png", "w").write("A")
exit(3)
"""
    execution = execute(code, files={"data.txt": b"given"}, arguments=["one"], collect=[".png"])
    assert (execution.ended, execution.exit_code, execution.succeeded) == ("exit", 3, False)
    assert (execution.stdout, execution.stderr, execution.files) == ("out ['one'] given\n", "err\n", {"a.png": b"A"})


def test_files_that_are_links_or_pipes_are_not_brought_back() -> None:
    code = "import os; os.symlink('/usr/bin/env', 'a.png'); os.mkfifo('b.png'); os.makedirs('in'); open('in/c.png', 'w').write('C')"
    assert execute(code, collect=[".png"]).files == {"in/c.png": b"C"}


def test_a_program_sees_installed_packages() -> None:
    assert printed("import yaml; print(yaml.safe_load('a: 1'))") == "{'a': 1}"


# Secrets


def test_neither_environment_nor_home_of_the_caller_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = uuid.uuid4().hex
    (tmp_path / "token").write_text(secret, encoding="ascii")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    code = f"""
import os, pathlib
print(dict(os.environ))
for path in [{str(tmp_path / "token")!r}, "/proc/1/environ", "/proc/self/environ", os.path.expanduser("~/token")]:
    try:
        print(path, pathlib.Path(path).read_bytes())
    except OSError as error:
        print(path, type(error).__name__)
"""
    said = printed(code)
    assert secret not in said
    assert f"{tmp_path}/token FileNotFoundError" in said
    assert "/proc/1/environ PermissionError" in said or "/proc/1/environ FileNotFoundError" in said


def test_nothing_of_this_machine_is_there_but_programs() -> None:
    ours = [str(ROOT / "pyproject.toml"), str(Path.home() / ".cache")]
    paths = ["/run", "/var", "/home", "/etc/shadow", "/etc/hostname", "/sys", "/boot", *ours]
    assert json.loads(printed(f"import json, os; print(json.dumps([p for p in {paths!r} if os.path.exists(p)]))")) == []


def test_nothing_can_be_written_but_in_its_own_folders() -> None:
    code = """
import os, sys
own = ["/tmp", os.getcwd(), os.environ["HOME"]]
for folder in ["/", "/usr", "/usr/lib", "/etc", "/dev", "/proc", os.path.dirname(sys.executable), *own]:
    try:
        open(f"{folder}/probe", "w").close()
        print(folder)
    except OSError:
        pass
"""
    assert printed(code).split() == ["/tmp", "/tmp/program", "/tmp/home"]


def test_other_processes_are_out_of_sight_and_reach() -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        code = f"""
import os
print([int(name) for name in os.listdir("/proc") if name.isdigit()], os.getppid())
try:
    os.kill({other.pid}, 15)
except ProcessLookupError:
    print("not there")
"""
        said = printed(code)
        assert other.poll() is None
        other.kill()
    assert said in {"[1, 2] 1\nnot there", "[] 1\nnot there"}


def test_signals_to_the_first_process_of_the_sandbox_do_nothing() -> None:
    code = """
import os, signal
assert os.getppid() == 1 and os.getpid() == 2
for number in signal.valid_signals():
    try:
        os.kill(1, number)
    except PermissionError:
        pass
print("still here")
"""
    assert printed(code) == "still here"


def test_no_privilege_is_left_and_none_can_be_gained() -> None:
    code = """
import ctypes, os
prctl = ctypes.CDLL(None).prctl
print([number for number in range(64) if prctl(23, number, 0, 0, 0) == 1], prctl(39, 0, 0, 0, 0), prctl(21, 0, 0, 0, 0), os.getuid() == 0)
"""
    assert printed(code) == "[] 1 2 False"


# Network


def test_no_socket_can_be_made_and_no_server_of_this_machine_reached() -> None:
    with socket.socket() as server, socket.socket(socket.AF_UNIX) as local:
        server.bind(("127.0.0.1", 0))
        server.listen()
        name = f"\0{uuid.uuid4().hex}"
        local.bind(name)
        local.listen()
        code = f"""
import socket
server, local = {server.getsockname()!r}, {name!r}
for family, address in [(socket.AF_INET, server), (socket.AF_INET6, ("::1", 1)), (socket.AF_UNIX, local), (socket.AF_NETLINK, (0, 0))]:
    try:
        socket.socket(family).connect(address)
        print(family, "connected")
    except OSError as error:
        print(error.strerror)
"""
        assert printed(code).splitlines() == ["Network is down"] * 4


def test_processes_of_a_program_may_talk_to_each_other() -> None:
    code = """
import multiprocessing
def double(number): return 2 * number
with multiprocessing.Pool(2) as pool:
    print(pool.map(double, [1, 2]))
"""
    assert printed(code) == "[2, 4]"


# Limits


def test_more_processes_than_allowed_are_refused() -> None:
    code = """
import os
wait, go = os.pipe()
started = 0
try:
    for _ in range(12):
        if os.fork() == 0:
            os.close(go)
            os.read(wait, 1)
            os._exit(0)
        started += 1
except BlockingIOError:
    print("refused after", started)
"""
    assert printed(code, limits=Limits(num_processes=6)) == "refused after 5"


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("while True: pass", "cpu"),
        ("import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "cpu"),
        ("import time; time.sleep(60)", "wall"),
        ("import signal, time\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(60)", "wall"),
        ("import sys\nwhile True: print('x' * 1000)", "output"),
        ("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", "output"),
        ("held = bytearray(300 << 20)", "memory"),
        ("import os; os.abort()", "signal"),
    ],
)
def test_a_program_that_goes_too_far_is_ended(code: str, ended: str) -> None:
    limits = Limits(cpu_seconds=1, wall_seconds=1.0 if ended == "wall" else 60.0, memory_bytes=256 << 20, output_bytes=50_000)
    execution = execute(code, limits=limits)
    assert (execution.ended, execution.exit_code, execution.succeeded) == (ended, None, False)
    assert max(len(execution.stdout), len(execution.stderr)) <= 50_000


def test_what_was_printed_before_a_limit_is_kept() -> None:
    execution = execute("print('before'); import time; time.sleep(60)", limits=Limits(wall_seconds=4.0))
    assert (execution.ended, execution.stdout) == ("wall", "before\n")


def test_memory_of_all_processes_together_is_bounded() -> None:
    """Each of the three stays below the limit, 240 MiB together don't."""
    code = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        held = b"x" * (80 << 20)
        time.sleep(60)
time.sleep(60)
"""
    assert execute(code, limits=Limits(memory_bytes=128 << 20, wall_seconds=60.0)).ended == "memory"


def test_files_are_bounded_in_size_number_and_sum() -> None:
    code = """
import errno, os
def fails(what):
    try:
        what()
    except OSError as error:
        return errno.errorcode[error.errno]
def write(name, mebibytes):
    with open(name, "wb") as file:
        for _ in range(mebibytes):
            file.write(bytes(1 << 20))
def hold():
    held = []
    try:
        while len(held) < 100:
            held.append(os.open("/dev/null", 0))
    finally:
        for descriptor in held:
            os.close(descriptor)
def many():
    for number in range(5000):
        os.mkdir(f"d{number}")
def fill():
    for number in range(12):
        write(f"f{number}", 1)
print(fails(lambda: write("large", 3)), fails(hold), fails(fill))
for name in os.listdir():
    if name != "main.py":
        os.remove(name)
print(fails(many))
"""
    limits = Limits(disk_bytes=8 << 20, file_bytes=2 << 20, num_open_files=32)
    # The one file of 2 MiB leaves room for six.
    assert printed(code, limits=limits).split() == ["EFBIG", "EMFILE", "ENOSPC", "ENOSPC"]


# Nothing is left


def test_a_background_child_ends_with_the_program() -> None:
    token = uuid.uuid4().hex
    code = f"""
import subprocess, sys
code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", code, {token!r}], start_new_session=True)
print("done")
"""
    assert printed(code) == "done"
    assert with_argument(token) == []


@pytest.fixture
def caller() -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A process that has a long program running, and an argument of that program."""
    token = uuid.uuid4().hex
    code = f"from finetune_assistant.sandbox.run import execute; execute('import time; time.sleep(60)', arguments=[{token!r}])"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'trainer'}:{ROOT / 'operator'}"}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: with_argument(token))
            yield process, token
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_caller(caller: tuple["subprocess.Popen[str]", str], number: signal.Signals) -> None:
    process, token = caller
    process.send_signal(number)
    process.wait(_PATIENCE_SECONDS)
    wait_for(lambda: not with_argument(token))


def test_a_program_can_be_stopped_from_another_thread() -> None:
    stop, token = threading.Event(), uuid.uuid4().hex
    asking = threading.Thread(target=lambda: (wait_for(lambda: with_argument(token)), stop.set()))
    asking.start()
    with pytest.raises(Interrupted, match="on request"):
        execute("import time; time.sleep(60)", arguments=[token], stop=stop)
    asking.join()
    assert with_argument(token) == []


@pytest.mark.parametrize("generations", [1, 2])
def test_a_program_ends_with_the_processes_around_it(generations: int) -> None:
    """As when the kernel runs out of memory and chooses one of ours."""
    token = uuid.uuid4().hex

    def kill_above() -> None:
        wait_for(lambda: with_argument(token))
        [process] = with_argument(token)
        for _ in range(generations):
            process = int(re.findall(r"^PPid:\t(\d+)$", Path(f"/proc/{process}/status").read_text(encoding="utf-8"), re.M)[0])
        os.kill(process, signal.SIGKILL)

    killing = threading.Thread(target=kill_above)
    killing.start()
    execution = execute("import time; time.sleep(60)", arguments=[token], limits=Limits(wall_seconds=60.0))
    killing.join()
    assert execution.ended == "signal"
    assert with_argument(token) == []


def test_no_descriptor_stays_open() -> None:
    execute("pass")
    before = len(os.listdir("/proc/self/fd"))
    execute("pass")
    execute("print('x' * 100)", limits=Limits(output_bytes=10))
    assert len(os.listdir("/proc/self/fd")) == before
