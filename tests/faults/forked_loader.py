"""The loader, forked: on a machine whose clock is wrong, or, as a control, without something that keeps what it deletes."""

import contextlib
import datetime as dt
import re
import sys
from collections.abc import Sequence
from typing import Any
from unittest import mock

import psycopg
import time_machine

from loader import __main__ as command_line
from loader import sqs
from loader.delivery import Delivery
from loader.errors import SqsError
from loader.landing import Landing
from loader.settings import LoaderSettings
from loader.sqs import Queue

DURABILITY = {r"set_config\('synchronous_commit', current_setting[^;]*": "1", r"set_config\('synchronous_commit', 'off', false\)": "null"}
# The end of a transaction truncates the temporary table, and duplicates are written to the work list. Either has a commit wait for
# the standby, but nothing promises it.
CHANCE = {r"on commit delete rows": "", r"insert into staging\.unjudged[^;]*;(.*)": r"\1 delete from pg_temp.incoming"}
# What is left out, as patterns in the statements that the loader sends, with what is sent instead.
STATEMENTS = {
    "the durability": DURABILITY,
    "the chance": CHANCE,
    "the chance and the wait": CHANCE | {r"select pg_logical_emit_message.*": "select 1"},
    "the warning of a commit": {"'client_min_messages', 'warning'": "'client_min_messages', 'error'"},
}
ORDER = "the commit before the delete"

opened: list[Queue] = []


def load(command: str, without: str, clock_hours: float) -> None:
    """`python -m loader COMMAND`, on a machine whose clock is *clock_hours* fast, or slow where that is negative."""
    sys.argv = ["loader", command]
    with contextlib.ExitStack() as stack:
        if clock_hours:
            stack.enter_context(time_machine.travel(dt.datetime.now(dt.UTC) + dt.timedelta(hours=clock_hours), tick=True))
        if without == ORDER:
            stack.enter_context(mock.patch.object(command_line, "Landing", Careless))
            stack.enter_context(mock.patch.object(command_line, "connect", connect))
        elif without:
            leave_out(STATEMENTS[without])
        command_line.main()


class Careless(Landing):
    """Deletes a batch from the queue before it commits it."""

    async def land(self, batch: Sequence[Delivery]) -> int:
        for delivery in batch:
            with contextlib.suppress(SqsError):
                await opened[0].delete(delivery.handles)
        return await super().land(batch)


def connect(settings: LoaderSettings) -> Queue:
    opened.append(sqs.connect(settings))
    return opened[0]


def leave_out(patterns: dict[str, str]) -> None:
    """Send the loader's statements without what matches *patterns*, and print `left out` for each that was found."""
    execute = psycopg.AsyncCursor.execute

    async def rewritten(cursor: psycopg.AsyncCursor[Any], query: str | bytes, *others: Any, **more: Any) -> Any:
        text = query.decode() if isinstance(query, bytes) else query
        for pattern, instead in patterns.items():
            text, found = re.subn(pattern, instead, text, flags=re.DOTALL)
            if found:
                print("left out:", pattern, flush=True)
        return await execute(cursor, text.encode(), *others, **more)

    mock.patch.object(psycopg.AsyncCursor, "execute", rewritten).start()


if __name__ == "__main__":  # as the compose project's control
    load("follow", ORDER, 0)
