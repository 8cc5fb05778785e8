"""Whatever a body holds: its message ends once, masked or rejected for the right reason, and no log or artefact has its content."""

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sandbox.postgres import Postgres
from tests.judging.conftest import Warehouse
from tests.judging.test_envelopes import base64_text, cloudevents, eventbridge, gzip_text, sns
from tests.support import copied, dbt

GENERATED = 20_000 if os.environ.get("FAULTS") == "full" else 1_000
MAX_BRACKETS = 8192  # a body with more brackets is read only if it is no longer than that
LIMITS = {"app_version": 32, "device_id": 256, "device_type": 32, "ip": 256, "locale": 32, "user_id": 128}  # in the order of reasons
# No unit test has these, so an artefact that holds one has it from a message.
IP, DEVICE = "203.0.113.77", "planted-device-7f3a"
PLANTED = (IP, DEVICE, "203.0.113.", "2001:db8:bad:")
LOGIN: dict[str, Any] = {"user_id": "u1", "app_version": "2.3.0", "device_type": "ios", "ip": IP, "locale": "US", "device_id": DEVICE}


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
    "\ufeff" + login(),
    raw('"u1"', "NaN"),
    raw('"u1"', "1e1000000"),
    login(ip=f"{IP}\0"),
    login(**{"x\0": 1}),
    raw('"ip": ', '"ip": "\\u0000", "ip": '),
    "\0" + login(),
    login(device_id=f"{DEVICE}\ud800"),
    login() + "\ud800",
    "\\x7b7d",
    "'; drop table staging.raw_logins; -- {{ env_var('TRANSFORMER_PASSWORD') }} {% raw %} %s %(ip)s {0} ${ip}",
    "[" * (MAX_BRACKETS + 1) + "]" * (MAX_BRACKETS + 1),
    "[" * 100_000,
    json.dumps(IP),
    '{"ip":' * 100_000 + "1" + "}" * 100_000,
]
NO_OBJECT = ["1", "null", json.dumps("1")]
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
    json.dumps(login()),
    raw('"ip": ', '"ip": 7, "ip": '),
    raw('"ios"', '"' + "".join(f"\\u{ord(letter):04x}" for letter in "ios") + '"'),
    login(user_id="'; drop table marts.user_logins; --\u202e", locale="%s%(x)s", device_type="{{ target }}{% endraw %}"),
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
VALUES: list[tuple[Any, str]] = [
    *((value, "missing") for value in (..., None)),
    *((value, "not_text") for value in (1, 1.5, False, [], ["x"], {}, {"is": "x"})),
    *((value, "empty") for value in ("", " ", " \t\n\v\f\r\u00a0\u3000\u200b\ufeff")),
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
Bodies = dict[str, tuple[str, list[str] | None]]  # by message id: what is sent, and why it is rejected, None where it may end in any way
Sent = dict[str, tuple[str, Bodies]]  # by message id: what is sent, and the messages that come of it
PIECES = ["", '"', "\\", "{", "}", "[", ",", "\\u0000", "\\ud83d", "\0", "\n", "NaN", "1e999999", "\u00e9", "\ufeff"]


def generated(chance: random.Random) -> tuple[str, list[str] | None]:
    """A login of which some fields are wrong, written in one of the ways that JSON allows, and why it is rejected.

    Or one with text put in or cut out anywhere, which may end in any way.
    """
    event, reasons = dict(LOGIN), []
    for name, limit in LIMITS.items():
        if chance.random() < 0.15:
            event[name], rule = chance.choice([*VALUES, ("\u20ac" * limit, ""), ("\u20ac" * (limit + 1), "too_long")])
            reasons += [f"{name}_{rule}"] if rule and (name, rule) != ("locale", "missing") else []
    fields = [(name, value) for name, value in event.items() if value is not ...]
    chance.shuffle(fields)
    text = json.dumps(dict(fields), ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 1]))
    if chance.random() < 0.2:  # the last of two counts
        text = f'{{"{chance.choice(fields)[0]}": {chance.choice(["7", "{}", "null"])}, {text[1:]}'
    if chance.random() < 0.3:
        at = chance.randrange(len(text))
        return text[:at] + chance.choice(PIECES) + text[at + chance.randrange(4) :], None
    return text, reasons


NOTICED = ("assert_few_messages_are_rejected", "assert_every_field_has_a_masking_policy", "assert_no_producer_fails")


def enveloped(text: str, chance: random.Random, *, is_json: bool) -> str:
    """*text* in up to three envelopes. Base64 is opened where JSON is in it, and no further base64."""
    for _ in range(chance.choice([0, 0, 0, 1, 1, 2, 3])):
        packing = [base64_text, gzip_text] if text.lstrip().startswith(("{", "[", '"')) else []
        wraps: list[Callable[[str], str]] = [sns, json.dumps, *packing, *([eventbridge, cloudevents] if is_json else [])]
        text = chance.choice(wraps)(text)
        is_json = text.startswith(("{", '"'))
    return text


@pytest.fixture(scope="module")
def sent() -> Sent:
    """What is sent as one message, by its id, and the messages that come of it."""
    chance = random.Random(20_240_229)  # noqa: S311  # made-up messages, the same ones every time
    made = [*CORPUS.items(), *(generated(chance) for _ in range(GENERATED))]
    chance.shuffle(made)
    messages: Sent = {}
    while made:
        name, body = f"m{len(messages)}", made.pop()
        if body[0] not in CORPUS and body[1] is not None and chance.random() < 0.2:
            parts = [body, *(made.pop() for _ in range(min(chance.randrange(4), len(made))))]
            parts = [(text, reasons) for text, reasons in parts if text not in CORPUS and reasons is not None]
            batch = f"[{', '.join(text for text, _ in parts)}]"
            messages[name] = enveloped(batch, chance, is_json=True), {f"{name}#{place}": part for place, part in enumerate(parts, 1)}
        else:
            is_plain = body[0] in CORPUS
            text = body[0] if is_plain else enveloped(body[0], chance, is_json=body[1] is not None)
            messages[name] = text, {name: body}
    return messages


@pytest.fixture(scope="module")
def bodies(sent: Sent) -> Bodies:
    return {name: body for _, messages in sent.values() for name, body in messages.items()}


@pytest.fixture(scope="module")
def poisoned(
    postgres_server: Postgres,
    passwords: Mapping[str, str],
    template: str,
    tmp_path_factory: pytest.TempPathFactory,
    sent: dict[str, tuple[str, Bodies]],
) -> Iterator[Warehouse]:
    """All bodies landed, judged and tested by dbt as a person calls it."""
    with copied(postgres_server, passwords, "poisoned", template) as database:
        warehouse = Warehouse(database, tmp_path_factory.mktemp("poisoned"))
        warehouse.land({message_id: text for message_id, (text, _) in sent.items()})
        warehouse.dbt("run")
        # many are rejected, and some have fields that no policy names: that is what they are for
        warehouse.dbt("test", "--exclude", *NOTICED)
        warehouse.dbt("test", "--select", *NOTICED, code=1)
        assert warehouse.results() == dict.fromkeys(NOTICED, "fail")
        warehouse.dbt("docs", "generate")
        yield warehouse


def holding(folder: Path) -> list[str]:
    """The files under *folder* that hold a planted value."""
    contents = [(path.name, path.read_bytes()) for path in folder.rglob("*") if path.is_file()]
    return [name for name, content in contents if any(value.encode() in content for value in PLANTED)]


def test_every_body_ends_once_masked_or_rejected_as_it_must(poisoned: Warehouse, bodies: Bodies) -> None:
    rejected = poisoned.reasons()
    found = {message_id: rejected.get(message_id, []) for message_id in bodies}
    assert {text[:200]: found[key] for key, (text, reasons) in bodies.items() if reasons is not None and reasons != found[key]} == {}
    masked, rejections, waiting = poisoned.places()
    assert (sorted([*masked, *rejections]), waiting) == (sorted(bodies), [])


def test_no_log_and_no_artefact_holds_a_value_not_even_of_a_row_that_the_database_refuses(poisoned: Warehouse, tmp_path: Path) -> None:
    assert (poisoned.target / "catalog.json").exists()
    assert (poisoned.target / "run_results.json").exists()
    assert (poisoned.directory / "dbt" / "logs" / "dbt.log").stat().st_size > 10_000
    poisoned.database.execute("alter table marts.user_logins add constraint refusing check (user_id <> 'refused')")
    poisoned.land({"refused": login(user_id="refused")})
    try:
        assert "DETAIL:  Failing row contains (refused, ios, v1:" in poisoned.dbt("run", code=1)
    finally:
        poisoned.database.execute("alter table marts.user_logins drop constraint refusing", "delete from staging.unjudged")
    assert holding(poisoned.directory) == []
    # the control: somebody prints one
    shown = "select body::jsonb ->> 'ip' as ip from staging.raw_logins where message_id = 'refused'"
    dbt(poisoned.database, ["show", "--inline", shown], tmp_path)
    assert "output" in holding(tmp_path)
