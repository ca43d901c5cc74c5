#!/usr/bin/env bash
# A download with a time limit of one second ends after more than twenty when the Hub doesn't answer.
#
# Guess: etag_timeout=1 is how long a file's metadata is waited for: with a server that refuses connections, an error at once, as model_info
# gives it.
# Seen (huggingface_hub 2.4.0): the limit holds for one try, and there are more, with growing waits between them. model_info tries once.
source "$(dirname "$0")/_common"
environment env huggingface_hub==2.4.0
expect "$(HF_HOME="$work/cache" HF_ENDPOINT=http://127.0.0.1:9 "$work/env/bin/python" 2>/dev/null <<'PYTHON'
import time
from huggingface_hub import HfApi, hf_hub_download

def seconds(act):
    began = time.monotonic()
    try:
        act()
    except Exception:
        pass
    return time.monotonic() - began

print("model_info below 3 s:", seconds(lambda: HfApi().model_info("org/name", timeout=1)) < 3)
print("hf_hub_download above 15 s:", seconds(lambda: hf_hub_download("org/name", "config.json", etag_timeout=1)) > 15)
PYTHON
)" "model_info below 3 s: True
hf_hub_download above 15 s: True"
