"""Bodies made to break the judgement, each with what must become of it, and a second opinion in Python for generated ones."""

import ipaddress
import itertools
import json
from decimal import Decimal, InvalidOperation
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from loader.landing import storable

MAX_BRACKETS = 8192  # a body with more is read only if it is no longer than that
NUMERIC_DIGITS = 131_072  # before the point; PostgreSQL's manual, table 8.2
# In the order in which reasons are given.
LIMITS = {"app_version": 32, "device_id": 256, "device_type": 32, "ip": 256, "locale": 32, "user_id": 128}
BLANKS = " \t\n\v\f\r\u00a0\u3000\u200b\ufeff"

VALID = ["valid"]  # masked, and its ip is an address
INVALID_IP = ["no address"]  # masked, and its ip is none

# No unit test has these, so an artefact that holds one has it from a message.
PLANTED_IP = "203.0.113.77"
PLANTED_DEVICE = "planted-device-7f3a"
LOGIN: dict[str, Any] = {
    "user_id": "u1",
    "app_version": "2.3.0",
    "device_type": "ios",
    "ip": PLANTED_IP,
    "locale": "US",
    "device_id": PLANTED_DEVICE,
}


def login(**changes: Any) -> str:
    """A good login but for *changes*."""
    return json.dumps(LOGIN | changes)


def without(name: str) -> str:
    """A good login that lacks one field."""
    return json.dumps({key: value for key, value in LOGIN.items() if key != name})


def raw(old: str, new: str) -> str:
    """A good login's JSON with *old* replaced, whatever becomes of it."""
    body = login()
    assert old in body
    return body.replace(old, new)


NOT_JSON = ["body_not_json"]
NOT_AN_OBJECT = ["body_not_an_object"]
NO_FIELD = [f"{name}_missing" for name in LIMITS if name != "locale"]

CORPUS: dict[str, tuple[str, list[str]]] = {
    "nothing": ("", NOT_JSON),
    "a space": (" ", NOT_JSON),
    "plain words": (f"login from {PLANTED_IP}", NOT_JSON),
    "cut off": (login()[:-9], NOT_JSON),
    "two objects": (login() + login(), NOT_JSON),
    "a trailing comma": (login()[:-1] + ",}", NOT_JSON),
    "single quotes": (login().replace('"', "'"), NOT_JSON),
    "a comment": ("/* */" + login(), NOT_JSON),
    "a byte order mark": ("\ufeff" + login(), NOT_JSON),
    "NaN": (raw('"u1"', "NaN"), NOT_JSON),
    "Infinity": (raw('"u1"', "-Infinity"), NOT_JSON),
    "1e1000000": (raw('"u1"', "1e1000000"), NOT_JSON),
    "a leading zero in a number": (raw('"u1"', "01"), NOT_JSON),
    "a hex number": (raw('"u1"', "0x1f"), NOT_JSON),
    "escaped U+0000 in ip": (login(ip="203.0.113.77\0"), NOT_JSON),
    "escaped U+0000 in a key": (login(**{"x\0": 1}), NOT_JSON),
    "U+0000 as it is": ("\0" + login(), NOT_JSON),
    "escaped lone surrogate": (login(device_id=PLANTED_DEVICE + "\ud800"), NOT_JSON),
    "escaped low surrogate first": (login(device_id="\udc00\ud800"), NOT_JSON),
    "a lone surrogate as it is": (login() + "\ud800", NOT_JSON),
    "an unescaped control character": (raw("u1", "u\x01"), NOT_JSON),
    "a wrong escape": (raw("u1", "\\x41"), NOT_JSON),
    "hex of bytea": ("\\x7b7d", NOT_JSON),
    "base64": ("eyJ1c2VyX2lkIjogInUxIn0=", NOT_JSON),
    "XML": (f"<login ip='{PLANTED_IP}'/>", NOT_JSON),
    "CSV": (f"u1,ios,{PLANTED_IP}", NOT_JSON),
    "SQL": ("'; drop table staging.raw_logins; --", NOT_JSON),
    "Jinja": ("{{ env_var('TRANSFORMER_PASSWORD') }}", NOT_JSON),
    "Jinja statement": ("{% raw %}", NOT_JSON),
    "a format string": ("%s %(ip)s {0} ${ip}", NOT_JSON),
    "an array": (f"[{login()}]", NOT_AN_OBJECT),
    "an empty array": ("[]", NOT_AN_OBJECT),
    "a string": (json.dumps(PLANTED_IP), NOT_AN_OBJECT),
    "JSON in a string": (json.dumps(login()), NOT_AN_OBJECT),
    "a number": ("1", NOT_AN_OBJECT),
    "true": ("true", NOT_AN_OBJECT),
    "null": ("null", NOT_AN_OBJECT),
    "4,000 nested arrays": ("[" * 4000 + "]" * 4000, NOT_AN_OBJECT),
    "as many nested arrays as may be": ("[" * MAX_BRACKETS + "]" * MAX_BRACKETS, NOT_AN_OBJECT),
    "one nested array too many": ("[" * (MAX_BRACKETS + 1) + "]" * (MAX_BRACKETS + 1), NOT_JSON),
    "100,000 nested brackets": ("[" * 100_000, NOT_JSON),
    "100,000 nested objects": ('{"ip":' * 100_000 + "1" + "}" * 100_000, NOT_JSON),
    "1 MiB": (login(locale="x" * (1 << 20)), ["locale_too_long"]),
    "1 MiB of spaces": (login() + " " * (1 << 20), VALID),
    "1 MiB that is not ours": (json.dumps(LOGIN | {"x": "\u20ac" * 350_000}, ensure_ascii=False), VALID),
    "an empty object": ("{}", NO_FIELD),
    "another message": (
        '{"foo": "wrong_message_type", "bar": "123"}',
        NO_FIELD,
    ),
    "keys in capitals": (
        json.dumps({key.upper(): value for key, value in LOGIN.items()}),
        NO_FIELD,
    ),
    "a key of look-alikes": (raw('"ip"', '"\u0456p"'), ["ip_missing"]),
    "a login in a login": (
        json.dumps({"login": LOGIN}),
        NO_FIELD,
    ),
    **{f"no {name}": (without(name), VALID if name == "locale" else [f"{name}_missing"]) for name in LIMITS},
    **{f"{name} null": (login(**{name: None}), VALID if name == "locale" else [f"{name}_missing"]) for name in LIMITS},
    **{f"{name} a number": (login(**{name: 1234567}), [f"{name}_not_text"]) for name in LIMITS},
    **{f"{name} a boolean": (login(**{name: False}), [f"{name}_not_text"]) for name in LIMITS},
    **{f"{name} an array": (login(**{name: [LOGIN[name]]}), [f"{name}_not_text"]) for name in LIMITS},
    **{f"{name} an object": (login(**{name: {"is": LOGIN[name]}}), [f"{name}_not_text"]) for name in LIMITS},
    **{f"{name} empty": (login(**{name: ""}), [f"{name}_empty"]) for name in LIMITS},
    **{f"{name} blank": (login(**{name: BLANKS}), [f"{name}_empty"]) for name in LIMITS},
    **{f"{name} too long": (login(**{name: "x" * (limit + 1)}), [f"{name}_too_long"]) for name, limit in LIMITS.items()},
    **{
        f"{name} as long as may be, in characters of four bytes": (
            login(**{name: "\U0001f600" * limit}),
            INVALID_IP if name == "ip" else VALID,
        )
        for name, limit in LIMITS.items()
    },
    "several rules at once": (login(user_id=1, ip=None, locale=""), ["ip_missing", "locale_empty", "user_id_not_text"]),
    "every field wrong": (
        json.dumps(dict.fromkeys(LIMITS, 0)),
        [f"{name}_not_text" for name in LIMITS],
    ),
    "a key twice, the last one good": (raw('"ip": ', '"ip": 7, "ip": '), VALID),
    "a key twice, the last one bad": (login()[:-1] + ', "ip": null}', ["ip_missing"]),
    "a key twice, the first one no JSON": (raw('"ip": ', '"ip": "\\u0000", "ip": '), NOT_JSON),
    "keys that are not ours": (login(admin=True, nested={"ip": "x"}), VALID),
    "1e400 in a key that is not ours": (login()[:-1] + ', "x": 1e400}', VALID),
    "4,000 digits in a key that is not ours": (login()[:-1] + f', "x": {"9" * 4000}}}', VALID),
    "white space around": ("\r\n\t " + login() + "\n", VALID),
    "everything escaped": (
        "{"
        + ", ".join(
            f'"{_key}": "{_value}"'
            for _key, _value in (
                ("".join(f"\\u{ord(letter):04x}" for letter in key), "".join(f"\\u{ord(letter):04x}" for letter in value))
                for key, value in LOGIN.items()
            )
        )
        + "}",
        VALID,
    ),
    "SQL in user_id": (login(user_id="'; drop table marts.user_logins; --"), VALID),
    "Jinja in device_id": (login(device_id="{{ target.password }}{% endraw %}"), VALID),
    "a backslash in device_id": (login(device_id="\\x41\\000'"), VALID),
    "a percent sign in locale": (login(locale="%s%(x)s"), VALID),
    "right to left": (login(user_id="\u202eresu"), VALID),
    "combining characters": (login(user_id="e\u0301"), VALID),
    "a control character in user_id": (login(user_id="u\u0001\u007f"), VALID),
    "a line feed in device_id": (login(device_id=PLANTED_DEVICE + "\n"), VALID),
    "a version of words": (login(app_version="two"), VALID),
    "a version of huge numbers": (login(app_version="99999999999999999999.1"), VALID),
    "a version of dots": (login(app_version="..."), VALID),
    "a version of full-width digits": (login(app_version="\uff12.\uff13"), VALID),
    "a negative version": (login(app_version="-1.0"), VALID),
    "IPv6": (login(ip="2001:DB8:0:0:0:0:0:77"), VALID),
    "IPv4 mapped into IPv6": (login(ip="::ffff:203.0.113.77"), VALID),
    "spaces around the address": (login(ip=" 203.0.113.77\n"), VALID),
    "IPv4 with leading zeros": (login(ip="203.000.113.077"), INVALID_IP),
    "IPv4 with a port": (login(ip="203.0.113.77:443"), INVALID_IP),
    "IPv4 with a full stop behind": (login(ip="203.0.113.77."), INVALID_IP),
    "IPv4 of three parts": (login(ip="203.0.113"), INVALID_IP),
    "IPv4 of five parts": (login(ip="203.0.113.77.1"), INVALID_IP),
    "IPv4 out of range": (login(ip="203.0.113.777"), INVALID_IP),
    "IPv4 as one number": (login(ip="3405803853"), INVALID_IP),
    "IPv4 in hex": (login(ip="0xcb.0.0x71.0x4d"), INVALID_IP),
    "IPv4 in full-width digits": (login(ip="\uff12\uff10\uff13.0.113.77"), INVALID_IP),
    "IPv4 in Arabic digits": (login(ip="\u0662\u0660\u0663.0.113.77"), INVALID_IP),
    "IPv4 with an ideographic full stop": (login(ip="203\u30020\u3002113\u300277"), INVALID_IP),
    "a network": (login(ip="203.0.113.0/24"), INVALID_IP),
    "IPv6 with a zone": (login(ip="fe80::1%eth0"), INVALID_IP),
    "IPv6 in brackets": (login(ip="[2001:db8::77]"), INVALID_IP),
    "IPv6 with a port": (login(ip="[2001:db8::77]:443"), INVALID_IP),
    "IPv6 compressed twice": (login(ip="2001::db8::77"), INVALID_IP),
    "two addresses": (login(ip="203.0.113.77, 203.0.113.78"), INVALID_IP),
    "a host name": (login(ip="localhost"), INVALID_IP),
    "unknown": (login(ip="unknown"), INVALID_IP),
    "a zero-width space in the address": (login(ip="203.0.113.77\u200b"), INVALID_IP),
}


# Of what generated bodies are made.
FRAGMENTS = [
    "'; drop table staging.raw_logins; --",
    "{{ env_var('PGPASSWORD') }}",
    "{% raw %}",
    "\\x41",
    "%(ip)s",
    "\u0456p",
    "\ud800",
    "a\0b",
    "\ufeff",
]
ODD_ADDRESSES = [
    "{address}:443",
    "{address}/24",
    "0{address}",
    "{address}%eth0",
    "::ffff:{address}",
    "::FFFF:{address}",
    "::ffff:0{address}",
    " {address}\n",
    "{address}.",
    "{address}, {address}",
    "[2001:db8::1]",
    "fe80::1%eth0",
    "2001:db8::{address}",
    "{wide}",
]
FULL_WIDTH = {ord(str(digit)): chr(0xFF10 + digit) for digit in range(10)}
NESTS = ["[]", "[}", ('{"ip":', "}")]
HUGE = ["[" * 100_000, '{"ip":' * 20_000, "9" * MAX_BRACKETS, '"' + "x" * (1 << 17)]


def judge(body: str) -> list[str]:
    """What SQL must say of *body*: the reasons, or none for a login. Written anew, to disagree with the models where they are wrong."""
    stored = storable(body)
    if len(stored.encode()) > MAX_BRACKETS and sum(map(stored.count, "[{")) > MAX_BRACKETS:
        return NOT_JSON
    try:
        event = json.loads(stored, object_pairs_hook=_object, parse_constant=_refuse, parse_int=lambda _: 0, parse_float=_number)
        _require_text([event])
    except (ValueError, RecursionError, InvalidOperation):
        return NOT_JSON
    if not isinstance(event, dict):
        return NOT_AN_OBJECT
    return [reason for name, limit in LIMITS.items() if (reason := _broken_rule(event, name, limit))]


def is_address(body: str) -> bool:
    """Whether *body*, a login's, has one whole address as its ip: no port, no zone, no network, no leading zeros."""
    ip = json.loads(body)["ip"].strip(" \t\r\n")
    try:
        ipaddress.ip_address(ip)
    except ValueError:
        return False
    return "%" not in ip


def _broken_rule(event: dict[str, Any], name: str, limit: int) -> str | None:
    value = event.get(name)
    if value is None:
        return None if name == "locale" else f"{name}_missing"
    if not isinstance(value, str):
        return f"{name}_not_text"
    if not value.strip(BLANKS):
        return f"{name}_empty"
    return f"{name}_too_long" if len(value) > limit else None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _require_text([part for pair in pairs for part in pair])
    return dict(pairs)


def _require_text(values: list[Any]) -> None:
    for value in values:
        if isinstance(value, str) and ("\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value)):
            raise ValueError("PostgreSQL's text cannot hold it")
        if isinstance(value, list):
            _require_text(value)


def _number(text: str) -> float:
    if Decimal(text).adjusted() >= NUMERIC_DIGITS:
        raise ValueError("PostgreSQL's numeric cannot hold it")
    return 0.0


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def generated(count: int, seed_number: int) -> list[str]:
    """*count* different bodies, the same for the same seed."""
    found: dict[str, None] = {}
    for round_number in itertools.count(seed_number):
        if len(found) >= count:
            break

        @seed(round_number)
        @settings(max_examples=100, phases=[Phase.generate], database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(_bodies(), min_size=10, max_size=10))
        def collect(bodies: list[str]) -> None:
            found.update(dict.fromkeys(bodies))

        collect()
    return list(found)[:count]


def _bodies() -> st.SearchStrategy[str]:
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=4,
    )
    device = st.integers(0, 10**6).map(lambda number: f"{PLANTED_DEVICE}-{number}")
    ip = st.ip_addresses(network="203.0.113.0/24").map(str) | st.ip_addresses(network="2001:db8:bad::/48").map(str)
    version = st.lists(st.integers(0, 300).map(str), min_size=1, max_size=4).map(".".join)
    good = {
        "user_id": st.uuids().map(str),
        "device_type": st.sampled_from(["android", "ios"]),
        "ip": ip,
        "device_id": device,
        "locale": st.none() | st.sampled_from(["US", "DE"]),
        "app_version": version,
    }
    boundary = {name: st.integers(limit - 1, limit + 1).map(lambda size: "x" * size) for name, limit in LIMITS.items()}
    odd_ip = st.builds(
        lambda form, address: form.format(address=address, wide=address.translate(FULL_WIDTH)),
        st.sampled_from(ODD_ADDRESSES),
        st.ip_addresses(v=4, network="203.0.113.0/24").map(str),
    )
    logins = st.fixed_dictionaries(good) | st.fixed_dictionaries(good | {"ip": odd_ip})
    nearly = st.builds(
        lambda base, changes, dropped: {key: value for key, value in (base | changes).items() if key != dropped},
        logins,
        st.fixed_dictionaries(
            {},
            optional={
                name: anything | boundary[name] | st.text(alphabet=BLANKS, max_size=3) | st.sampled_from(FRAGMENTS) for name in LIMITS
            },
        ),
        st.sampled_from([*LIMITS, "none", "none", "none"]),
    )
    texts = st.builds(
        lambda event, ascii_only: json.dumps(event, ensure_ascii=ascii_only), logins | nearly | nearly | anything, st.booleans()
    )
    # a key twice, the last one counts; nesting within the size that is read; sizes around what is read
    repeated = st.builds(
        lambda event, name, value: json.dumps(event)[:-1] + f", {json.dumps(name)}: {json.dumps(value)}}}",
        logins,
        st.sampled_from(list(LIMITS)),
        anything,
    )
    nested = st.builds(
        lambda opened, closed, piece: piece[0] * opened + piece[1] * closed, *(2 * [st.integers(0, 200)]), st.sampled_from(NESTS)
    )
    padded = st.builds(
        lambda text, size: text + " " * (size - len(text.encode(errors="surrogatepass"))),
        texts,
        st.integers(MAX_BRACKETS - 3, MAX_BRACKETS + 3),
    )
    huge = st.integers(0, len(HUGE) - 1).map(HUGE.__getitem__)
    mutated = st.builds(
        lambda text, at, piece, cut: text[: at % (len(text) + 1)] + piece + text[at % (len(text) + 1) + cut :],
        texts,
        st.integers(0, 400),
        st.sampled_from(["", '"', "\\", "{", "}", "[", ",", "\\u0000", "\\ud83d", "\0", "\n", "NaN", "1e999999", "\u00e9", "\ufeff"]),
        st.integers(0, 3),
    )
    return texts | texts | mutated | repeated | nested | padded | huge | st.text(max_size=60)
