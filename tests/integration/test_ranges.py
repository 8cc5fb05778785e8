"""`python -m loader ranges`: public files of address ranges as they come, all or nothing, and nobody's place too narrow."""

import gzip
import os
import re
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandbox.processes import wait_until
from tests.integration.conftest import Environment
from tests.support import Database, land_messages, run

# each bound as an address, and the place that begins there
RANGES = """
    select
        host(case
            when starts_with(bound::text, '00000000-0000-0000-0000-ffff') then ('0x' || right(bound::text, 8))::bigint + '0.0.0.0'::inet
            else regexp_replace(replace(bound::text, '-', ''), '(....)(?=.)', '\\1:', 'g')::inet
        end),
        chr((nullif(code, 0) - 1) / 26 + 65) || chr((code - 1) % 26 + 65), nullif(asn, 0)
    from staging.ip_ranges cross join unnest(first_numbers, countries, asns) as bounds (bound, code, asn)
    order by bound
"""
# as the public files have them
FILES = {
    "networks with names": b"network,country,country_code,continent,asn,as_name\n"
    b'192.0.2.0/24,Germany,DE,Europe,AS64496,"Example, Inc."\n2001:db8::/32,Japan,JP,Asia,AS64500,\n198.51.100.0/24,,,,,\n',
    "first and last, tabs, gzip": gzip.compress(
        b"192.0.2.0\t192.0.2.255\t64496\tDE\tEXAMPLE\n198.51.100.0\t198.51.100.255\t0\tNone\tNot routed\n"
        b"2001:db8::\t2001:db8:ffff:ffff:ffff:ffff:ffff:ffff\t64500\tJP\tJP\n"
    ),
    "first and last with names and a byte order mark": "\ufeffstart_ip,end_ip,asn,country\r\n"
    "192.0.2.0,192.0.2.255,64496,de\r\n2001:db8::,2001:db8:ffff:ffff:ffff:ffff:ffff:ffff,64500,jp\r\n".encode(),
    "countries alone": b"192.0.2.0,192.0.2.255,DE\n198.51.100.0,198.51.100.255,ZZ\n2001:db8::,2001:db8:ffff:ffff:ffff:ffff:ffff:ffff,JP\n",
    "operators alone": b'192.0.2.0,192.0.2.255,64496,"DE"\n2001:db8::,2001:db8:ffff:ffff:ffff:ffff:ffff:ffff,64500,JP\n',
}
COUNTS = {"countries alone": "2 with a country, 0 with an operator", "operators alone": "0 with a country, 2 with an operator"}
WRONG = {
    "no file": (None, "wrong.csv cannot be read: No such file or directory"),
    "nothing": (b"", "line 1 has 0 columns, of which none is called network or start_ip"),
    "events": (b'{"user_id": "u1", "ip": "192.0.2.1"}\n', "line 1 has 2 columns, of which none is called network or start_ip"),
    "no address": (b"192.0.2.0,192.0.2.255,DE\n192.0.2.256,192.0.3.0,DE\n", "line 2 has no address or network where one should be"),
    "a line cut off": (b"192.0.2.0,192.0.2.255,DE\n198.51.100.0\n,,\n", "line 3 has no address or network where one should be"),
    "ends before it begins": (b"192.0.2.9,192.0.2.0,DE\n", "line 1 has a range that ends before it begins"),
    "two families": (b"192.0.2.9,2001:db8::,DE\n", "line 1 has a range that ends before it begins"),
    "overlap": (b"network,asn\n192.0.2.0/24,1\n192.0.2.128/25,2\n", "line 3 overlaps another range"),
    "no AS number": (b"192.0.2.0,192.0.2.255,4294967296,X\n", "line 1 has a number that is no AS number"),
    "not UTF-8": (b"192.0.2.0,192.0.2.255,64496,\xff\xfe\n" * 9000, "is no text with columns (UnicodeDecodeError)"),
    "NUL": (b"192.0.2.0,192.0.2.255,64496,X\n192.0.3.0,192.0.3.255,6\x004496,X\n", "is no text with columns (DataError)"),
    "gzip of no text": (gzip.compress(os.urandom(100_000)), "is no text with columns (UnicodeDecodeError)"),
    "gzip cut off": (gzip.compress(b"192.0.2.0,192.0.2.255,DE\n" * 9000)[:60], "cannot be read: Compressed file ended before"),
    "gzip that is damaged": (
        (packed := gzip.compress(b"".join(b"192.0.2.%d,192.0.2.%d,DE\n" % (n, n) for n in range(256))))[:20] + b"\xff" * 20 + packed[40:],
        "cannot be read: Error -3",
    ),
    "names alone": (b"network,country_code,asn\n", "has no line with a country or an operator"),
    "no place": (b"192.0.2.0,192.0.2.255,ZZ\n", "has no line with a country or an operator"),
    "no whole network": (b"192.0.2.0,192.0.2.127,DE\n", "has no range that is a whole IPv4 /24 or IPv6 /48"),
    "a network with bits of a host": (b"network,asn\n192.0.2.77/24,1\n", "line 2 has no address or network where one should be"),
    "a network where an address should be": (b"192.0.2.0/25,192.0.2.255,DE\n", "line 1 has no address or network where one should be"),
    "a longer number": (b"192.0.2.0,192.0.2.255,99999999999,X\n", "line 1 has a number that is no AS number"),
}


def load(environment: Environment, path: Path, content: bytes | None) -> tuple[int, str]:
    if content is not None:
        path.write_bytes(content)
    done = run(["python", "-m", "loader", "ranges", str(path)], environment, timeout_seconds=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", FILES)
def test_a_public_file_is_loaded_as_it_is(database: Database, environment: Environment, tmp_path: Path, name: str) -> None:
    path = tmp_path / "ranges.csv"
    path.write_bytes(FILES[name])
    os.utime(path, (1_767_225_600, 1_767_225_600))  # 2026-01-01
    code, said = load(environment, path, None)
    assert (code, said) == (0, f"2 ranges of addresses from ranges.csv, {COUNTS.get(name, '2 with a country, 2 with an operator')}\n")
    german, nowhere, japanese, behind_it = database.rows(RANGES)
    assert (nowhere, behind_it) == (("192.0.3.0", None, None), ("2001:db9::", None, None))
    assert (german[0], japanese[0]) == ("192.0.2.0", "2001:db8::")
    places = {"countries alone": (("DE", None), ("JP", None)), "operators alone": ((None, 64496), (None, 64500))}
    assert (german[1:], japanese[1:]) == places.get(name, (("DE", 64496), ("JP", 64500)))
    assert database.rows("select file_name, file_date::text, ranges from staging.ip_ranges") == [("ranges.csv", "2026-01-01", 2)]


@pytest.mark.parametrize(("content", "found"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_changes_nothing(
    database: Database, environment: Environment, tmp_path: Path, content: bytes | None, found: str
) -> None:
    assert load(environment, tmp_path / "good.csv", b"192.0.2.0,192.0.2.255,DE\n")[0] == 0
    code, said = load(environment, tmp_path / "wrong.csv", content)
    (line,) = said.splitlines()
    assert (code, found in line) == (os.EX_DATAERR, True), line
    assert database.rows(RANGES) == [("192.0.2.0", "DE", None), ("192.0.3.0", None, None)]
    assert database.value("select count(*) from staging.ip_ranges") == 1


def test_the_addresses_of_a_masked_network_have_one_place_or_none(database: Database, environment: Environment, tmp_path: Path) -> None:
    """Whatever the file says, so nobody can tell two addresses of a /24 or a /48 apart by it."""
    lines = """
        1.0.0.0,1.255.255.255,9,US
        192.0.2.0,192.0.2.127,1,DE
        192.0.2.128,192.0.2.255,1,DE
        198.51.100.0,198.51.100.6,1,DE
        198.51.100.7,198.51.100.7,2,VA
        198.51.100.8,198.51.102.7,1,DE

        ::ffff:203.0.113.0,::ffff:203.0.113.255,3,FR
        255.255.255.0,255.255.255.255,8,DE
        ::,1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff,5,CA
        2001:db8:1::,2001:db8:1:fff:ffff:ffff:ffff:ffff,6,DE
        2001:db8:2::,2001:db8:2:ffff:ffff:ffff:ffff:ffff,7,JP
        ffff:ffff:ffff::,ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff,4,BR
    """
    content = re.sub(r"(.)$", r"\1,X", textwrap.dedent(lines).lstrip(), flags=re.MULTILINE)
    said = "12 ranges of addresses from ranges.csv, 12 with a country, 12 with an operator\n"
    assert load(environment, tmp_path / "ranges.csv", content.encode()) == (0, said)
    assert database.rows(RANGES) == [
        ("1.0.0.0", "US", 9),
        ("2.0.0.0", None, None),
        ("192.0.2.0", "DE", 1),
        ("192.0.3.0", None, None),
        ("198.51.101.0", "DE", 1),
        ("198.51.102.0", None, None),
        ("203.0.113.0", "FR", 3),
        ("203.0.114.0", None, None),
        ("255.255.255.0", "DE", 8),
        ("1::", "CA", 5),
        ("2000::", None, None),
        ("2001:db8:2::", "JP", 7),
        ("2001:db8:3::", None, None),
        ("ffff:ffff:ffff::", "BR", 4),
    ]


def test_a_file_that_covers_everything_is_no_other_ones(database: Database, environment: Environment, tmp_path: Path) -> None:
    assert load(environment, tmp_path / "ranges.csv", b"network,country_code\n0.0.0.0/0,DE\n::/0,US\n")[0] == 0
    places = {"0.0.0.1": "DE", "192.0.2.1": "DE", "255.255.255.255": "DE", "::ffff:192.0.2.1": "DE", "2001:db8::1": "US", "1::": "US"}
    land_messages(database, {address: f'{{"ip": "{address}"}}' for address in places})
    assert dict(database.rows("select message_id, ip_country from staging.logins")) == places


def test_two_files_at_once_take_turns(database: Database, environment: Environment, tmp_path: Path) -> None:
    with database.connect(autocommit=False) as other:
        other.execute("lock table staging.ip_ranges in share row exclusive mode")
        with ThreadPoolExecutor() as pool:
            loads = [pool.submit(load, environment, tmp_path / f"{n}.csv", b"192.0.2.0,192.0.2.255,DE\n") for n in range(2)]
            waiting = "select count(*) from pg_locks where relation = 'staging.ip_ranges'::regclass and not granted"
            assert wait_until(lambda: database.value(waiting) == 2, 30)
            other.rollback()
    assert [done.result()[0] for done in loads] == [0, 0]
    assert database.value("select count(*) from staging.ip_ranges where first_numbers is not null") == 1


def test_without_migrate_it_says_so(empty_database: Database, environment: Environment, tmp_path: Path) -> None:
    code, said = load(environment | {"PGDATABASE": empty_database.name}, tmp_path / "ranges.csv", b"192.0.2.0,192.0.2.255,DE\n")
    assert (code, "run python -m loader migrate" in said, said.count("\n")) == (os.EX_CONFIG, True, 1)


def test_readers_have_the_old_ranges_until_the_new_ones_are_whole(database: Database, environment: Environment, tmp_path: Path) -> None:
    assert load(environment, tmp_path / "old.csv", b"192.0.2.0,192.0.2.255,DE\n")[0] == 0
    land_messages(database, {"m1": '{"ip": "192.0.2.1"}'})
    places = "select ip_country from staging.logins"
    with database.connect(autocommit=False) as reader:
        reader.execute("set transaction isolation level repeatable read")
        assert reader.execute(places).fetchall() == [("DE",)]
        assert load(environment, tmp_path / "new.csv", b"192.0.2.0,192.0.2.255,FR\n")[0] == 0  # waits for no reader
        assert reader.execute(places).fetchall() == [("DE",)]
    assert database.value(places) == "FR"
