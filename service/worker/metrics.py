"""What a worker tells Prometheus: read from its parts when asked, and one observation an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vlibrary.domain.wire import Generation
from vlibrary.engine.decoder import BatchDecoder
from vlibrary.engine.inflight import InFlightEngine
from vlibrary.engine.request import Engine
from vlibrary.steering.slot_table import SlotTable
from vlibrary.worker.residency import Residency

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Answers:
    """Histograms and counts over the answers of one worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def seconds(name: str, what: str) -> Histogram:
            return Histogram(f"vlibrary_worker_{name}_seconds", what, registry=registry, buckets=_SECONDS)

        self._queue = seconds("queue", "From the request to its prefill")
        self._first = seconds("first_token", "From the request to its first token")
        self._token = seconds("token", "Each token after the first one")
        self.load = seconds("vector_load", "A vector from the object store to host memory")
        self._prompt = Counter("vlibrary_worker_prompt_tokens", "Tokens read, images included", registry=registry)
        self._drawn = Counter("vlibrary_worker_answer_tokens", "Tokens written", registry=registry)
        self._ended = Counter("vlibrary_worker_requests", "Requests by end", ["end", "steered"], registry=registry)

    def answered(self, generation: Generation, *, steered: bool) -> None:
        """An answer that came to its end."""
        self.ended(generation.finish_reason, steered=steered)
        self._prompt.inc(generation.prompt_tokens)
        self._drawn.inc(generation.completion_tokens)
        times = generation.timings
        first = times.get("queue_s", 0.0) + times["prefill_s"]
        self._queue.observe(times.get("queue_s", 0.0))
        self._first.observe(first)
        if generation.completion_tokens > 1:
            self._token.observe((times["total_s"] - first) / (generation.completion_tokens - 1))

    def ended(self, end: str, *, steered: bool) -> None:
        """end: a finish reason, an error's code, "failed" for an unexpected one, or "cancelled"."""
        self._ended.labels(end, str(steered).lower()).inc()


class Parts(Collector):
    """The state of a worker's parts at the moment when Prometheus asks."""

    def __init__(self, engine: Engine, table: SlotTable, residency: Residency) -> None:
        self._engine = engine
        self._table = table
        self._residency = residency

    def collect(self) -> Iterator[Metric]:
        yield from _gauges(self._gauges())
        yield from _counters(self._counters())

    def _gauges(self) -> dict[str, tuple[str, float]]:
        load = self._engine.load()
        found: dict[str, tuple[str, float]] = {
            "running": ("Requests that decode now", load.running),
            "waiting": ("Requests in the queue", load.waiting),
            "vectors_in_slots": ("Vectors on the device", self._table.resident),
            "vectors_pinned": ("Slots held by running requests", self._table.pinned_slots),
            "vectors_on_host": ("Vectors in host memory, at their strengths", len(self._residency.combined)),
        }
        decoder = self._engine.decoder if isinstance(self._engine, InFlightEngine) else None
        if isinstance(decoder, BatchDecoder):
            found["cache_columns"] = ("Columns of the KV cache in use, rows × width", decoder.columns)
            found["image_feature_bytes"] = ("Image features kept", decoder.features.bytes)
        return found

    def _counters(self) -> dict[str, tuple[str, Mapping[str, int]]]:
        slots, host = self._table.counts, self._residency.combined
        found: dict[str, tuple[str, Mapping[str, int]]] = {
            "slots": (
                "Vectors wanted in a slot, by outcome",
                {"hit": slots.hits, "miss": slots.misses, "evicted": slots.evictions},
            ),
            "host_vectors": (
                "Vectors wanted in host memory at a strength, by outcome",
                {"hit": host.hits, "miss": host.misses, "evicted": host.evictions},
            ),
        }
        decoder = self._engine.decoder if isinstance(self._engine, InFlightEngine) else None
        if isinstance(decoder, BatchDecoder):
            features = decoder.features
            found["image_features"] = (
                "Images wanted as features, by outcome",
                {"hit": features.hits, "miss": features.misses},
            )
        return found


def _gauges(found: Mapping[str, tuple[str, float]]) -> Iterator[Metric]:
    for name, (what, value) in found.items():
        yield GaugeMetricFamily(f"vlibrary_worker_{name}", what, value=value)


def _counters(found: Mapping[str, tuple[str, Mapping[str, int]]]) -> Iterator[Metric]:
    for name, (what, outcomes) in found.items():
        family = CounterMetricFamily(f"vlibrary_worker_{name}", what, labels=["outcome"])
        for outcome, count in outcomes.items():
            family.add_metric([outcome], count)
        yield family
