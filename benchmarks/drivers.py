"""The drivers of many jobs that train, in a process of their own: each reports its progress in its turn, at a pace that nothing slows.

    python -m benchmarks.drivers ADDRESS PORT KEYS JOBS PER_SECOND

A job that its standard input names has no driver any more. Writes until that input ends; then prints, as JSON, how many reports it wrote
in how many seconds, and how long a write took.
"""

import itertools
import json
import random
import statistics
import sys
import threading
import time
from pathlib import Path

from benchmarks.api_server import ApiServer

from benchmarks import jobs


def main() -> None:
    address, port, keys, count, pace = sys.argv[1:]
    api, names = ApiServer(address, int(port), Path(keys)), jobs.names(int(count))
    random.Random(0).shuffle(names)
    over, gone = threading.Event(), set[str]()

    def listen() -> None:
        for line in iter(sys.stdin.readline, ""):
            gone.add(line.strip())
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    begun, took = time.monotonic(), []

    def report(number: int) -> None:
        over.wait(max(0.0, begun + number / float(pace) - time.monotonic()))
        name = names[number % len(names)]
        if not over.is_set() and name not in gone:
            sent = time.monotonic()
            jobs.report(api, name, number + 1)
            took.append(time.monotonic() - sent)

    api.each(itertools.takewhile(lambda _: not over.is_set(), itertools.count()), report)
    seconds = time.monotonic() - begun
    print(json.dumps({"reports": len(took), "seconds": round(seconds, 2), "write_ms": round(1000 * statistics.median(took), 1)}))


if __name__ == "__main__":
    main()
