#!/usr/bin/env bash
# A model saved by Transformers 5 has other rotary positions in Transformers 4, without a word.
#
# Guess: a config.json that an older version can't understand is refused, or warned about.
# Seen (transformers 5.23.0 writes, 4.57.6 reads): theta 100000 is in `rope_parameters` only; 4.57.6 knows the class, keeps that field as
# an unknown one, and takes its default for `rope_theta`: 10000. The model answers, worse.
source "$(dirname "$0")/_common"
environment new transformers==5.23.0
environment old transformers==4.57.6
"$work/new/bin/python" - "$work/model" 2>/dev/null <<'PYTHON'
import sys
from transformers import LlamaConfig
LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 100000.0}).save_pretrained(sys.argv[1])
PYTHON
expect "$("$work/old/bin/python" -W error::UserWarning - "$work/model" 2>"$work/stderr" <<'PYTHON'
import json, sys
from transformers import AutoConfig
written = json.load(open(sys.argv[1] + "/config.json"))
read = AutoConfig.from_pretrained(sys.argv[1])
print("written:", written["rope_parameters"]["rope_theta"], "at the top level:", written.get("rope_theta"))
print("read:", type(read).__name__, read.rope_theta)
PYTHON
grep -ci rope "$work/stderr" || true)" "written: 100000.0 at the top level: None
read: LlamaConfig 10000.0
0"
