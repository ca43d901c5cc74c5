"""`finetune-operator`, also `python -m finetune_operator`: runs until SIGTERM or SIGINT, or until its lease is lost (exit code 1)."""

import os
import signal
import sys
import threading
from types import FrameType

import structlog
from kubernetes.config import ConfigException
from prometheus_client import CollectorRegistry, disable_created_metrics

from finetune_operator import kinds, logs
from finetune_operator.process import Process
from finetune_operator.runtime.api import Api
from finetune_operator.runtime.clock import SystemClock
from finetune_operator.runtime.metrics import RuntimeMetrics
from finetune_operator.settings import settings

log = structlog.get_logger()


def main() -> None:
    """Read the settings, connect, work."""
    told = settings(sys.argv[1:], os.environ)
    logs.configure(told)
    stop = stop_on_signals()
    # When a series began is of no use here, and doubles what is scraped.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    metrics, clock = RuntimeMetrics(registry), SystemClock()
    # Each watch holds a connection, each worker needs one, and so do the lease and a spare.
    watches = len(kinds.CHILDREN) + 1
    pool = watches * len(told.namespaces or (None,)) + told.concurrent_reconciles + 4
    try:
        api = Api.connect(told.kubeconfig, pool_size=pool, user_agent="finetune-operator", observe=metrics.request, clock=clock)
    except ConfigException as error:
        sys.exit(f"finetune-operator: the API server can't be found: {error}; run in a pod, or give --kubeconfig")
    kept = Process(told, api, clock, registry, metrics).run(stop)
    api.close()
    sys.exit(0 if kept else 1)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop


if __name__ == "__main__":
    main()
