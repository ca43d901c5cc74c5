"""How fast a part is written, by our store and by boto3 alone."""

import io
import time
from typing import Any

from benchmarks.checkpoints_places import BUCKET, open_store, s3_client, transfer_plan, used

_TENSORS = 64


def throughput(settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one part written by our store, and of as many bytes by boto3 from the memory, in turns."""
    import numpy as np

    from finetune_trainer.checkpoints.columns import COLUMNS, Piece

    store = open_store(settings).claimed()
    values = np.random.default_rng(0).random(settings["bytes"] // 4, dtype=np.float32)
    tensors = np.split(values, _TENSORS)
    memory = io.BytesIO(values.data)
    client = s3_client(settings["endpoint"], settings["access_key"], settings["secret_key"])

    def ours(turn: int) -> None:
        pieces = (
            Piece(kind="master", name=f"{number}", shape=one.shape, start=0, stop=one.size, data=one) for number, one in enumerate(tensors)
        )
        store.write_part(turn + 1, 0, pieces, columns=COLUMNS)

    def plain(turn: int) -> None:
        memory.seek(0)
        client.upload_fileobj(memory, BUCKET, f"{settings['prefix']}-plain/{turn}", Config=transfer_plan())

    spent: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "processor_seconds": []} for name in ("ours", "plain")}
    for turn in range(settings["repeats"]):
        for name, write in (("ours", ours), ("plain", plain)) if turn % 2 == 0 else (("plain", plain), ("ours", ours)):
            began, spent_before = time.monotonic(), used()
            write(turn)
            spent[name]["seconds"].append(time.monotonic() - began)
            spent[name]["processor_seconds"].append(used() - spent_before)
    return {**spent, "bytes": settings["bytes"]}
