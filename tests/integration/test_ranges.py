"""`python -m loader ranges`: public files of address ranges as they come, all or nothing, and nobody's place too narrow."""

import gzip
import os
from pathlib import Path

import pytest

from tests.integration.conftest import Environment
from tests.support import Database, land_messages, run

# each bound as an address, and the place that begins there
RANGES = """
    select
        host(case
            when starts_with(bound::text, '00000000-0000-0000-0000-0000') then ('0x' || right(bound::text, 8))::bigint + '0.0.0.0'::inet
            else regexp_replace(replace(bound::text, '-', ''), '(....)(?=.)', '\\1:', 'g')::inet
        end),
        chr((nullif(code, 0) - 1) / 26 + 65) || chr((code - 1) % 26 + 65), nullif(asn, 0)
    from staging.ip_ranges cross join unnest(first_numbers, countries, asns) as bounds (bound, code, asn)
    order by bound
"""
BEHIND_IPV4 = ("::1:0:0", None, None)
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
WRONG = {
    "no file": (None, "cannot be read: [Errno 2] No such file or directory"),
    "nothing": (b"", "line 1 has 0 columns, of which none is called network or start_ip"),
    "events": (b'{"user_id": "u1", "ip": "192.0.2.1"}\n', "line 1 has 2 columns, of which none is called network or start_ip"),
    "no address": (b"192.0.2.0,192.0.2.255,DE\n192.0.2.256,192.0.3.0,DE\n", "line 2 has no address or network where one should be"),
    "a line cut off": (b"192.0.2.0,192.0.2.255,DE\n198.51.100.0\n,,\n", "line 3 has no address or network where one should be"),
    "ends before it begins": (b"192.0.2.9,192.0.2.0,DE\n", "line 1 has a range that ends before it begins"),
    "two families": (b"192.0.2.9,2001:db8::,DE\n", "line 1 has a range that ends before it begins"),
    "overlap": (b"network,asn\n192.0.2.0/24,1\n192.0.2.128/25,2\n", "line 3 overlaps another range"),
    "no AS number": (b"192.0.2.0,192.0.2.255,4294967296,X\n", "line 1 has a number that is no AS number"),
    "not UTF-8": (b"192.0.2.0,192.0.2.255,64496,\xff\xfe\n" * 9000, "is no text with columns (UnicodeDecodeError)"),
    "gzip cut off": (gzip.compress(os.urandom(100_000))[:1000], "is no text with columns (UnicodeDecodeError)"),
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
    assert (code, said.splitlines()[-1]) == (0, "2 ranges of addresses from ranges.csv")
    german, nowhere, behind_ipv4, japanese, behind_it = database.rows(RANGES)
    assert (nowhere, behind_ipv4, behind_it) == (("192.0.3.0", None, None), BEHIND_IPV4, ("2001:db9::", None, None))
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
    assert database.rows(RANGES) == [("192.0.2.0", "DE", None), ("192.0.3.0", None, None), BEHIND_IPV4]
    assert database.value("select count(*) from staging.ip_ranges") == 1


def test_a_place_narrower_than_a_masked_network_is_none(database: Database, environment: Environment, tmp_path: Path) -> None:
    """A country needs a whole /24 or /48 somewhere, and so does an operator within its country."""
    lines = {
        "192.0.2.0,192.0.2.255,1,DE": ("DE", 1),
        "198.51.100.7,198.51.100.7,2,DE": ("DE", None),  # an operator of one address
        "198.51.100.8,198.51.100.8,3,VA": (None, None),  # in a country of one address
        "198.51.100.9,198.51.100.9,1,DE": ("DE", 1),
        "203.0.113.128,203.0.114.127,4,DE": ("DE", None),  # two halves
        "203.0.115.1,203.0.117.0,5,DE": ("DE", 5),  # one whole in the middle
        "2001:db8:1::,2001:db8:1:fff:ffff:ffff:ffff:ffff,6,DE": ("DE", None),  # a /52
        "2001:db8:2::,2001:db8:2:ffff:ffff:ffff:ffff:ffff,7,JP": ("JP", 7),
        "255.255.255.0,255.255.255.255,8,DE": ("DE", 8),
    }
    content = "".join(f"{first},{last},{asn},{country},X\n" for first, last, asn, country in (line.split(",") for line in lines))
    assert load(environment, tmp_path / "ranges.csv", content.encode()) == (0, "9 ranges of addresses from ranges.csv\n")
    found = {first: tuple(place) for first, *place in database.rows(RANGES)}
    assert {first: found[first] for first in (line.split(",")[0] for line in lines)} == {
        line.split(",")[0]: place for line, place in lines.items()
    }


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
