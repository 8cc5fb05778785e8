"""Whatever a body holds: its message ends once, masked or rejected for the right reason, and no log or artefact has its content."""

import ipaddress
import json
import os
import random
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import pytest

from loader.landing import storable
from sandbox.postgres import Postgres
from tests.judging.conftest import Warehouse
from tests.support import copied, dbt

GENERATED = 20_000 if os.environ.get("FAULTS") == "full" else 1_500
MAX_BRACKETS = 8192  # a body with more is read only if it is no longer than that
NUMERIC_DIGITS = 131_072  # before the point; PostgreSQL's manual, table 8.2
LIMITS = {"app_version": 32, "device_id": 256, "device_type": 32, "ip": 256, "locale": 32, "user_id": 128}  # in the order of reasons
BLANKS = " \t\n\v\f\r\u00a0\u3000\u200b\ufeff"
# No unit test has these, so an artefact that holds one has it from a message.
IP, DEVICE = "203.0.113.77", "planted-device-7f3a"
PLANTED = (IP, DEVICE, "203.0.113.", "2001:db8:bad:")
LOGIN: dict[str, Any] = {"user_id": "u1", "app_version": "2.3.0", "device_type": "ios", "ip": IP, "locale": "US", "device_id": DEVICE}
REFUSED = "refused"


def login(**changes: Any) -> str:
    """A good login but for *changes*; without the fields that are to be `...`."""
    return json.dumps({name: value for name, value in (LOGIN | changes).items() if value is not ...})


def raw(old: str, new: str) -> str:
    """A good login's JSON with *old*, which it has, replaced."""
    assert old in login()
    return login().replace(old, new)


NOT_JSON = [
    "",
    f"login from {IP}",
    login()[:-9],
    login() + login(),
    login()[:-1] + ",}",
    "\ufeff" + login(),
    raw('"u1"', "NaN"),
    raw('"u1"', "1e1000000"),
    login(ip=f"{IP}\0"),
    login(**{"x\0": 1}),
    raw('"ip": ', '"ip": "\\u0000", "ip": '),
    "\0" + login(),
    login(device_id=f"{DEVICE}\ud800"),
    login() + "\ud800",
    raw("u1", "u\x01"),
    "\\x7b7d",
    "'; drop table staging.raw_logins; --",
    "{{ env_var('TRANSFORMER_PASSWORD') }}",
    "{% raw %}",
    "%s %(ip)s {0} ${ip}",
    "[" * (MAX_BRACKETS + 1) + "]" * (MAX_BRACKETS + 1),
    "[" * 100_000,
    '{"ip":' * 100_000 + "1" + "}" * 100_000,
]
NO_OBJECT = [f"[{login()}]", "[]", json.dumps(IP), json.dumps(login()), "1", "null", "[" * MAX_BRACKETS + "]" * MAX_BRACKETS]
LEFT_IN_S3 = [
    json.dumps([f"{package}.{name}S3Pointer", {"s3BucketName": "a", "s3Key": "b"}])
    for package, name in (("software.amazon.payloadoffloading", "Payload"), ("com.amazon.sqs.javamessaging", "Message"))
]
EMPTY = ["{}", '{"foo": "wrong_message_type"}', json.dumps({"login": LOGIN}), json.dumps({key.upper(): LOGIN[key] for key in LOGIN})]
ACCEPTED = [
    login(),
    login() + " " * (1 << 20),
    login(x="\u20ac" * 350_000, nested={"ip": "x"}),
    login()[:-1] + f', "x": 1e400, "y": {"9" * 4000}}}',
    "\r\n\t " + login() + "\n",
    raw('"ip": ', '"ip": 7, "ip": '),
    raw('"ios"', '"' + "".join(f"\\u{ord(letter):04x}" for letter in "ios") + '"'),
    login(user_id="'; drop table marts.user_logins; --", locale="%s%(x)s"),
    login(user_id="\u202eresu", device_id="{{ target.password }}{% endraw %}"),
    login(user_id="e\u0301\u0001\u007f", device_id=f"\\x41\\000'{DEVICE}\n"),
    *(login(app_version=version) for version in ("two", "99999999999999999999.1", "...", "\uff12.\uff13", "-1.0")),
]
BROKEN = {
    login(locale="x" * (1 << 20)): ["locale_too_long"],
    raw('"ip"', '"\u0456p"'): ["ip_missing"],
    login()[:-1] + ', "ip": null}': ["ip_missing"],
    login(user_id=1, ip=None, locale=""): ["ip_missing", "locale_empty", "user_id_not_text"],
    json.dumps(dict.fromkeys(LIMITS, 0)): [f"{name}_not_text" for name in LIMITS],
}
# What a field holds, and the rule that it breaks.
VALUES = [
    (..., "missing"),
    (None, "missing"),
    *((value, "not_text") for value in (1, False, ["x"], {"is": "x"})),
    ("", "empty"),
    (BLANKS, "empty"),
]
# Why each body is rejected; a login is not.
CORPUS: dict[str, list[str]] = (
    {key: ["body_not_json"] for key in NOT_JSON}
    | {key: ["body_not_an_object"] for key in NO_OBJECT}
    | {key: ["body_in_s3"] for key in LEFT_IN_S3}
    | {key: [f"{name}_missing" for name in LIMITS if name != "locale"] for key in EMPTY}
    | {key: [] for key in ACCEPTED}
    | BROKEN
    | {login(**{name: value}): [f"{name}_{rule}"] for name in LIMITS for value, rule in VALUES if (name, rule) != ("locale", "missing")}
    | {login(**{name: "\U0001f600" * (limit + 1)}): [f"{name}_too_long"] for name, limit in LIMITS.items()}
    | {login(**{name: "\U0001f600" * limit}): [] for name, limit in LIMITS.items()}
    | {login(locale=...): [], login(locale=None): []}
)
PIECES = ["", '"', "\\", "{", "}", "[", ",", "\\u0000", "\\ud83d", "\0", "\n", "NaN", "1e999999", "\u00e9", "\ufeff"]
ODD_VALUES = [None, True, 7, 1.5, [], ["x"], {}, {"is": "x"}, "", "\\x41", "\ud800", "a\0b", "\ufeff", "{% raw %}"]
ODD_ADDRESSES = [
    "{}:443",
    "{}/24",
    "0{}",
    "{}%eth0",
    "::ffff:{}",
    "::FFFF:{}",
    "::ffff:0{}",
    " {}\n",
    "{}.",
    "{}, {}",
    "2001:db8::{}",
    "{}\u200b",
]


def generated(chance: random.Random) -> str:
    """A login with an address spelled oddly, a field that is odd or missing, a key twice, text put in or cut out, or too much around it."""
    address = f"203.0.113.{chance.randrange(256)}"
    ip = chance.choice(
        [f"2001:db8:bad::{chance.randrange(1 << 16):x}", address, *(form.format(address, address) for form in ODD_ADDRESSES)]
    )
    event = LOGIN | {"ip": ip, "device_id": f"{DEVICE}-{chance.randrange(1000)}"}
    name, other = chance.choice(list(LIMITS)), chance.choice(list(LIMITS))
    size = chance.randint(-1, 1)
    odd = chance.choice([*ODD_VALUES, "x" * (LIMITS[name] + size), chance.choice(BLANKS), f"{chance.choice(BLANKS)}x"])
    if chance.random() < 0.5:
        event[name] = odd
    if chance.random() < 0.1:
        del event[other]
    body = json.dumps(event, ensure_ascii=chance.random() < 0.5)
    if chance.random() < 0.1:
        body = f"{body[:-1]}, {json.dumps(other)}: {json.dumps(odd)}}}"
    if chance.random() < 0.3:
        at = chance.randrange(len(body))
        body = body[:at] + chance.choice(PIECES) + body[at + chance.randrange(4) :]
    if chance.random() < 0.1:
        opened, closed = chance.choice(["[]", "[}", ('{"ip":', "}")])
        body = opened * chance.randrange(200) + body + closed * chance.randrange(200)
    if chance.random() < 0.1:
        body += " " * (MAX_BRACKETS + size - len(body.encode(errors="surrogatepass")))
    return body


def judge(body: str) -> list[str]:
    """Why *body* is rejected: written anew, to disagree with the SQL where that is wrong."""
    stored = storable(body)
    if len(stored.encode()) > MAX_BRACKETS and sum(map(stored.count, "[{")) > MAX_BRACKETS:
        return ["body_not_json"]
    try:
        event = json.loads(stored, object_pairs_hook=_object, parse_constant=_refuse, parse_int=lambda _: 0, parse_float=_number)
        _require_text([event])
    except (ValueError, RecursionError, InvalidOperation):
        return ["body_not_json"]
    if not isinstance(event, dict):
        return ["body_not_an_object"]
    return [reason for name, limit in LIMITS.items() if (reason := _broken_rule(event, name, limit))]


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


def is_address(body: str) -> bool:
    """Whether *body*, a login's, has one whole address as its ip: no port, no zone, no network, no leading zeros."""
    ip = json.loads(body)["ip"].strip(" \t\r\n")
    try:
        ipaddress.ip_address(ip)
    except ValueError:
        return False
    return "%" not in ip


@pytest.fixture(scope="module")
def bodies() -> dict[str, str]:
    chance = random.Random(20_240_229)  # noqa: S311  # made-up messages, the same ones every time
    made = [*CORPUS, *(generated(chance) for _ in range(GENERATED))]
    chance.shuffle(made)
    return {f"m{number}": body for number, body in enumerate(made)}


@pytest.fixture(scope="module")
def poisoned(
    postgres_server: Postgres, passwords: Mapping[str, str], template: str, tmp_path_factory: pytest.TempPathFactory, bodies: dict[str, str]
) -> Iterator[Warehouse]:
    """All bodies landed, judged and tested by dbt as a person calls it."""
    with copied(postgres_server, passwords, "poisoned", template) as database:
        warehouse = Warehouse(database, tmp_path_factory.mktemp("poisoned"))
        warehouse.land(bodies)
        warehouse.dbt("run")
        # many are rejected, and some have fields that no policy names: that is what they are for
        warehouse.dbt("test", "--exclude", "assert_few_messages_are_rejected", "assert_every_field_has_a_masking_policy")
        warehouse.dbt("docs", "generate")
        yield warehouse


def holding(folder: Path) -> list[str]:
    """The files under *folder* that hold a planted value."""
    contents = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [name for name, content in contents.items() if any(value.encode() in content for value in PLANTED)]


def test_every_body_ends_once_masked_or_rejected_as_it_must(poisoned: Warehouse, bodies: dict[str, str]) -> None:
    valid = dict(poisoned.database.rows("select message_id, ip_is_valid from marts.user_logins"))
    rejected = poisoned.reasons()
    wrong = {}
    for message_id, body in bodies.items():
        found = (rejected.get(message_id), valid.get(message_id))
        reasons = CORPUS[body] if body in CORPUS else judge(body)
        expected = (reasons, None) if reasons else (None, is_address(storable(body)))
        if found != expected:
            wrong[body[:200]] = (found, expected)
    assert wrong == {}
    masked, rejections, waiting = poisoned.places()
    assert (sorted([*masked, *rejections]), waiting) == (sorted(bodies), [])
    # the bodies try every rule, and are not all bad
    assert {reason for reasons in rejected.values() for reason in reasons} >= {reason for reasons in CORPUS.values() for reason in reasons}
    assert list(valid.values()).count(True) > GENERATED / 10 < 2 * list(valid.values()).count(False)


def test_no_log_and_no_artefact_holds_a_value_not_even_of_a_row_that_the_database_refuses(poisoned: Warehouse, tmp_path: Path) -> None:
    assert (poisoned.target / "catalog.json").exists()
    assert (poisoned.target / "run_results.json").exists()
    assert (poisoned.directory / "dbt" / "logs" / "dbt.log").stat().st_size > 10_000
    poisoned.execute("alter table marts.user_logins add constraint refusing check (user_id <> 'refused')")
    poisoned.land({"refused": login(user_id="refused")})
    try:
        assert "DETAIL:  Failing row contains (refused, ios, v1:" in poisoned.dbt("run", code=1)
    finally:
        poisoned.execute("alter table marts.user_logins drop constraint refusing", "delete from staging.unjudged")
    assert holding(poisoned.directory) == []
    # the control: somebody prints one
    shown = "select body::jsonb ->> 'ip' as ip from staging.raw_logins where message_id = 'refused'"
    dbt(poisoned.database, ["show", "--inline", shown], tmp_path)
    assert "output" in holding(tmp_path)
