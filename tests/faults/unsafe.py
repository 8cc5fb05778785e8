"""The controls: the loader without one of the things that make a commit as durable as the delete that follows it."""

import contextlib
import sys
from collections.abc import Iterator
from unittest import mock

from loader import __main__ as command_line
from loader import landing

PIN = "set local synchronous_commit = {durability};"
assert PIN in landing.LAND
# The end of a transaction truncates the temporary table, which takes a lock that is logged. That would be enough to wait for a standby,
# but nothing promises it.
TRUNCATION = "on commit delete rows"
assert TRUNCATION in landing.INCOMING


@contextlib.contextmanager
def without(what: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if what == "synchronous_commit":
            stack.enter_context(mock.patch.object(landing, "LAND", landing.LAND.replace(PIN, "")))
            session = landing.SESSION.replace("set_config('synchronous_commit', 'off', false)", "null")
            stack.enter_context(mock.patch.object(landing, "SESSION", session))
        if "the truncation" in what:
            stack.enter_context(mock.patch.object(landing, "INCOMING", landing.INCOMING.replace(TRUNCATION, "")))
            # nor may the work list's rows, which are written for duplicates too, be what makes them wait
            lands, listed = landing.LAND.split("insert into staging.unjudged")
            stack.enter_context(mock.patch.object(landing, "LAND", f"{lands} {listed.partition(';')[2]} delete from pg_temp.incoming"))
        if "the wait" in what:
            stack.enter_context(mock.patch.object(landing, "WAIT_FOR_STANDBY", "select 1"))
        if what == "the warning of a commit":
            stack.enter_context(mock.patch.object(landing.Landing, "_notice"))
        yield


if __name__ == "__main__":
    with without(sys.argv.pop(1)):
        command_line.main()
