"""Figures of the server in Prometheus's text format, version 0.0.4."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping

Labels = tuple[tuple[str, str], ...]

# Upper ends of the buckets, in seconds
SECONDS = 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0
PREFIX = "llm_"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _series(name: str, labels: Labels, value: float, **more: str) -> str:
    pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in (*labels, *more.items()))
    return f"{PREFIX}{name}{{{pairs}}} {value:.17g}" if pairs else f"{PREFIX}{name} {value:.17g}"


class Metrics:
    """Counters, histograms of seconds, and gauges that are asked when they are read.

    The event loop's thread alone writes to them.
    """

    def __init__(self) -> None:
        self.help: dict[str, tuple[str, str]] = {}  # name -> type and explanation
        self.counters: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self.histograms: dict[str, dict[Labels, list[float]]] = defaultdict(dict)
        self.gauges: dict[str, Callable[[], Mapping[Labels, float]]] = {}

    def declare(self, name: str, kind: str, explanation: str) -> None:
        """Declares a counter or a histogram."""
        self.help[name] = (kind, explanation)

    def gauge(self, name: str, explanation: str, read: Callable[[], Mapping[Labels, float]]) -> None:
        """Declares a gauge; `read` returns its value for each set of labels."""
        self.help[name] = ("gauge", explanation)
        self.gauges[name] = read

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Adds to a counter."""
        self.counters[name][tuple(labels.items())] += amount

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Adds an observation to a histogram: a count for each bucket, the sum at the end."""
        found = self.histograms[name].setdefault(tuple(labels.items()), [0.0] * (len(SECONDS) + 2))
        found[bisect_left(SECONDS, seconds)] += 1
        found[-1] += seconds

    def text(self) -> str:
        """Returns all figures."""
        lines = []
        for name, (kind, explanation) in self.help.items():
            lines += [f"# HELP {PREFIX}{name} {explanation}", f"# TYPE {PREFIX}{name} {kind}"]
            values = self.gauges[name]() if kind == "gauge" else self.counters[name]
            if kind != "histogram":
                lines += [_series(name, labels, value) for labels, value in values.items()]
                continue
            for labels, (*counts, total) in self.histograms[name].items():
                below = 0.0
                for end, count in zip((*SECONDS, float("inf")), counts, strict=True):
                    below += count
                    lines.append(_series(f"{name}_bucket", labels, below, le="+Inf" if end > 1e9 else f"{end:g}"))
                lines += [_series(f"{name}_sum", labels, total), _series(f"{name}_count", labels, below)]
        return "\n".join(lines) + "\n"
