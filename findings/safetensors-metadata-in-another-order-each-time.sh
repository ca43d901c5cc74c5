#!/usr/bin/env bash
# The same tensors with the same metadata are another file at each save, with another digest.
#
# Guess: a format without code and without timestamps is a function of what is put into it.
# Seen (safetensors 0.8.0): the entries of `__metadata__` stand in the header in a random order. With one entry, as Transformers writes
# it, files are equal; with several they aren't.
source "$(dirname "$0")/_common"
environment env safetensors==0.8.0 numpy==2.4.6
cat >"$work/save.py" <<'PYTHON'
import sys
import numpy
from safetensors.numpy import save

metadata = {f"key{number}": "value" for number in range(int(sys.argv[1]))}
files = {save({"weight": numpy.zeros(4, numpy.float32)}, metadata=metadata) for _ in range(8)}
print(sys.argv[1], "entries:", "one file" if len(files) == 1 else "several files", "of", ", ".join(sorted({str(len(file)) for file in files})), "bytes")
PYTHON
expect "$(for entries in 1 8; do "$work/env/bin/python" "$work/save.py" $entries; done)" "1 entries: one file of 120 bytes
8 entries: several files of 224 bytes"
