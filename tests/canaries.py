"""Made-up personal values that occur nowhere else, and the search for them in whatever form they could have left in."""

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# RFC 5737 and RFC 3849 keep these addresses for documentation.
IPV4 = "198.51.100.231"
IPV4_NETWORK = "198.51.100"
IPV6 = "2001:db8:ca1a:91e5::beef"
IPV6_SPELLED = "2001:0DB8:CA1A:91E5:0000:0000:0000:BEEF"
NO_ADDRESS = "canary.of.no.network"
DEVICE_ID = "canary-7f3a-9c51-device"
VALUES = (IPV4, IPV6, IPV6_SPELLED, NO_ADDRESS, DEVICE_ID)

LOGIN = {"user_id": "canary-user", "device_type": "android", "locale": "DE", "app_version": "2.3.0"}


def login(ip: str = IPV4, device_id: str = DEVICE_ID, **others: Any) -> str:
    """The body of one login."""
    return json.dumps(LOGIN | {"ip": ip, "device_id": device_id} | others)


def events() -> list[str]:
    """Bodies that carry the canaries: logins in every form of address, and messages that are rejected."""
    return [
        login(),
        login(ip=IPV6),
        login(ip=IPV6_SPELLED),
        login(ip=f"::ffff:{IPV4}"),
        login(ip=NO_ADDRESS),
        login(app_version=2.3),
        login()[:-1],
        f"login of {DEVICE_ID} from {IPV4}",
    ]


def forms(value: str) -> set[str]:
    """*value* as it is and as the usual non-masks leave it: in another case, backwards, encoded, hashed without a key."""
    raw = value.encode()
    digests = [hashlib.new(name, raw, usedforsecurity=False).hexdigest() for name in ("md5", "sha1", "sha256", "sha512")]
    return {
        value,
        value.lower(),
        value.upper(),
        value[::-1],
        raw.hex(),
        base64.b64encode(raw).decode().rstrip("="),
        *(digest[:32] for digest in digests),
    }


def key_forms(block: bytes) -> set[str]:
    """The beginning of a key's block as PostgreSQL prints bytes: in hex, in a plan tree, escaped, in base64."""
    start = block[:15]  # base64 of a multiple of three bytes is a prefix of the whole
    signed = " ".join(str(byte - 256 if byte > 127 else byte) for byte in start)
    escaped = "".join(chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in start)
    return {start.hex(), signed, escaped, base64.b64encode(start).decode()}


def keys_found_in(text: str, blocks: Iterable[bytes]) -> bool:
    """Whether a block of a key occurs in *text*, in any of its forms."""
    unwrapped = " ".join(text.split())  # plans are printed in short lines
    return any(form in unwrapped for block in blocks for form in key_forms(block))


def found_in(text: str, values: Iterable[str] = VALUES) -> set[str]:
    """Those of *values* that occur in *text*, in any of their forms."""
    return {value for value in values if any(form in text for form in forms(value))}


def found_under(folder: Path, values: Iterable[str] = VALUES) -> set[str]:
    """Those of *values* that occur in a file under *folder*."""
    wanted = list(values)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return set().union(*(found_in(path.read_bytes().decode(errors="replace"), wanted) for path in files))
