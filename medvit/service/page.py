"""Status page of the service."""

from __future__ import annotations

import time
from typing import Any

from medvit.document import Bullets, Callout, Document, Section, Table
from medvit.document.html import rendered
from medvit.service.service import Service
from medvit.summary import counted, duration

SHORT = 12
"""Shown characters of the hash of a model."""


def status_page(service: Service) -> str:
    """Return the status page as HTML: faults, queue, models in force, what waits for a person, last studies."""
    overview, faults, dead = service.overview, service.faults(), service.overview.dead_letters()
    sections = [
        Section("Queue", [_queue(service)]),
        Section("Waiting for a person", [_dead(dead)]),
        Section("Last studies", [_studies(service)]),
        Section("Models in force", [_models(service)]),
    ]
    if faults:
        sections.insert(0, Section("Faults", [Callout(faults, "failed")]))
    waiting = counted(overview.queue_length, "prediction"), counted(len(dead), "case")
    opening = f"{waiting[0]} in the queue, {waiting[1]} waiting for a person."
    return rendered(Document("medvit serve", opening, sections, tone="warning" if faults or dead else "plain"))


def _queue(service: Service) -> Table:
    overview = service.overview
    jobs, studies = overview.counts("jobs", "status"), overview.counts("studies", "state")
    sending = f"to the archive, {overview.counts('jobs', 'delivery').get('waiting', 0)} waiting"
    lines = [
        ("studies being received", studies.get("receiving", 0)),
        ("predictions waiting", jobs.get("waiting", 0)),
        ("prediction running", service.loop.running or "none"),
        ("oldest waiting study", duration(overview.oldest_s) if overview.queue_length else "none"),
        ("done, skipped, failed", ", ".join(str(jobs.get(one, 0)) for one in ("done", "skipped", "failed"))),
        ("results are sent", sending if service.sends else "no: send is unset (shadow mode)"),
        ("free space", f"{service.store.free_bytes / 2**30:.1f} GiB"),
        ("audit trail", "intact" if service.audit.is_intact else "changed by someone: a line is missing or differs"),
    ]
    return Table(["", ""], lines)


def _dead(dead: list[dict[str, Any]]) -> Table | Bullets:
    if not dead:
        return Bullets(["nothing"])
    lines = [(one["study"], one["model"], one["what"], one["code"], one["reason"], _at(one["since"])) for one in dead]
    return Table(["study", "model", "what", "code", "reason", "since"], lines, is_text=True)


def _studies(service: Service) -> Table:
    lines = []
    for one in service.overview.studies(service.options.web.shown):
        jobs = [job for job in service.overview.jobs(one["study"]) if not job["superseded"]]
        texts = [f"{job['model']}: {job['status']}" for job in jobs]
        reasons = [job["reason"] for job in jobs if job["reason"]]
        sent = ", ".join(job["delivery"] for job in jobs if job["delivery"])
        reason = one["reason"] or "; ".join(dict.fromkeys(reasons))
        lines.append(
            (one["study"], one["state"], one["instances"], ", ".join(texts), sent, _at(one["changed"]), reason)
        )
    return Table(["study", "state", "instances", "predictions", "delivery", "changed", "reason"], lines, is_text=True)


def _models(service: Service) -> Table:
    lines = [(one.name, one.version, one.sha256[:SHORT]) for one in service.pins.now.pinned]
    return Table(["model", "registered version", "hash"], lines)


def _at(when: float | None) -> str:
    return "" if when is None else time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(when))
