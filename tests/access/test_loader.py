"""What the role `loader` may, and what it is refused: it lands, and reads nothing back."""

import pytest
from psycopg import errors

from tests import canaries
from tests.access.refusals import TRIGGER, Attack, assert_refused, attacks_as
from tests.support import Database

INSERT = "insert into staging.raw_logins (message_id, sent_at, body) select 'mine', now(), 'x'"
READ = "grant select on staging.raw_logins to loader; create policy mine on staging.raw_logins to loader using (true)"
WRITE = READ + "; grant update, delete on staging.raw_logins to loader"


@pytest.mark.parametrize("day", ["12026-01-01", "0044-03-15 BC"])
def test_a_partition_that_expiry_would_not_know_is_refused(masked_for_all: Database, day: str) -> None:
    with masked_for_all.connect("loader") as loader, pytest.raises(errors.DatetimeFieldOverflow):
        loader.execute("select staging.ensure_partitions(array[%s::date])", [day])


def test_loader_lands_a_message_twice_and_it_is_there_once(masked: Database) -> None:
    # in one transaction, for now() is part of the key
    with masked.connect("loader") as connection, connection.transaction():
        assert [connection.execute(f"{INSERT} on conflict do nothing".encode()).rowcount for _ in range(2)] == [1, 0]


@pytest.mark.parametrize("sent_at", ["infinity", "-infinity", "0044-03-15 BC", "12026-01-01"])
def test_loader_cannot_list_a_time_that_would_stop_every_run(masked_for_all: Database, sent_at: str) -> None:
    """dbt makes the partitions of each month on the list, and no message was sent in a month that none can be made for."""
    with masked_for_all.connect("loader") as loader, pytest.raises(errors.CheckViolation):
        loader.execute("insert into staging.unjudged (message_id, sent_at) values ('mine', %s)", [sent_at])


def test_loader_makes_the_partition_of_a_day(masked: Database) -> None:
    with masked.connect("loader") as connection:
        connection.execute("select staging.ensure_partitions(array[date '2024-02-29'])")
        connection.execute("insert into staging.raw_logins (message_id, sent_at, body) values ('leap', '2024-02-29 12:00Z', 'x')")


@pytest.mark.parametrize(
    "row",
    ["(null, now(), %s)", "('mine', null, %s)", "('mine', '1970-01-01', %s)"],
    ids=["no message id", "no time", "no partition"],
)
def test_an_error_shows_the_loader_no_body(masked_for_all: Database, row: str) -> None:
    """A constraint's error prints the row in its DETAIL, to the client and into the log, unless row security is on."""
    statement = f"insert into staging.raw_logins (message_id, sent_at, body) values {row}"

    def detail(guard_removed: str) -> str:
        with masked_for_all.connect(autocommit=False) as connection:
            connection.execute(guard_removed.encode())
            connection.execute("set local session authorization loader")
            with pytest.raises((errors.NotNullViolation, errors.CheckViolation)) as refusal:
                connection.execute(statement.encode(), [canaries.DEVICE_ID])
            return str(refusal.value)

    assert canaries.DEVICE_ID not in detail("select 1")
    if row.startswith("(null"):  # where no partition is found, only the partition's key is printed
        assert canaries.DEVICE_ID in detail("alter table staging.raw_logins disable row level security")


def test_a_temp_table_of_the_loaders_does_not_come_before_the_catalog(masked: Database) -> None:
    """staging.ensure_partitions() runs as the owner: with the loader's tables in the catalog's place the loader chooses what it makes."""

    def makes_the_partition(search_path: str) -> bool:
        with masked.connect("loader") as connection:
            connection.execute("create temp table pg_class (oid oid, relnamespace regnamespace, relname text)")
            connection.execute("insert into pg_class values ('staging.raw_logins'::regclass, 'staging', 'mine')")
            connection.execute("grant select on pg_class to public")
            connection.execute(f"set search_path = {search_path}".encode())
            connection.execute("select staging.ensure_partitions(array[date '2024-02-29'])")
        return bool(masked.value("select to_regclass('staging.raw_logins_20240229') is not null"))

    assert makes_the_partition("pg_temp, pg_catalog")
    with masked.connect() as connection:
        connection.execute("drop table staging.raw_logins_20240229")
        connection.execute("alter function staging.ensure_partitions(date[]) reset search_path")
        connection.execute("alter function staging.ensure_partition(regclass, text, timestamptz, timestamptz) reset search_path")
    assert not makes_the_partition("pg_temp, pg_catalog")


@attacks_as(
    "loader",
    Attack("reading a body", "select body from staging.raw_logins", READ),
    Attack("reading message ids", "select message_id from staging.raw_logins", READ),
    Attack("reading what it just landed", f"{INSERT} returning body", READ),
    Attack("a conflict that returns the row", f"{INSERT} on conflict (message_id, sent_at) do nothing", READ),
    Attack("overwriting a body", f"{INSERT} on conflict (message_id, sent_at) do update set body = excluded.body", WRITE),
    Attack("changing a body", "update staging.raw_logins set body = 'x'", WRITE),
    Attack("deleting a message", "delete from staging.raw_logins", WRITE),
    Attack("emptying staging", "truncate staging.raw_logins", "grant truncate on staging.raw_logins to loader"),
    Attack("locking staging", "do $$ begin lock table staging.raw_logins; end $$", WRITE),
    Attack(
        "choosing when a message landed",
        "insert into staging.raw_logins (message_id, sent_at, body, landed_at) select 'mine', now(), 'x', now()",
        "grant insert (landed_at) on staging.raw_logins to loader",
    ),
    Attack("a trigger on staging", TRIGGER.format("staging.raw_logins"), "grant trigger on staging.raw_logins to loader"),
    Attack("dropping a partition", "drop table {partition}", "grant pipeline_owner to loader"),
    Attack("reading a partition", "select body from {partition}", "grant pipeline_owner to loader"),
    Attack("reading the work list", "select count(*) from staging.unjudged", "grant select on staging.unjudged to loader"),
    Attack("taking a message off the work list", "delete from staging.unjudged", "grant select, delete on staging.unjudged to loader"),
    Attack("emptying the work list", "truncate staging.unjudged", "grant truncate on staging.unjudged to loader"),
    Attack("reading marts", "select message_id from marts.user_logins", "grant transformer to loader"),
    Attack("reading a view", "select masked_ip from analytics.user_logins", "grant analyst to loader"),
    Attack("reading what is masked", "select count(masked_ip) from staging.unjudged_logins", "grant transformer to loader"),
)
def test_loader_is_refused(masked_for_all: Database, attack: Attack) -> None:
    assert_refused(masked_for_all, "loader", attack)
