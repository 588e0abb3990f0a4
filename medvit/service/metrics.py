"""Metrics of the service in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from medvit.service.service import Service

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


def exposition(service: Service) -> bytes:
    """Return the metrics as text."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collector(service))
    return generate_latest(registry)


class _Collector:
    """Collector that reads the present values from the service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        from prometheus_client.core import CounterMetricFamily as Counter
        from prometheus_client.core import GaugeMetricFamily as Gauge

        service, overview = self._service, self._service.overview
        faults = service.faults()
        yield Gauge("medvit_serve_ready", "Whether the service works without a fault.", float(not faults))
        yield Gauge("medvit_serve_queue_length", "Predictions that wait or run.", overview.queue_length)
        yield Gauge("medvit_serve_oldest_seconds", "Age of the oldest study that waits.", overview.oldest_s)
        yield Gauge("medvit_serve_dead_letters", "Studies that wait for a person.", len(overview.dead_letters()))
        yield Gauge("medvit_serve_free_bytes", "Free space of the disk.", service.store.free_bytes)
        for table, column, name, text in (
            ("studies", "state", "studies", "Studies by state."),
            ("jobs", "status", "predictions", "Predictions by status."),
            ("jobs", "delivery", "deliveries", "Predictions by state of delivery."),
        ):
            family = Gauge(f"medvit_serve_{name}", text, labels=[column])
            for value, number in overview.counts(table, column).items():
                family.add_metric([value], number)
            yield family
        received = Counter("medvit_serve_instances", "Received instances by outcome.", labels=["outcome"])
        for outcome, number in service.store.counts.items():
            received.add_metric([outcome], number)
        yield received
        answers = Counter("medvit_serve_answers", "Answers to C-STORE by status.", labels=["status"])
        for status, number in service.receiver.statuses.items():
            answers.add_metric([f"0x{status:04X}"], number)
        yield answers
        rejected = Counter("medvit_serve_rejected_associations", "Rejected associations.", labels=["reason"])
        for reason, number in service.receiver.rejected.items():
            rejected.add_metric([reason], number)
        yield rejected
        models = Gauge("medvit_serve_model_info", "Models in force.", labels=["model", "sha256", "version"])
        for one in service.pins.now.pinned:
            models.add_metric([one.name, one.sha256, one.version], 1.0)
        yield models
