"""The processes around a sandboxed program: one that watches from outside its namespaces, and the first one inside them.

In: an order through standard input (`run.py` writes it): command, environment, files, limits. Out: a parcel with how the program ended and
the files that it left, or an exit status that says why there is none. It runs in a fresh interpreter, without site-packages and with an
empty environment, and imports little. When whoever ordered is gone, or this process is, the kernel ends everything inside.

    run.py -- watching process -- first process of the namespaces -- the program, and what it starts
"""

import os
import resource
import select
import signal
import stat
import sys
import time
from contextlib import suppress

from finetune_assistant.sandbox import kernel, parcels, root, seccomp
from finetune_assistant.sandbox.parcels import ABANDONED, FAILED, MEMORY, WALL, WORK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

NAMESPACES = (
    kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP
)
# Who a program is when root runs it. The kernel holds everybody but root to a number of processes.
NOBODY = 65534
_LOOK_MILLISECONDS = 50
# What is brought back at most; the program's disk bounds it as well.
_FILES, _BYTES, _DEPTH = 32, 16 << 20, 4
_DEFAULT_AGAIN = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT)  # what Python's start changes


def main() -> None:
    """Run the order in standard input. Arguments: descriptors of the program's output and errors, and of the result."""
    output, errors, result = (int(argument) for argument in sys.argv[1:])
    for descriptor in (output, errors, result):
        os.set_inheritable(descriptor, False)
    kernel.die_with_parent(signal.SIGKILL)
    # What whoever started us ignores or blocks would be so in the program too.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    order, files = parcels.received(sys.stdin.buffer)
    try:
        os.stat(f"/proc/self/task/{os.getpid()}/children")  # by which memory is watched; a kernel may lack it
        order["user"], order["group"] = _enter_namespaces()
        watching = os.pidfd_open(os.getpid())
        first = os.fork()
    except Exception as error:  # the order comes from us, so it is the kernel that refuses
        _give_up(result, error)
    if first == 0:
        _be_first(order, files, watching, output, errors, result)
    for descriptor in (output, errors, result):
        os.close(descriptor)
    sys.exit(_watch(first, order["limits"]))


def _enter_namespaces() -> tuple[int, int]:
    """User and group of the program. This process has every right in its new namespaces then, and no new one outside."""
    user, group = os.geteuid(), os.getegid()
    if user == 0 and _has_user(NOBODY):
        _unshare_as_root(f"0 0 1\n{NOBODY} {NOBODY} 1\n")
        user = group = NOBODY
    else:
        kernel.unshare(NAMESPACES)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1\n")
        _write("/proc/self/gid_map", f"{group} {group} 1\n")
    kernel.die_with_parent(signal.SIGKILL)
    # If memory runs out all the same, the kernel ends this one first.
    _write("/proc/self/oom_score_adj", "1000")
    return user, group


def _unshare_as_root(mapping: str) -> None:
    """A map of more than one user is written by a process outside, one that has the right to become each of them."""
    watched = os.getpid()
    left, told = os.pipe()
    writer = os.fork()
    if writer == 0:
        os.close(told)
        os.read(left, 1)
        with suppress(OSError):
            _write(f"/proc/{watched}/uid_map", mapping)
            _write(f"/proc/{watched}/gid_map", mapping)
            os._exit(0)
        os._exit(1)
    os.close(left)
    try:
        kernel.unshare(NAMESPACES)
    finally:
        os.close(told)
        _, status = os.waitpid(writer, 0)
    if status:
        raise PermissionError(1, "the map of users can't be written")


def _has_user(user: int) -> bool:
    """Whether this namespace knows the user: a container's root may be the only one there."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        ranges = [[int(word) for word in line.split()] for line in file]
    return any(begin <= user < begin + count for begin, _, count in ranges)


def _watch(first: int, limits: "dict[str, Any]") -> int:
    """Wait for the first process; end it, and so everything inside, at a limit or when whoever ordered is gone. The exit status."""
    ends = time.monotonic() + limits["wall_seconds"]
    ended = os.pidfd_open(first)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(sys.stdin.fileno(), 0)  # POLLHUP is always told
    verdict = 0
    while not verdict:
        events = [descriptor for descriptor, _ in poll.poll(_LOOK_MILLISECONDS)]
        if ended in events:
            break
        if events:
            verdict = ABANDONED
        elif time.monotonic() > ends:
            verdict = WALL
        elif sum(map(_resident_bytes, _children(first))) > limits["memory_bytes"]:
            verdict = MEMORY
    if verdict:
        os.kill(first, signal.SIGKILL)
    # The kernel lets the first process of a pid namespace go when all others have.
    _, status = os.waitpid(first, 0)
    return verdict or (FAILED if status else 0)


def _children(process: int) -> list[int]:
    """Its descendants. What loses its parent inside becomes a child of the first process, so none is missed for long."""
    try:
        with open(f"/proc/{process}/task/{process}/children", encoding="ascii") as file:
            children = [int(word) for word in file.read().split()]
    except OSError:  # ended meanwhile
        return []
    return children + [below for child in children for below in _children(child)]


def _resident_bytes(process: int) -> int:
    """Its own memory, without files that it maps."""
    kibibytes = 0
    with suppress(OSError), open(f"/proc/{process}/status", encoding="utf-8", errors="replace") as file:
        kibibytes = sum(int(line.split()[1]) for line in file if line.startswith(("RssAnon:", "RssShmem:")))
    return kibibytes * 1024


def _be_first(order: "dict[str, Any]", files: dict[str, bytes], watching: int, output: int, errors: int, result: int) -> "NoReturn":
    """The first process inside: make the root, run the program, end what it leaves running, send what became of it."""
    try:
        kernel.die_with_parent(signal.SIGKILL)
        if select.select([watching], [], [], 0)[0]:
            os._exit(FAILED)  # the watching process ended before it could be told from here
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which the kernel keeps from a first process
        kernel.hide_memory()
        kernel.unshare(kernel.CLONE_NEWNS)
        user, group = order["user"], order["group"]
        root.build(order["shown"], order["links"], order["limits"]["disk_bytes"], user, group)
        _leave_files(files, user, group)
        status = _run(order, output, errors)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        header = {"status": status, "cpu_seconds": spent.ru_utime + spent.ru_stime}
        parcels.send(result, parcels.packed(header, _collected(tuple(order["collect"]))))
    except Exception as error:  # whatever it is: nobody above would be told
        _give_up(result, error)
    os._exit(0)


def _leave_files(files: dict[str, bytes], user: int, group: int) -> None:
    """Into the program's folder."""
    for name, content in files.items():
        path = f"{WORK}/{name}"
        with open(path, "xb") as file:
            file.write(content)
        os.chown(path, user, group)


def _run(order: "dict[str, Any]", output: int, errors: int) -> int:
    """Run the program until it ends, and end all that it started. Its exit status, or the signal that ended it, negative."""
    problem, told = os.pipe()
    program = os.fork()
    if program == 0:
        try:
            _become_program(order, output, errors)
        except Exception as error:  # as above
            os.write(told, f"{type(error).__name__} {error}".encode()[:512])
        os._exit(1)
    os.close(told)
    os.close(output)
    os.close(errors)
    # Closed without a word by a start that succeeds.
    if said := os.read(problem, 512):
        raise OSError(said.decode(errors="replace"))
    status = 0
    with suppress(ChildProcessError):  # none is left
        while True:
            process, how = os.waitpid(-1, 0)
            if process == program:
                status = os.waitstatus_to_exitcode(how)
                with suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)
    return status


def _become_program(order: "dict[str, Any]", output: int, errors: int) -> None:
    """Give up every right, in an order in which each step is still allowed, and start the program in this process."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDONLY)
    for descriptor, place in ((null, 0), (output, 1), (errors, 2)):
        os.dup2(descriptor, place)
    os.chdir(WORK)
    for number in _DEFAULT_AGAIN:
        signal.signal(number, signal.SIG_DFL)
    others = 0 if order["user"] != os.geteuid() else 2  # this user's processes that are not the program's: both of ours
    for name, value in order["limits"]["resources"].items():
        _bound(getattr(resource, name), value + others if name == "RLIMIT_NPROC" else value)
    kernel.bound_capabilities()
    if order["user"] != os.geteuid():
        os.setgroups([])
        os.setresgid(order["group"], order["group"], order["group"])
        os.setresuid(order["user"], order["user"], order["user"])
    kernel.drop_capabilities()
    kernel.gain_nothing()
    seccomp.install()
    os.execve(order["command"][0], order["command"], order["environment"])


def _bound(kind: int, value: int) -> None:
    """Set a limit for good; where whoever started us has a lower one already, that stays."""
    _, most = resource.getrlimit(kind)
    most = sys.maxsize if most == resource.RLIM_INFINITY else most
    # At its end of CPU time a program is told by SIGXCPU, and killed a second later.
    resource.setrlimit(kind, (min(value, most), min(value + (kind == resource.RLIMIT_CPU), most)))


def _collected(endings: tuple[str, ...]) -> dict[str, bytes]:
    """Files in the program's folder by their relative names; no links, and no more than a bounded number and size."""
    found: dict[str, bytes] = {}
    room = _BYTES
    for folder, below, names in os.walk(WORK):
        below.sort()
        if folder.count("/") >= WORK.count("/") + _DEPTH:
            below.clear()
        for name in sorted(name for name in names if name.endswith(endings)):
            path = os.path.join(folder, name)
            content = _content(path, room)
            if content is not None and len(found) < _FILES:
                found[os.path.relpath(path, WORK)] = content
                room -= len(content)
    return found


def _content(path: str, most: int) -> bytes | None:
    """Of a plain file of at most `most` bytes."""
    try:
        # O_NONBLOCK: not waiting for a writer, should it be a pipe.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            return file.read() if stat.S_ISREG(about.st_mode) and about.st_size <= most else None
    except OSError:
        return None


def _give_up(result: int, error: Exception) -> "NoReturn":
    """Say why nothing could be run, and end."""
    with suppress(OSError):
        parcels.send(result, parcels.packed({"failure": str(error) or type(error).__name__}, {}))
    os._exit(FAILED)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
