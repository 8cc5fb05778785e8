"""What a field that is not masked may not hold: an address, an email address, a phone number, what a personal field holds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attacks.conftest import as_transformer
from tests.support import Database

UUID = "0190e5c8-7b3a-7c1d-9f2e-00000000abcd"
PERSONAL = [
    *(
        "192.0.2.1",
        " 192.0.2.1\n",
        "from 192.0.2.1, 198.51.100.7",
        "192.0.2.1:443",
        "192.0.2.0/24",
        "ip=192.0.2.1.",
        "192.000.002.001",
        "ip_192.0.2.1",
    ),
    *(
        "2001:db8::1",
        "2001:DB8:0:0:0:0:0:1",
        "[2001:db8::1]:443",
        "fe80::1%eth0",
        "ip:2001:db8::1",
        "to 2001:db8::1: refused",
        "2001:db8::",
    ),
    *("::ffff:192.0.2.1", "2001:db8::192.0.2.1"),
    *(
        "somebody@example.com",
        "<somebody@example.com>",
        "some.body+x@mail.example.com!",
        "somebody%40example.com",
        "mailto:a@b.example",
        "a@b@example.com",
    ),
    *("+12025550100", "+1 202 555 0100", "tel:+1-202-555-0100", "call +1 (202) 555.0100 now", "+1 555 0100 x2", "+44 (0)20 7946 0018"),
    *(
        "(202) 555-0100",
        "(202)555-0100",
        "202-555-0100",
        "202 555 0100",
        "1 202-555 0100",
        "020 7946 0018",
        "(020) 7946 0018",
        "06 39 98 00 00",
    ),
]
PLAIN = [
    *(
        "",
        " ",
        UUID,
        UUID.upper(),
        UUID.replace("-", ""),
        f"{{{UUID}}}",
        "12345678-1234-4123-8123-123456789012",
        "00000000-0000-0000-0000-000000000000",
    ),
    *(
        "1",
        "2.3",
        "2.3.1",
        "120.0.6099.109",
        "2026.11.28",
        "10.0.22631.4602",
        "0.8.2.1",
        "1.2.3.4.5",
        "v1.2.3.4",
        "2.3.1+20261128",
        "2.3.1-rc.1",
        "1.256.0.1",
    ),
    *(
        "en-US",
        "zh-Hant-TW",
        "de_DE.UTF-8",
        "sr-Latn-RS@currency",
        "RU",
        "android",
        "iPhone15,2",
        "iPad13,18",
        "SM-G998B",
        "Pixel 8 Pro",
        "Windows NT 10.0; x64",
    ),
    *(
        "12025550100",
        "0012025550100",
        "442079460018",
        "593-47-5928",
        "deadbeefcafe",
        "0x00ff00ff00ff",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "a1b2c3d4e5f6a7b8",
    ),
    *(
        "2026-11-28",
        "2026-11-28T10:00:00+0100",
        "28.11.2026",
        "01/02/2026 10:30",
        "01 02 2026",
        "10:30:45",
        "12:30",
        "std::string",
        "::",
        "50%",
        "c++17",
        "@here",
    ),
]


BEFORE, AFTER = (
    st.sampled_from(["", "", "from ", "ip=", "tel:", "[", "(", '"']),
    st.sampled_from(["", "", " ", ", ", ":", "]", ")", '"', "\n"]),
)
BETWEEN_DIGITS = st.sampled_from(["", " ", "-", ".", "/", " (", ") ", "\u00a0", "\u2011"])
FORMS = (
    st.ip_addresses()
    .filter(lambda address: not str(address).startswith(("0.", "::")))
    .flatmap(lambda address: st.sampled_from([str(address), address.exploded.upper()])),
    st.emails(),
    st.lists(st.tuples(BETWEEN_DIGITS, st.sampled_from("0123456789")).map("".join), min_size=7, max_size=15).map("".join).map("+{}".format),
    st.from_regex(r"([(][2-9][0-9]{2}[)][ -]?|[2-9][0-9]{2}[ -])[2-9][0-9]{2}[ -][0-9]{4}", fullmatch=True),
    st.from_regex(r"0[1-9][0-9]{1,3} [0-9]{3}[ /-]?[0-9]{3,4}", fullmatch=True),
)
NO_FORMS = (
    st.uuids().flatmap(lambda value: st.sampled_from([str(value), str(value).upper(), value.hex])),
    st.from_regex(r"[0-9]+|[0-9a-f]{8,40}|[0-9A-HJKMNP-TV-Z]{26}|[0-9]{1,4}([.][0-9]{1,5}){1,2}|[a-z]{2}-[A-Z]{2}", fullmatch=True),
    st.dates().map(str),
)
PIECES = [
    "0",
    "1",
    "202",
    "555",
    "0100",
    "192",
    "db8",
    ".",
    ":",
    "::",
    "-",
    " ",
    "(",
    ")",
    "/",
    "+",
    "@",
    "%40",
    "a",
    "com",
    "\u00a0",
    UUID,
]


def test_an_address_an_email_address_and_a_phone_number_are_found_in_a_plain_value_and_nothing_else_is(masked_for_all: Database) -> None:
    found = as_transformer(masked_for_all, "masking.holds_personal(value, null)", PERSONAL + PLAIN)
    assert dict(zip(PERSONAL + PLAIN, found, strict=True)) == dict.fromkeys(PERSONAL, True) | dict.fromkeys(PLAIN, False)
    assert set(as_transformer(masked_for_all, f"masking.may_hold_personal('{UUID} RU ' || value || ' android')", PERSONAL)) == {True}
    usual = [f"{UUID} RU 2.3.1 android", f"{UUID} 120.0 ios", "u1 zh-Hant-TW 2.03.1 Pixel 8 Pro", UUID]
    assert set(as_transformer(masked_for_all, "masking.may_hold_personal(value)", usual)) == {False}


@settings(deadline=None)
@given(
    st.tuples(BEFORE, st.one_of(FORMS), AFTER).map("".join),
    st.one_of(NO_FORMS),
    st.lists(st.sampled_from(PIECES), max_size=14).map("".join),
)
def test_whatever_comes_the_quick_look_denies_nothing_that_the_thorough_one_finds(
    masked_for_all: Database, personal: str, plain: str, any_text: str
) -> None:
    values = [personal, plain, any_text]
    found, joined = (
        as_transformer(masked_for_all, expression, values)
        for expression in ("masking.holds_personal(value, '{}')", "masking.may_hold_personal('0 ' || value || ' 0')")
    )
    assert found[:2] == [True, False]
    assert [value for value, is_found, may in zip(values, found, joined, strict=True) if is_found and not may] == []


def test_what_a_personal_field_holds_is_found_in_a_plain_one(masked_for_all: Database) -> None:
    personal = [" Serial-7B ", "ADA", "", " ", "O'Ne_"]
    found = {
        **dict.fromkeys(["serial-7b", "SERIAL-7B\n", "ios/serial-7b/2", "ada", " Ada ", "o'ne_"], True),
        **dict.fromkeys(["canada", "serial-7", "serial", "", " ", "o'nex"], False),
    }
    expression = "masking.holds_personal(value, array[{}, null])".format(", ".join(f"$${value}$$" for value in personal))
    assert dict(zip(found, as_transformer(masked_for_all, expression, list(found)), strict=True)) == found
    assert set(as_transformer(masked_for_all, f"masking.holds_personal(null, array['{UUID}', value])", list(found))) == {False}
