"""A playground whose models follow a script, served from a process of its own: its address comes on standard output.

`python -m tests.assistant.playground.scripted_page VOTES`: a question that begins with "Wait" is answered when the file VOTES.go is there.
"""

import sys
import threading
import time
from pathlib import Path

from tests.assistant.playground.scripted import scripted

from finetune_assistant.playground.layout import Offer
from finetune_assistant.playground.page import blocks
from finetune_assistant.playground.pictures import why_not_run
from finetune_assistant.playground.serving import served
from finetune_assistant.playground.talks import Talks
from finetune_assistant.playground.votes import VoteFile
from finetune_assistant.serving.ports import bound


def main(votes: Path) -> None:
    """Serve until standard input ends."""
    go = threading.Event()
    talks = Talks([scripted("tuned", go=go), scripted("base", go=go)], seed=1)
    offer = Offer(title="Playground: tuned", votes=VoteFile(path=votes, names=("tuned", "base")), no_running=why_not_run())
    with served(blocks(talks, offer), bound("127.0.0.1", 0)) as at:
        print(at.url, flush=True)
        threading.Thread(target=watch, args=(Path(f"{votes}.go"), go), daemon=True).start()
        sys.stdin.read()
    talks.close()


def watch(path: Path, go: threading.Event) -> None:
    """Set `go` for as long as there is a file."""
    while True:
        (go.set if path.exists() else go.clear)()
        time.sleep(0.05)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
