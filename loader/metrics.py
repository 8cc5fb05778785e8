"""What the loader counts, and the HTTP endpoint that tells it: /live, /ready and Prometheus' /metrics."""

import threading
import time
import wsgiref.simple_server
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from loader.errors import wrong_setting
from loader.sqs import Depth

LIVE_SECONDS = 30


@dataclass(slots=True)
class Tally:
    """Everything counted since the start, in messages unless the name says otherwise."""

    received: int = 0
    landed: int = 0
    duplicates: int = 0
    deleted: int = 0
    delete_failures: int = 0
    expired: int = 0
    released: int = 0
    batches: int = 0
    sqs_errors: int = 0
    database_errors: int = 0
    in_flight: int = 0
    depth: Depth | None = None
    oldest_sent_ms: int | None = None
    database_ready: bool = False
    queue_ready: bool = False
    beat: float = field(default_factory=time.monotonic)
    batch_messages: Histogram = field(
        default_factory=lambda: Histogram(
            "loader_batch_messages", "Messages in a batch.", buckets=(1, 10, 100, 500, 1_000, 2_000, 5_000, 10_000), registry=None
        )
    )
    commit_seconds: Histogram = field(
        default_factory=lambda: Histogram(
            "loader_commit_seconds",
            "Time from a batch's first attempt to its commit.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=None,
        )
    )

    @property
    def oldest_age_seconds(self) -> float:
        """Age of the oldest message of the last batch, by our clock; 0 when nothing is in flight."""
        if self.oldest_sent_ms is None or not self.in_flight:
            return 0.0
        return max(0.0, time.time() - self.oldest_sent_ms / 1000)


class TallyCollector(Collector):
    """The tally in Prometheus' words, read when somebody asks, so that counting costs an addition."""

    def __init__(self, tally: Tally) -> None:
        """Tell of *tally*."""
        self._tally = tally

    def collect(self) -> Iterable[Metric]:
        """One family for each number."""
        tally = self._tally
        yield from tally.batch_messages.collect()
        yield from tally.commit_seconds.collect()
        for name, text, value in (
            ("loader_messages_received", "Messages received from the queue.", tally.received),
            ("loader_messages_landed", "Messages committed to staging for the first time.", tally.landed),
            ("loader_messages_duplicate", "Messages that had landed before.", tally.duplicates),
            ("loader_messages_deleted", "Messages deleted from the queue.", tally.deleted),
            ("loader_messages_released", "Messages given back to the queue when stopping.", tally.released),
            ("loader_message_delete_failures", "Attempts to delete a message that failed.", tally.delete_failures),
            ("loader_message_handles_expired", "Messages not deleted because their receipt handle had expired.", tally.expired),
            ("loader_sqs_errors", "Calls to SQS that failed.", tally.sqs_errors),
            ("loader_database_errors", "Attempts to land a batch that failed.", tally.database_errors),
        ):
            yield CounterMetricFamily(name, text, value=value)
        yield GaugeMetricFamily("loader_messages_in_flight", "Messages received and not deleted yet.", value=tally.in_flight)
        yield GaugeMetricFamily(
            "loader_oldest_message_age_seconds", "Age of the oldest message of the last batch; 0 when idle.", value=tally.oldest_age_seconds
        )
        if tally.depth:
            depth = GaugeMetricFamily("loader_queue_messages", "About how many messages the queue has.", labels=["state"])
            depth.add_metric(["visible"], tally.depth.visible)
            depth.add_metric(["in_flight"], tally.depth.in_flight)
            depth.add_metric(["delayed"], tally.depth.delayed)
            yield depth


class _QuietHandler(wsgiref.simple_server.WSGIRequestHandler):
    timeout = 10  # seconds that a client may take for its request

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name for it
        """No line for each probe."""


def serve(host: str, port: int, registry: CollectorRegistry, tally: Tally) -> Callable[[], None]:
    """Answer HTTP on *host*:*port* in a thread; return what ends it.

    /live: the event loop turned within the last 30 s. /ready: PostgreSQL and the queue answered when last asked.

    Raises:
        LoaderError: the port is taken, or not ours to take.
    """
    metrics = make_wsgi_app(registry)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        checks = {
            "/live": time.monotonic() - tally.beat < LIVE_SECONDS,
            "/ready": tally.database_ready and tally.queue_ready,
        }
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start_response)
        status = ("200 OK" if checks[path] else "503 Service Unavailable") if path in checks else "404 Not Found"
        start_response(status, [("Content-Type", "text/plain")])
        return [f"{status}\n".encode()]

    try:
        server = wsgiref.simple_server.make_server(host, port, application, handler_class=_QuietHandler)
    except OSError as error:
        raise wrong_setting(f"LOADER_HTTP_PORT: cannot listen on {host}:{port} ({error.strerror}); choose another") from None
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()

    def close() -> None:
        server.shutdown()
        server.server_close()

    return close
