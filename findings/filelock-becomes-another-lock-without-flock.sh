#!/usr/bin/env bash
# A FileLock turns into a lock of another kind where the file system has no flock, and the two kinds don't see one another.
#
# Guess: where flock is not there (some network file systems), FileLock raises, as its name says what it relies on; or whoever shares
# the path is kept out all the same.
# Seen (filelock 4.2.11): the object changes its class to SoftFileLock, with a warning that Python shows once. A soft lock is the file's
# existence: it outlives its holder, and a host whose own flock works locks the same path at the same time.
source "$(dirname "$0")/_common"
environment env filelock==4.2.11
cat >"$work/lock.py" <<'PYTHON'
import errno, fcntl, sys, warnings
import filelock

def not_there(descriptor, operation):
    raise OSError(errno.ENOSYS, "Function not implemented")  # what the kernel says for such a file system

path, flock = sys.argv[1], fcntl.flock
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    fcntl.flock = not_there
    here = filelock.FileLock(path)
    here.acquire(timeout=1)
print(type(here).__name__, "held:", here.is_locked, "warned:", [str(one.message) for one in warned])
fcntl.flock = flock
elsewhere = filelock.FileLock(path)
elsewhere.acquire(timeout=1)
print(type(elsewhere).__name__, "held at the same time:", here.is_locked and elsewhere.is_locked)
PYTHON
expect "$("$work/env/bin/python" "$work/lock.py" "$work/lock")" "SoftFileLock held: True warned: ['flock not supported on this filesystem, falling back to SoftFileLock']
UnixFileLock held at the same time: True"
