"""What a person or a machine sees of a run: a bar on a terminal, a JSON line per batch elsewhere."""

import logging
import sys
import time
from typing import Any, Protocol

import structlog

from loader.metrics import Tally


class Report(Protocol):
    """Somebody to tell."""

    def start(self) -> None:
        """The run begins."""

    def batch(self, tally: Tally, **fields: Any) -> None:
        """A batch was committed."""

    def trouble(self, event: str, reason: str) -> None:
        """Something failed that is being tried again; *reason* is one line without personal values."""

    def summary(self, tally: Tally, seconds: float) -> None:
        """The run is over."""


def make_report() -> Report:
    """A bar if stdout is a terminal, JSON lines if not."""
    # botocore and psycopg may quote requests in what they log, and asyncio whole exceptions.
    logging.basicConfig(level=logging.CRITICAL, format="%(message)s")
    return _BarReport() if sys.stdout.isatty() else _JsonReport()


class _JsonReport:
    def __init__(self) -> None:
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
            logger_factory=structlog.PrintLoggerFactory(sys.stdout),
            cache_logger_on_first_use=True,
        )
        self._log = structlog.get_logger()

    def start(self) -> None:
        pass  # the first batch says so

    def batch(self, tally: Tally, **fields: Any) -> None:
        self._log.info("batch landed", **fields, in_flight=tally.in_flight)
        sys.stdout.flush()

    def trouble(self, event: str, reason: str) -> None:
        self._log.warning(event, reason=reason)
        sys.stdout.flush()

    def summary(self, tally: Tally, seconds: float) -> None:
        self._log.info(
            "finished",
            seconds=round(seconds, 3),
            received=tally.received,
            landed=tally.landed,
            duplicates=tally.duplicates,
            deleted=tally.deleted,
            released=tally.released,
            delete_failures=tally.delete_failures,
            expired=tally.expired,
        )
        sys.stdout.flush()


class _BarReport:
    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415  # 3 MB that only a terminal needs

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.completed} landed"),
            BarColumn(),
            TextColumn("{task.fields[rate]:,.0f}/s, {task.fields[left]} left on the queue"),
            TimeElapsedColumn(),
            transient=True,
        )
        self._task = self._bar.add_task("load", total=None, rate=0.0, left="?")
        self._started = time.monotonic()

    def start(self) -> None:
        self._bar.start()

    def batch(self, tally: Tally, **fields: Any) -> None:
        del fields
        done = tally.landed + tally.duplicates
        left = tally.depth.visible + tally.depth.delayed if tally.depth else None
        self._bar.update(
            self._task,
            completed=done,
            total=done + left if left is not None else None,
            rate=done / max(0.001, time.monotonic() - self._started),
            left="?" if left is None else f"{left:,}",
        )

    def trouble(self, event: str, reason: str) -> None:
        self._bar.console.print(f"{event}: {reason}", markup=False, highlight=False)

    def summary(self, tally: Tally, seconds: float) -> None:
        self._bar.stop()
        rest = [
            f"{count:,} {what}"
            for count, what in (
                (tally.released, "given back to the queue"),
                (tally.expired, "not deleted in time, so they come again"),
                (tally.delete_failures, "failed deletes"),
            )
            if count
        ]
        line = (
            f"{tally.landed:,} landed, {tally.duplicates:,} had landed before, {tally.deleted:,} deleted from the queue in {seconds:.1f} s"
        )
        self._bar.console.print("; ".join([line, *rest]), markup=False, highlight=False)
