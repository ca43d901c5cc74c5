"""The filter of system calls: a small program for the kernel, for x86_64 and aarch64.

In: an architecture. Out: the filter's instructions, and `install`, after which this process and its children are held by them. What a
Python program with numpy and matplotlib needs stays; doors of the kernel that it never needs are shut. The namespaces alone would
do for most of them: the filter is the second wall. Numbers: the kernel's arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h; instructions: include/uapi/linux/{bpf_common,filter,seccomp,audit}.h.
"""

import ctypes
import errno
import os
import struct

# name: (x86_64, aarch64); None where the architecture has no such call.
DENIED: dict[str, tuple[int | None, int | None]] = {
    # into other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # memory that no limit counts
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    # parts of the kernel in which most holes are found
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "fanotify_init": (300, 262),
    "vmsplice": (278, 75),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    # the machine's own affairs
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "vhangup": (153, 58),
}
# Named for the error that a program gets: no other call fails so, and "Network is down" tells its reader what happened.
NETWORK_ERROR = errno.ENETDOWN
# futex_waitv (Linux 5.16); what is newer doesn't exist here, and libraries go back to what does.
NEWEST = 449

_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SOCKET = {"x86_64": 41, "aarch64": 198}
_CLONE = {"x86_64": 56, "aarch64": 220}
_PRLIMIT = {"x86_64": 302, "aarch64": 261}
_CLONE3 = 435
_CLONE_NAMESPACES = 0x7E020000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; the low half of an argument comes first on both
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2


def instructions(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter for `machine` (as `uname -m` names it): code, jump if true, jump if false, constant. KeyError for another machine.

    >>> instructions("aarch64")[1] == (0x15, 1, 0, 0xC00000B7)
    True
    """
    column = list(_AUDIT).index(machine)
    denied = [numbers[column] for numbers in DENIED.values()]
    filtered = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, _AUDIT[machine]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    # Also x32's numbers, which begin at 2**30.
    filtered += _unless(_AT_LEAST, NEWEST + 1, errno.ENOSYS)
    # Its flags lie in memory, where a filter can't look; without it the C library calls clone.
    filtered += _unless(_EQUAL, _CLONE3, errno.ENOSYS)
    filtered += _unless(_EQUAL, _SOCKET[machine], NETWORK_ERROR)
    for number in denied:
        if number is not None:
            filtered += _unless(_EQUAL, number, errno.EPERM)
    # clone may start processes and threads, no namespaces; prlimit is for the process itself (0).
    filtered += [(_EQUAL, 0, 3, _CLONE[machine]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_ANY_BIT, 0, 5, _CLONE_NAMESPACES), _error(errno.EPERM)]
    filtered += [(_EQUAL, 0, 3, _PRLIMIT[machine]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_EQUAL, 1, 0, 0), _error(errno.EPERM)]
    return [*filtered, (_RETURN, 0, 0, _ALLOW)]


def install() -> None:
    """Hold this process and its children by the filter, for ever. Needs `kernel.gain_nothing`. OSError or KeyError where it can't be."""
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions(os.uname().machine))
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HP", len(program) // 8, ctypes.addressof(code)))  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), header, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def _unless(test: int, constant: int, error: int) -> list[tuple[int, int, int, int]]:
    """Where the test of the loaded word holds, the call fails with `error`; otherwise the next instruction but one is next."""
    return [(test, 0, 1, constant), _error(error)]


def _error(number: int) -> tuple[int, int, int, int]:
    return _RETURN, 0, 0, _ERROR | number
