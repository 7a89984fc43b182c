"""Prometheus metrics of a worker."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vlibrary.domain.wire import Generation
from vlibrary.engine.decoder import BatchDecoder
from vlibrary.engine.inflight import InFlightEngine
from vlibrary.engine.request import Engine
from vlibrary.models.embedder import Embedder
from vlibrary.steering.slot_table import SlotTable
from vlibrary.worker.residency import Residency

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class AnswerMetrics:
    """Histograms and counters of a worker's answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def seconds(name: str, text: str) -> Histogram:
            return Histogram(f"vlibrary_worker_{name}_seconds", text, registry=registry, buckets=_SECONDS)

        self._queue = seconds("queue", "Time from submission to prefill")
        self._first = seconds("first_token", "Time from submission to the first token")
        self._token = seconds("token", "Time per token after the first")
        self.load = seconds("vector_load", "Time to load a vector into host memory")
        self._prompt = Counter("vlibrary_worker_prompt_tokens", "Prompt tokens, images included", registry=registry)
        self._generated = Counter("vlibrary_worker_answer_tokens", "Generated tokens", registry=registry)
        self._ended = Counter(
            "vlibrary_worker_requests", "Requests by how they ended", ["end", "steered"], registry=registry
        )

    def record_answer(self, generation: Generation, *, steered: bool) -> None:
        """Record a complete answer."""
        self.record_end(generation.finish_reason, steered=steered)
        self._prompt.inc(generation.prompt_tokens)
        self._generated.inc(generation.completion_tokens)
        times = generation.timings
        first = times.get("queue_s", 0.0) + times["prefill_s"]
        self._queue.observe(times.get("queue_s", 0.0))
        self._first.observe(first)
        if generation.completion_tokens > 1:
            self._token.observe((times["total_s"] - first) / (generation.completion_tokens - 1))

    def record_end(self, end: str, *, steered: bool) -> None:
        """Count a request. end: a finish reason, an error's code, "failed" for an unexpected one, or "cancelled"."""
        self._ended.labels(end, str(steered).lower()).inc()


class StateCollector(Collector):
    """The state of the engine, the slot table, the host cache and the embedder, read at every scrape."""

    def __init__(self, engine: Engine, table: SlotTable, residency: Residency, embedder: Embedder) -> None:
        self._engine = engine
        self._table = table
        self._residency = residency
        self._embedder = embedder

    def collect(self) -> Iterator[Metric]:
        load, slots, host = self._engine.load(), self._table.counts, self._residency.combined
        yield _gauge("running", "Requests in the running batch", load.running)
        yield _gauge("waiting", "Queued requests", load.waiting)
        yield _gauge("vectors_in_slots", "Vectors in the slot table", self._table.resident)
        yield _gauge("vectors_pinned", "Slots in use by running requests", self._table.pinned_slots)
        yield _gauge("vectors_on_host", "Vectors in host memory, counted per strength", len(host))
        yield _counter("slots", "Slot table lookups", hit=slots.hits, miss=slots.misses, evicted=slots.evictions)
        yield _counter("host_vectors", "Host memory lookups", hit=host.hits, miss=host.misses, evicted=host.evictions)
        cache, batches = self._embedder.cache, self._embedder.batches
        yield _counter("embeddings", "Embedding lookups of texts and images", hit=cache.hits, miss=cache.misses)
        yield _gauge("embedding_bytes", "Bytes of cached embeddings", cache.size)
        yield _total("embedding_batches", "Batches of embedded queries", batches.batches)
        yield _total("embedding_batch_queries", "Queries in all batches", batches.items)
        decoder = self._engine.decoder if isinstance(self._engine, InFlightEngine) else None
        if isinstance(decoder, BatchDecoder):
            features = decoder.features
            yield _gauge("cache_columns", "KV cache in use: rows × columns", decoder.columns)
            yield _gauge("image_feature_bytes", "Bytes of cached image features", features.bytes)
            yield _counter("image_features", "Image feature lookups", hit=features.hits, miss=features.misses)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"vlibrary_worker_{name}", text, value=value)


def _total(name: str, text: str, value: int) -> Metric:
    return CounterMetricFamily(f"vlibrary_worker_{name}", text, value=value)


def _counter(name: str, text: str, **outcomes: int) -> Metric:
    family = CounterMetricFamily(f"vlibrary_worker_{name}", f"{text} by outcome", labels=["outcome"])
    for outcome, count in outcomes.items():
        family.add_metric([outcome], count)
    return family
