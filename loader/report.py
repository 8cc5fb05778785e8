"""What a person or a machine sees of a run: a line that is kept up to date on a terminal, JSON lines elsewhere."""

import datetime as dt
import json
import logging
import sys
import time
from typing import Any

from loader.metrics import Tally

log = logging.getLogger("loader")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat()
        fields: dict[str, Any] = getattr(record, "fields", {})
        return json.dumps({"event": record.getMessage(), "level": record.levelname.lower(), "timestamp": at, **fields})


class Report:
    """Tells of batches, troubles and the end of a run, without personal values."""

    def __init__(self) -> None:
        """To stdout."""
        self._is_terminal = sys.stdout.isatty()
        self._started = time.monotonic()
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("\r\x1b[K%(message)s") if self._is_terminal else _Json())
        # botocore and psycopg may quote requests in what they log, and asyncio whole exceptions.
        logging.basicConfig(level=logging.CRITICAL, handlers=[logging.NullHandler()])
        log.handlers, log.propagate = [handler], False
        log.setLevel(logging.INFO)

    def batch(self, tally: Tally, landed: int, duplicates: int, seconds: float) -> None:
        """A batch was committed, in so many *seconds* from its first attempt."""
        if self._is_terminal:
            done = tally.messages_landed + tally.messages_duplicate
            left = f"{tally.depth.visible + tally.depth.delayed:,}" if tally.depth else "?"
            rate = done / max(0.001, time.monotonic() - self._started)
            sys.stdout.write(f"\r\x1b[K{done:,} landed, {rate:,.0f}/s, {left} left on the queue")
            sys.stdout.flush()
        else:
            self._log(
                "batch landed", landed=landed, duplicates=duplicates, commit_seconds=round(seconds, 4), in_flight=tally.messages_in_flight
            )

    def trouble(self, event: str, reason: str) -> None:
        """Something failed; *reason* is one line."""
        log.warning(f"{event}: {reason}" if self._is_terminal else event, extra={"fields": {"reason": reason}})

    def summary(self, tally: Tally) -> None:
        """The run is over."""
        seconds, landed, duplicates, deleted = (
            time.monotonic() - self._started,
            tally.messages_landed,
            tally.messages_duplicate,
            tally.messages_deleted,
        )
        rest = {
            "given back to the queue": tally.messages_released,
            "not deleted in time, so they come again": tally.message_handles_expired,
            "failed deletes": tally.message_delete_failures,
            "damaged": tally.messages_damaged,
        }
        if self._is_terminal:
            line = f"{landed:,} landed, {duplicates:,} had landed before, {deleted:,} deleted from the queue in {seconds:.1f} s"
            log.info("; ".join([line, *(f"{count:,} {what}" for what, count in rest.items() if count)]))
        else:
            counts = {"received": tally.messages_received, "landed": landed, "duplicates": duplicates, "deleted": deleted}
            others = dict(zip(("released", "expired", "delete_failures", "damaged"), rest.values(), strict=True))
            self._log("finished", seconds=round(seconds, 3), **counts, **others)

    def _log(self, event: str, **fields: Any) -> None:
        log.info(event, extra={"fields": fields})
