"""1,000 made-up login events of the last four weeks, the same ones every time, that exercise what the pipeline is for.

- some 260 users, most on an address and a device of their own; addresses and devices recur within and across users;
- IPv4 from 192.0.2.0/24, 198.51.100.0/24 and 203.0.113.0/24 (RFC 5737), IPv6 from 2001:db8::/32 (RFC 3849), each IPv6
  address in the several spellings that RFC 4291 section 2.2 allows, some IPv4 addresses also as IPv4-mapped IPv6;
- shared devices: five tablets that six users each log in on;
- travellers: each of eight users logs in from four networks within an hour;
- bursts: from one address and device forty users within four minutes, and one user thirty times within two;
- roll-outs: a version is released each week and takes a week to reach most logins; old ones of two and three parts remain;
- about a third of the locales null; two logins whose ip is no address;
- twelve bodies that are no login, each malformed in a way of its own (MALFORMED).
"""

import datetime as dt
import ipaddress
import json
import random
import uuid
from collections.abc import Iterator

EVENTS = 1_000
SEED = 20_240_229
DAY = 24 * 60 * 60  # all times are seconds
SPAN = 28 * DAY
RELEASES = {28 * DAY: "2.3.0", 21 * DAY: "2.10", 14 * DAY: "2.10.1", 7 * DAY: "3.0"}  # by their age
OLD_VERSIONS = ("2.0", "2.00", "2.3", "0.26", "0.2.6", "1.9.12", "2.3.0")
LOCALES = {"US": 8, "DE": 5, "BR": 4, "IN": 4, "FR": 2, "GB": 2, "JP": 1, "MX": 1, "NG": 1, "PH": 1, "PL": 1}  # by their weight
NULL_LOCALE_SHARE, OLD_VERSION_SHARE, AWAY_SHARE, MAPPED_SHARE = 0.3, 0.25, 0.3, 0.1
NO_ADDRESSES = ("unknown", "203.0.113.999")

_LOGIN = {
    "user_id": "00000000-0000-4000-8000-000000000000",
    "app_version": "2.3.0",
    "device_type": "ios",
    "ip": "192.0.2.1",
    "locale": None,
    "device_id": "000-00-0000",
}

MALFORMED = {
    "no JSON": "login from 192.0.2.1",
    "JSON cut off": json.dumps(_LOGIN)[:-9],
    "an empty batch": "[]",
    "a string": json.dumps("login"),
    "another type of message": '{"foo": "wrong_message_type", "bar": "123"}',
    "no device_id": json.dumps({name: value for name, value in _LOGIN.items() if name != "device_id"}),
    "a null ip": json.dumps(_LOGIN | {"ip": None}),
    "a blank user_id": json.dumps(_LOGIN | {"user_id": "  "}),
    "an app_version that is a number": json.dumps(_LOGIN | {"app_version": 2.3}),
    "a device_type too long for its column": json.dumps(_LOGIN | {"device_type": "tablet" * 20}),
    "U+0000, which JSON allows and PostgreSQL cannot store": json.dumps(_LOGIN | {"device_id": "000\0"}),
    "nested deeper than a parser's stack": "[" * 20_000 + "]" * 20_000,
}


def sample_events() -> Iterator[str]:
    """The 1,000 bodies, the oldest first."""
    return (body for _, body in aged_sample_events())


def aged_sample_events() -> list[tuple[dt.timedelta, str]]:
    """The 1,000 bodies, each with how long ago it was sent, the oldest first."""
    chance = random.Random(SEED)  # noqa: S311  made-up events, no secrets
    users = [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(260)]
    networks = [ipaddress.ip_network(network) for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]
    addresses = chance.sample([str(address) for network in networks for address in network.hosts()], 130)
    addresses += [f"2001:db8:{chance.randrange(16):x}::{number:x}" for number in range(1, 61)]
    # the real ones have three digits, two and four, and none of those begins with 000
    devices = [f"000-{chance.randrange(100):02}-{number:04}" for number in chance.sample(range(10_000), 230)]
    locales = chance.choices([*LOCALES], [*LOCALES.values()], k=len(users))
    # user, address, device, kind of device and locale, where most of a user's logins come from
    homes = [
        (user, chance.choice(addresses), device, chance.choice(("android", "ios")))
        for user, device in zip(users, 2 * devices, strict=False)
    ]
    found: list[tuple[float, str]] = [(SPAN * (number + 1) / 14, body) for number, body in enumerate(MALFORMED.values())]

    def login(age: float, user: int, **other: str) -> None:
        user_id, address, device, device_type = homes[user]
        event = {"user_id": user_id, "app_version": _version(chance, age), "device_type": device_type, "ip": address}
        event |= {"locale": locales[user], "device_id": device, **other}
        event |= {"locale": None} if chance.random() < NULL_LOCALE_SHARE else {}  # type: ignore[dict-item]
        event["ip"] = _spelling(chance, event["ip"])
        found.append((age, json.dumps(event)))

    for no_address in NO_ADDRESSES:
        login(9 * DAY, 0, ip=no_address)
    for tablet in range(5):
        for turn in range(24):
            login(SPAN * chance.random(), 6 * tablet + turn % 6, device_id=devices[-1 - tablet], device_type="tablet")
    for user in range(100, 108):
        for stop, address in enumerate(("192.0.2.200", "198.51.100.200", "203.0.113.200", "2001:db8:f::200")):
            login((user - 97) * 2 * DAY - 900 * stop, user, ip=address)
    for attempt in range(40):
        login(6 * DAY - 6 * attempt, 110 + attempt, ip="203.0.113.66", device_id=devices[0], device_type="android")
    for attempt in range(30):
        login(3 * DAY - 4 * attempt, 99)
    while len(found) < EVENTS:
        away = {"ip": chance.choice(addresses)} if chance.random() < AWAY_SHARE else {}
        login(SPAN * chance.random() ** 1.2, chance.randrange(len(users)), **away)  # more and more users
    return [(dt.timedelta(seconds=round(age)), body) for age, body in sorted(found, key=lambda each: -each[0])]


def _version(chance: random.Random, age: float) -> str:
    """What a login *age* seconds ago came with: the latest version in part, the one before it in the rest, or an old one."""
    if chance.random() < OLD_VERSION_SHARE:
        return chance.choice(OLD_VERSIONS)
    released = [(at, version) for at, version in RELEASES.items() if at >= age]
    since, latest = released[-1]
    before = released[-2][1] if len(released) > 1 else OLD_VERSIONS[0]
    return latest if chance.random() < (since - age) / (7 * DAY) + 0.1 else before


def _spelling(chance: random.Random, ip: str) -> str:
    """One of the ways to write the address *ip*; what is no address stays as it is."""
    if ip in NO_ADDRESSES:
        return ip
    address = ipaddress.ip_address(ip)
    if isinstance(address, ipaddress.IPv4Address):
        return f"::ffff:{address}" if chance.random() < MAPPED_SHARE else ip
    without_leading_zeros = ":".join(f"{int(group, 16):x}" for group in address.exploded.split(":"))
    return chance.choice((ip, ip.upper(), address.exploded, without_leading_zeros))
