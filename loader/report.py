"""What the loader tells: a line on a terminal, JSON lines elsewhere, and over HTTP /live, /ready and Prometheus' /metrics."""

import asyncio
import contextlib
import datetime as dt
import json
import sys
import threading
import time
from collections.abc import Callable, Sized
from functools import partial
from typing import Any

import click
import prometheus_client as prometheus

from loader.errors import wrong_setting
from loader.sqs import Depth

LIVE_SECONDS, READY_SECONDS, REQUEST_SECONDS = 4, 60, 10  # a kubelet waits for 5; a client may take so long for its request
BATCH_BUCKETS = (1, 10, 100, 500, 1_000, 2_000, 5_000, 10_000)
COMMIT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
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
    """Counts, and tells of batches, troubles and the end of a run, without personal values; *held* are the messages that are held."""

    def __init__(self) -> None:
        """Count from zero."""
        registry = self.registry = prometheus.CollectorRegistry()
        self._counters = {name: prometheus.Counter(f"loader_{name}", text, registry=registry) for name, text in COUNTERS.items()}
        gauge, histogram = partial(prometheus.Gauge, registry=registry), partial(prometheus.Histogram, registry=registry)
        self.unsafe = gauge("loader_durability_unsafe", "1 where PostgreSQL runs with fsync or full_page_writes off.")
        self._depths = gauge("loader_queue_messages", "About how many messages the queue has.", ["state"])
        gauge("loader_messages_in_flight", "Messages received and not deleted yet.").set_function(lambda: len(self.held))
        age = gauge("loader_oldest_message_age_seconds", "Age of the oldest message of the last batch; 0 when idle.")
        age.set_function(lambda: max(0.0, time.time() - self._oldest_ms / 1000) if self.held else 0.0)
        self._batches = histogram("loader_batch_messages", "Messages in a batch.", buckets=BATCH_BUCKETS)
        self._commits = histogram("loader_commit_seconds", "Time from a batch's first attempt to its commit.", buckets=COMMIT_BUCKETS)
        self.held: Sized = ()
        self._left, self._landed, self._oldest_ms, self._started = "?", 0, 0, time.monotonic()
        self.received_at = self.committed_at = float("-inf")  # by time.monotonic()

    def add(self, **counts: int) -> None:
        """Add to the counters of these names."""
        for name, count in counts.items():
            self._counters[name].inc(count)

    def count(self, name: str) -> int:
        """What the counter *name* has reached."""
        return int(self.registry.get_sample_value(f"loader_{name}_total") or 0)

    def depth(self, depth: Depth) -> None:
        """SQS counted its messages."""
        self._left = f"{depth.visible + depth.delayed:,}"
        for state, messages in depth._asdict().items():
            self._depths.labels(state).set(messages)

    def batch(self, landed: int, duplicates: int, seconds: float, oldest_ms: int) -> None:
        """A batch was committed, in so many *seconds* from its first attempt; its oldest message was sent at *oldest_ms*."""
        self.add(messages_landed=landed, messages_duplicate=duplicates)
        self._batches.observe(landed + duplicates)
        self._commits.observe(seconds)
        self._oldest_ms = oldest_ms
        self._landed += landed
        line = f"{self._landed:,} landed, {self._landed / (time.monotonic() - self._started):,.0f}/s, {self._left} left on the queue"
        counts: dict[str, Any] = {
            "landed": landed,
            "duplicates": duplicates,
            "commit_seconds": round(seconds, 4),
            "in_flight": len(self.held),
        }
        self._tell("batch landed", line, is_progress=True, **counts)

    def trouble(self, event: str, reason: str) -> None:
        """Something failed; *reason* is one line."""
        self._tell(event, f"{event}: {reason}", "warning", reason=reason)

    def summary(self) -> None:
        """The run is over."""
        counts: dict[str, Any] = {name.removeprefix("messages_"): self.count(name) for name in COUNTERS}
        seconds = time.monotonic() - self._started
        line = "{landed:,} landed, {duplicate:,} had landed before, {deleted:,} deleted from the queue in {seconds:.1f} s"
        others = ("released", "damaged", "message_delete_failures", "message_handles_expired")
        said = [line.format(seconds=seconds, **counts), *(f"{counts[name]:,} {name.replace('_', ' ')}" for name in others if counts[name])]
        self._tell("finished", "; ".join(said), seconds=round(seconds, 3), **counts)

    def is_ready(self) -> bool:
        """Whether both a receive and a commit succeeded within the last minute, for whatever reason one did not."""
        return time.monotonic() - min(self.received_at, self.committed_at) < READY_SECONDS

    def _tell(self, event: str, line: str, level: str = "info", **fields: object) -> None:
        said = {"event": event, "level": level, "timestamp": dt.datetime.now(dt.UTC).isoformat(), **fields}
        is_terminal = sys.stdout.isatty()
        with contextlib.suppress(OSError):  # whoever reads it may be gone, or the disk full
            click.echo(f"\r\x1b[K{line}" if is_terminal else json.dumps(said), nl=not is_terminal or event != "batch landed")


def serve(host: str, port: int, report: Report) -> None:
    """Answer HTTP on *host*:*port*, each client in a thread, or raise a LoaderError if the port is taken."""
    loop = asyncio.get_running_loop()
    for collector in (prometheus.ProcessCollector, prometheus.PlatformCollector, prometheus.GCCollector):
        collector(registry=report.registry)

    def is_live() -> bool:
        """Whether the event loop turns."""
        loop.call_soon_threadsafe((turned := threading.Event()).set)
        return turned.wait(LIVE_SECONDS)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        path, checks = environ["PATH_INFO"], {"/live": is_live, "/ready": report.is_ready}
        if path == "/metrics":
            return metrics(environ, start_response)
        status = ("200 OK" if checks[path]() else "503 Service Unavailable") if path in checks else "404 Not Found"
        start_response(status, [("Content-Type", "text/plain")])
        return [f"{status}\n".encode()]

    try:
        server: Any = prometheus.start_http_server(port, host, report.registry)[0]
    except OSError as error:
        raise wrong_setting(f"LOADER_HTTP_PORT: cannot listen on {host}:{port} ({error.strerror}); choose another") from None
    metrics = server.get_app()
    server.RequestHandlerClass.timeout = REQUEST_SECONDS
    server.set_app(application)
