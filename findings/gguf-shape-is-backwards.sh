#!/usr/bin/env bash
# A tensor that is read from a GGUF says two shapes of itself, one the other's reverse.
#
# Guess: `shape` of what GGUFReader gives is the shape of its `data`, as for every array of numpy.
# Seen (gguf 0.19.0): a tensor that was written as (2, 32) has the shape [32, 2], as llama.cpp counts dimensions, and data of (2, 32). For a
# square matrix nobody notices.
source "$(dirname "$0")/_common"
environment env gguf==0.19.0 numpy==2.4.6
expect "$("$work/env/bin/python" - "$work/model.gguf" <<'PYTHON'
import sys
import gguf, numpy

writer = gguf.GGUFWriter(sys.argv[1], "llama")
writer.add_tensor("weight", numpy.zeros((2, 32), numpy.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
(tensor,) = gguf.GGUFReader(sys.argv[1]).tensors
print(tensor.shape.tolist(), tensor.data.shape)
PYTHON
)" "[32, 2] (2, 32)"
