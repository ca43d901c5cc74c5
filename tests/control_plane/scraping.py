"""Reading what a program on this machine tells Prometheus, without Prometheus: what its answers are compared with."""

import re
import urllib.error
import urllib.request
from collections import defaultdict
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from tests.control_plane.operators import Operator
from tests.control_plane.played import eventually


def port_of(operator: Operator) -> int:
    """Where its probes and metrics are."""
    return int(eventually("a port", lambda: re.search(r'"port": (\d+)', operator.lines()))[1])


def asked(port: int, path: str) -> str:
    """The body of an answer; an empty one when nobody answers yet."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return str(error.read().decode()) if path.startswith("/api/") else ""
    except urllib.error.URLError:
        return ""


def scraped(port: int) -> "Samples":
    """`/metrics`, now."""
    return Samples(asked(port, "/metrics"))


class Samples:
    """All samples of a `/metrics`."""

    def __init__(self, text: str) -> None:
        families = text_string_to_metric_families(text)
        self._samples = [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series of that name that have these labels."""
        return sum(value for _, value in self._of(name, labels))

    def by(self, name: str, *keys: str, **labels: str) -> dict[Any, float]:
        """The sums by the values of a label, or of several."""
        found: dict[Any, float] = defaultdict(float)
        for all_labels, value in self._of(name, labels):
            key = tuple(all_labels[each] for each in keys)
            found[key if len(keys) > 1 else key[0]] += value
        return dict(found)

    def _of(self, name: str, labels: dict[str, str]) -> list[tuple[dict[str, str], float]]:
        return [(found, value) for known, found, value in self._samples if known == name and labels.items() <= found.items()]


def quantile(share: float, before: Samples, after: Samples, histogram: str) -> float:
    """Of what a histogram counted in between: linear inside of the bucket where that share is reached, as its own definition has it."""
    counts = {
        float(edge): count - before.by(f"{histogram}_bucket", "le").get(edge, 0.0)
        for edge, count in after.by(f"{histogram}_bucket", "le").items()
    }
    wanted, lower, below = share * counts[float("inf")], 0.0, 0.0
    for edge, count in sorted(counts.items()):
        if count >= wanted:
            return lower if edge == float("inf") else lower + (edge - lower) * (wanted - below) / (count - below)
        lower, below = edge, count
    raise AssertionError("a histogram without a last bucket")
