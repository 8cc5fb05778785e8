"""What the loader counts, and the HTTP endpoint that tells it: /live, /ready and Prometheus' /metrics."""

import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any
from wsgiref.simple_server import make_server

from prometheus_client import CollectorRegistry, GCCollector, Histogram, PlatformCollector, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer, _SilentHandler
from prometheus_client.registry import Collector

from loader.errors import wrong_setting
from loader.sqs import Depth

LIVE_SECONDS = 30
READY_SECONDS = 60
REQUEST_SECONDS = 10  # that a client may take for its request
BATCH_BUCKETS = (1, 10, 100, 500, 1_000, 2_000, 5_000, 10_000)
COMMIT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


def _metric(kind: type[Metric], text: str) -> int:
    return field(default=0, metadata={"kind": kind, "text": text})


def _counter(text: str) -> int:
    return _metric(CounterMetricFamily, text)


@dataclass(slots=True, eq=False)
class Tally(Collector):
    """Everything counted since the start; Prometheus reads it when somebody asks, so that counting costs an addition."""

    messages_received: int = _counter("Messages received from the queue.")
    messages_redelivered: int = _counter("Messages received that SQS had delivered before.")
    messages_damaged: int = _counter("Messages left on the queue, for their body did not match its digest, or they had no id or time.")
    messages_landed: int = _counter("Messages committed to staging for the first time.")
    messages_duplicate: int = _counter("Messages that had landed before.")
    messages_deleted: int = _counter("Messages deleted from the queue.")
    messages_released: int = _counter("Messages given back to the queue, when stopping or while PostgreSQL was away.")
    message_delete_failures: int = _counter("Attempts to delete a message that failed.")
    message_handles_expired: int = _counter("Messages not deleted because their receipt handle had expired.")
    sqs_errors: int = _counter("Calls to SQS that failed.")
    database_errors: int = _counter("Attempts to land a batch that failed.")
    messages_in_flight: int = _metric(GaugeMetricFamily, "Messages received and not deleted yet.")
    durability_unsafe: int = _metric(GaugeMetricFamily, "1 where PostgreSQL runs with fsync or full_page_writes off.")
    depth: Depth | None = None
    oldest_sent_ms: int | None = None
    received_at: float = float("-inf")  # these three by time.monotonic()
    committed_at: float = float("-inf")
    beat_at: float = field(default_factory=time.monotonic)
    batch_messages: Histogram = field(
        default_factory=lambda: Histogram("loader_batch_messages", "Messages in a batch.", buckets=BATCH_BUCKETS, registry=None)
    )
    commit_seconds: Histogram = field(
        default_factory=lambda: Histogram(
            "loader_commit_seconds", "Time from a batch's first attempt to its commit.", buckets=COMMIT_BUCKETS, registry=None
        )
    )

    def batch(self, landed: int, duplicates: int, seconds: float, oldest_sent_ms: int | None) -> None:
        """A batch was committed."""
        self.messages_landed += landed
        self.messages_duplicate += duplicates
        self.oldest_sent_ms = oldest_sent_ms
        self.batch_messages.observe(landed + duplicates)
        self.commit_seconds.observe(seconds)

    def is_live(self) -> bool:
        """Whether the event loop turned lately."""
        return time.monotonic() - self.beat_at < LIVE_SECONDS

    def is_ready(self) -> bool:
        """Whether both a receive and a commit succeeded within the last minute, for whatever reason one did not."""
        return time.monotonic() - min(self.received_at, self.committed_at) < READY_SECONDS

    def collect(self) -> Iterable[Metric]:
        """For Prometheus: one family for each number."""
        yield from self.batch_messages.collect()
        yield from self.commit_seconds.collect()
        for each in fields(self):
            if kind := each.metadata.get("kind"):
                yield kind(f"loader_{each.name}", each.metadata["text"], value=getattr(self, each.name))
        is_idle = self.oldest_sent_ms is None or not self.messages_in_flight
        age = 0.0 if is_idle else max(0.0, time.time() - (self.oldest_sent_ms or 0) / 1000)
        yield GaugeMetricFamily("loader_oldest_message_age_seconds", "Age of the oldest message of the last batch; 0 when idle.", value=age)
        if self.depth:
            depth = GaugeMetricFamily("loader_queue_messages", "About how many messages the queue has.", labels=["state"])
            for state in ("visible", "in_flight", "delayed"):
                depth.add_metric([state], getattr(self.depth, state))
            yield depth


class _Handler(_SilentHandler):
    timeout = REQUEST_SECONDS


def serve(host: str, port: int, tally: Tally) -> Callable[[], None]:
    """Answer HTTP on *host*:*port*, each client in a thread; return what ends it.

    Raises:
        LoaderError: the port is taken, or not ours to take.
    """
    registry = CollectorRegistry()
    registry.register(tally)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    metrics, checks = make_wsgi_app(registry), {"/live": tally.is_live, "/ready": tally.is_ready}

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start_response)
        status = ("200 OK" if checks[path]() else "503 Service Unavailable") if path in checks else "404 Not Found"
        start_response(status, [("Content-Type", "text/plain")])
        return [f"{status}\n".encode()]

    class Server(ThreadingWSGIServer):
        """Of the address family of *host*."""

    try:
        Server.address_family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = make_server(host, port, application, Server, _Handler)
    except OSError as error:
        raise wrong_setting(f"LOADER_HTTP_PORT: cannot listen on {host}:{port} ({error.strerror}); choose another") from None
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()

    def close() -> None:
        server.shutdown()
        server.server_close()

    return close
