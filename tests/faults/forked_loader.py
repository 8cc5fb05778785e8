"""The loader, or the careless one, with its imports done once and its clock set wrong if wanted."""

import asyncio
import contextlib
import datetime as dt
import sys

import time_machine

from benchmarks import stub
from loader import __main__ as command_line
from tests.faults import careless


def load(command: str, *, is_careless: bool, clock_hours: float) -> None:
    """`python -m loader COMMAND`, on a machine whose clock is *clock_hours* fast, or slow where that is negative."""
    sys.argv = ["loader", command]
    now = dt.datetime.now(dt.UTC) + dt.timedelta(hours=clock_hours)
    with time_machine.travel(now, tick=True) if clock_hours else contextlib.nullcontext():
        (careless if is_careless else command_line).main()


def serve_stub() -> None:
    """`python -m benchmarks.stub`."""
    asyncio.run(stub.serve())
