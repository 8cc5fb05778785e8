"""1,000 made-up login events, the same ones every time, that exercise what the pipeline is for.

- some 250 users on some 180 addresses and 140 devices, so that addresses and devices recur within and across users;
- IPv4 from 192.0.2.0/24, 198.51.100.0/24 and 203.0.113.0/24 (RFC 5737), IPv6 from 2001:db8::/32 (RFC 3849), each IPv6
  address in the several spellings that RFC 4291 section 2.2 allows, some IPv4 addresses also as IPv4-mapped IPv6;
- about a third of the locales null; app_versions of two and three parts;
- two logins whose ip is no address;
- twelve bodies that are no login, each malformed in a way of its own (MALFORMED).
"""

import ipaddress
import json
import random
import uuid
from collections.abc import Iterator

EVENTS = 1_000
SEED = 20_240_229
USERS = 260
IPV4_ADDRESSES = 130
IPV6_ADDRESSES = 60
DEVICES = 180
NULL_LOCALE_SHARE = 0.3
MAPPED_SHARE = 0.1
LOCALES = ("BR", "CN", "DE", "FR", "GB", "ID", "IN", "JP", "MX", "NG", "PH", "PL", "RU", "US")
APP_VERSIONS = ("2.0", "2.00", "2.3", "2.3.0", "2.10", "2.10.1", "0.26", "0.2.6", "1.9.12", "3.0", "3.0.0", "10.1")
NO_ADDRESSES = ("unknown", "203.0.113.999")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

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
    "an array": json.dumps([_LOGIN]),
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
    """The 1,000 bodies in their order."""
    chance = random.Random(SEED)  # noqa: S311  made-up events, no secrets
    users = [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(USERS)]
    addresses: list[Address] = [*_ipv4_addresses(chance), *_ipv6_addresses(chance)]
    # the real device ids look like social security numbers, and none of those begins with 000
    devices = [f"000-{chance.randrange(100):02}-{number:04}" for number in chance.sample(range(10_000), DEVICES)]
    # most logins come from the user's own address and device, the rest from other users'
    homes = {user: (chance.choice(addresses), chance.choice(devices), chance.choice(("android", "ios"))) for user in users}

    bodies = []
    for _ in range(EVENTS - len(MALFORMED) - len(NO_ADDRESSES)):
        user = chance.choice(users)
        address, device, device_type = homes[user]
        if chance.random() < 0.3:  # noqa: PLR2004  the share of logins away from home
            address = chance.choice(addresses)
        bodies.append(_body(chance, user, _spelling(chance, address), device, device_type))
    bodies += [_body(chance, users[0], no_address, devices[0], "android") for no_address in NO_ADDRESSES]
    bodies += MALFORMED.values()
    chance.shuffle(bodies)
    yield from bodies


def _ipv4_addresses(chance: random.Random) -> list[ipaddress.IPv4Address]:
    networks = [ipaddress.IPv4Network(network) for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]
    return chance.sample([address for network in networks for address in network.hosts()], IPV4_ADDRESSES)


def _ipv6_addresses(chance: random.Random) -> list[ipaddress.IPv6Address]:
    # short ones, because spellings differ in their zeros
    return [ipaddress.IPv6Address(f"2001:db8:{chance.randrange(16):x}::{number:x}") for number in range(1, IPV6_ADDRESSES + 1)]


def _spelling(chance: random.Random, address: Address) -> str:
    """One of the ways to write *address*."""
    if isinstance(address, ipaddress.IPv4Address):
        return f"::ffff:{address}" if chance.random() < MAPPED_SHARE else str(address)
    without_leading_zeros = ":".join(f"{int(group, 16):x}" for group in address.exploded.split(":"))
    return chance.choice((str(address), str(address).upper(), address.exploded, without_leading_zeros))


def _body(chance: random.Random, user: str, ip: str, device: str, device_type: str) -> str:
    return json.dumps(
        {
            "user_id": user,
            "app_version": chance.choice(APP_VERSIONS),
            "device_type": device_type,
            "ip": ip,
            "locale": None if chance.random() < NULL_LOCALE_SHARE else chance.choice(LOCALES),
            "device_id": device,
        }
    )
