"""What the loader tells: a line on a terminal, JSON lines elsewhere, and over HTTP /live, /ready and Prometheus' /metrics."""

import asyncio
import contextlib
import datetime as dt
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click
import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from loader.errors import wrong_setting

LIVE_SECONDS, READY_SECONDS, REQUEST_SECONDS = 4, 60, 10  # a kubelet waits for 5; a client may take so long for its request
BATCH, BATCH_BUCKETS = "batch landed", (1, 10, 100, 500, 1_000, 2_000, 5_000, 10_000)
COUNTERS = {
    "messages_received": "Messages received from the queue.",
    "messages_redelivered": "Messages received that SQS had delivered before.",
    "messages_damaged": "Messages left on the queue, for their body did not match its digest, or they had no id or time.",
    "messages_landed": "Messages committed to staging for the first time.",
    "messages_duplicate": "Messages that had landed before.",
    "messages_deleted": "Messages deleted from the queue.",
    "messages_released": "Messages given back to the queue, when stopping or while PostgreSQL was away.",
    "message_delete_failures": "Attempts to delete a message that failed.",
    "message_handles_expired": "Messages not deleted because their receipt handle had expired.",
    "sqs_errors": "Calls to SQS that failed.",
    "database_errors": "Attempts to land a batch that failed.",
}


class Report:
    """Counts, and tells of batches, troubles and the end of a run, without personal values.

    `counts` has what COUNTERS names, `in_flight` tells how many messages are held, `is_durable` whether PostgreSQL keeps its commits.
    """

    def __init__(self) -> None:
        """Count from zero."""
        self.counts = Counter(dict.fromkeys(COUNTERS, 0))
        self.in_flight: Callable[[], int] = int
        self.is_durable: Callable[[], bool] = lambda: True
        self._batches = prometheus.Histogram("loader_batch_messages", "Messages in a batch.", buckets=BATCH_BUCKETS, registry=None)
        commits = "Time from a batch's first attempt to its commit."
        self._commits = prometheus.Histogram("loader_commit_seconds", commits, registry=None)
        self._oldest_ms, self._started = 0, time.monotonic()
        self.received_at = self.committed_at = float("-inf")  # by time.monotonic()

    def collect(self) -> Iterator[prometheus.Metric]:
        """Everything, for Prometheus."""
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(f"loader_{name}", text, self.counts[name])
        in_flight = self.in_flight()
        yield GaugeMetricFamily("loader_messages_in_flight", "Messages received and not deleted yet.", in_flight)
        text = "1 where PostgreSQL runs with fsync or full_page_writes off."
        yield GaugeMetricFamily("loader_durability_unsafe", text, not self.is_durable())
        age, text = time.time() - self._oldest_ms / 1000, "Age of the oldest message of the last batch; 0 when idle."
        yield GaugeMetricFamily("loader_oldest_message_age_seconds", text, max(0.0, age) if in_flight else 0.0)
        yield from (*self._batches.collect(), *self._commits.collect())

    def batch(self, landed: int, duplicates: int, seconds: float, oldest_ms: int) -> None:
        """A batch was committed, in so many *seconds* from its first attempt; its oldest message was sent at *oldest_ms*."""
        self.counts.update(messages_landed=landed, messages_duplicate=duplicates)
        self._batches.observe(landed + duplicates)
        self._commits.observe(seconds)
        self._oldest_ms, line = oldest_ms, f"{self.counts['messages_landed']:,} landed"
        fields = {"landed": landed, "duplicates": duplicates, "commit_seconds": round(seconds, 4), "in_flight": self.in_flight()}
        tell(BATCH, line, fields, is_passing=True)

    def trouble(self, event: str, reason: str) -> None:
        """Something failed; *reason* is one line."""
        warn(event, reason)

    def summary(self) -> None:
        """The run is over."""
        counts: dict[str, Any] = {name.removeprefix("messages_"): count for name, count in self.counts.items()}
        seconds = time.monotonic() - self._started
        line = "{landed:,} landed, {duplicate:,} had landed before, {deleted:,} deleted from the queue in {seconds:.1f} s"
        others = ("released", "damaged", "message_delete_failures", "message_handles_expired")
        said = [line.format(seconds=seconds, **counts), *(f"{counts[name]:,} {name.replace('_', ' ')}" for name in others if counts[name])]
        tell("finished", "; ".join(said), {"seconds": round(seconds, 3), **counts})

    def is_ready(self) -> bool:
        """Whether both a receive and a commit succeeded within the last minute, for whatever reason one did not."""
        return time.monotonic() - min(self.received_at, self.committed_at) < READY_SECONDS


def tell(event: str, line: str = "", fields: Mapping[str, Any] | None = None, *, level: str = "info", is_passing: bool = False) -> None:
    """Print *line* on a terminal, where the next one replaces it if it *is_passing*; elsewhere, *event* with its *fields* as JSON."""
    said = {"event": event, "level": level, "timestamp": dt.datetime.now(dt.UTC).isoformat(), **(fields or {})}
    is_terminal = sys.stdout.isatty()
    with contextlib.suppress(OSError):  # whoever reads it may be gone, or the disk full
        click.echo(f"\r\x1b[K{line or event}" if is_terminal else json.dumps(said), nl=not is_terminal or not is_passing)


def warn(event: str, reason: str) -> None:
    """Something failed; *reason* is one line."""
    tell(event, f"{event}: {reason}", {"reason": reason}, level="warning")


def serve(host: str, port: int, report: Report) -> None:
    """Answer HTTP on *host*:*port*, each client in a thread, or raise a LoaderError if the port is taken."""
    loop = asyncio.get_running_loop()
    prometheus.REGISTRY.register(report)

    def is_live() -> bool:
        """Whether the event loop turns."""
        loop.call_soon_threadsafe((turned := threading.Event()).set)
        return turned.wait(LIVE_SECONDS)

    checks = {"/live": is_live, "/ready": report.is_ready}

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if (path := environ["PATH_INFO"]) == "/metrics":
            return metrics(environ, start_response)
        status = "404 Not Found" if path not in checks else "200 OK" if checks[path]() else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain")])
        return [f"{status}\n".encode()]

    try:
        server: Any = prometheus.start_http_server(port, host)[0]
    except OSError as error:
        raise wrong_setting(f"LOADER_HTTP_PORT: cannot listen on {host}:{port} ({error.strerror}); choose another") from None
    metrics = server.get_app()
    server.RequestHandlerClass.timeout = REQUEST_SECONDS
    server.set_app(application)
