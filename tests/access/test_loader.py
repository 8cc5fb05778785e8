"""What the role `loader` may give to functions and tables, and what they tell it."""

import pytest
from psycopg import errors

from tests import canaries
from tests.support import Database

LIST = "insert into staging.unjudged (message_id, sent_at) values ('mine', '{}')"
MAKE = "select staging.ensure_partitions(array[date '{}'])"


@pytest.mark.parametrize(
    "statement",
    [LIST.format(time) for time in ("infinity", "-infinity", "0044-03-15 BC", "12026-01-01")]
    + [MAKE.format(day) for day in ("0044-03-15 BC", "12026-01-01")],
)
def test_a_time_that_would_stop_every_run_or_that_expiry_would_not_know_is_refused(masked_for_all: Database, statement: str) -> None:
    """dbt makes the partitions of each month on the list, and no message was sent in a month that none can be made for."""
    with pytest.raises((errors.CheckViolation, errors.DatetimeFieldOverflow)):
        masked_for_all.rows(statement, "loader")


# no message id, no time, no partition
@pytest.mark.parametrize("row", ["(null, now(), %s)", "('mine', null, %s)", "('mine', '1970-01-01', %s)"])
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
            connection.execute(MAKE.format("2024-02-29").encode())
        return bool(masked.value("select to_regclass('staging.raw_logins_20240229') is not null"))

    assert makes_the_partition("pg_temp, pg_catalog")
    # control: without the functions' own search_path it does
    with masked.connect() as connection:
        connection.execute("drop table staging.raw_logins_20240229")
        connection.execute("alter function staging.ensure_partitions(date[]) reset search_path")
        connection.execute("alter function staging.ensure_partition(regclass, text, timestamptz, timestamptz) reset search_path")
    assert not makes_the_partition("pg_temp, pg_catalog")
