#!/usr/bin/env bash
# A folder that is read as a store lacks some of its files.
#
# Guess: a LocalStore lists every file below it, whatever it is called.
# Seen (obstore 0.12.1): a name that ends in # and digits is the library's own, for drafts: such a file isn't listed, in silence, and
# can't be read or written, with an error. In the same library's store in memory it is a name like any other.
source "$(dirname "$0")/_common"
environment env obstore==0.12.1
mkdir "$work/folder"
touch "$work/folder/notes" "$work/folder/notes#1" "$work/folder/notes#1.txt"
expect "$("$work/env/bin/python" - "$work/folder" <<'PYTHON'
import sys
import obstore
from obstore.store import LocalStore, MemoryStore

def listed(store):
    return sorted(one["path"] for page in obstore.list(store) for one in page)

folder, memory = LocalStore(sys.argv[1]), MemoryStore()
obstore.put(memory, "notes#1", b"text")
print("folder", listed(folder))
print("memory", listed(memory))
try:
    obstore.get(folder, "notes#1")
except Exception as error:
    print("get", str(error).splitlines()[0])
PYTHON
)" "folder ['notes', 'notes#1.txt']
memory ['notes#1']
get Generic LocalFileSystem error: Filenames containing trailing '/#\\d+/' are not supported: notes#1"
