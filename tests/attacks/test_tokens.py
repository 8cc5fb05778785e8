"""Tokens are HMAC-SHA-256 and nothing weaker: published vectors, one token per value."""

import ipaddress
import random
from hashlib import sha256

import pytest

from tests import canaries, support
from tests.attacks.conftest import as_transformer
from tests.support import Database

# RFC 4231, section 4, by the number of the case: key, data, HMAC-SHA-256. The fifth is published cut to 128 bits, as our tokens are.
RFC_4231 = {
    1: ("0b" * 20, b"Hi There".hex(), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    2: (b"Jefe".hex(), b"what do ya want for nothing?".hex(), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    3: ("aa" * 20, "dd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    4: (bytes(range(1, 26)).hex(), "cd" * 50, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
    5: ("0c" * 20, b"Test With Truncation".hex(), "a3b6167473100ee06e0c796c2955552b"),
    6: (
        "aa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First".hex(),
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
    7: (
        "aa" * 131,
        (
            b"This is a test using a larger than block-size key and a larger than block-size data. "
            b"The key needs to be hashed before being used by the HMAC algorithm."
        ).hex(),
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
    ),
}
NO_ADDRESSES = [
    *("", "unknown", "192.0.2", "192.0.2.256", "192.0.2.01", "192.000.2.1", "192.0.2.0/24", "192.0.2.1:80", "192.0.2.1.", "192.0.2.1.1"),
    *("3221225985", "0xc0.0.2.1", "192.0.2.1, 192.0.2.2", "192.0.2.1\u200b", "\uff11\uff19\uff12.0.2.1", "192\u30020\u30022\u30021"),
    *("fe80::1%eth0", "::ffff:192.0.2.01", "1::2::3", "[2001:db8::1]", "[2001:db8::1]:443"),
]
UUID = "0190e5c8-7b3a-7c1d-9f2e-00000000abcd"
# By kind: spellings, and the canonical form of each.
SPELLINGS: dict[str, dict[str, str | None]] = {
    "device_id": {
        **dict.fromkeys([UUID, UUID.upper(), f" {UUID}\n", f"\u200b{UUID.upper()}\u00a0"], UUID),
        " Serial 7B\t": "Serial 7B",
        **{text: text for text in ("593-47-5928", "ABCDEF", UUID.upper().replace("-", ""), f"{{{UUID.upper()}}}", UUID.upper()[:-1])},
        # as long as a UUID and with its hyphens
        UUID.upper().replace("A", "G"): UUID.upper().replace("A", "G"),
    },
    "email": {
        **dict.fromkeys(["Some.Body+news@example.com", " Some.Body+news@EXAMPLE.Com\n"], "Some.Body+news@example.com"),
        "SOME.BODY+NEWS@example.com": "SOME.BODY+NEWS@example.com",  # the local part is its host's to read (RFC 5321, section 2.4)
        "o'neil_{x}/y=z@a-b.c1.example": "o'neil_{x}/y=z@a-b.c1.example",
        "x@XN--80AK6AA92E.example": "x@xn--80ak6aa92e.example",
        f"{'a' * 64}@example.com": f"{'a' * 64}@example.com",
        **dict.fromkeys(["", "unknown", "@example.com", "a@", "a@localhost", "a@@example.com", "a@b@example.com", "a b@example.com"]),
        **dict.fromkeys([".a@example.com", "a.@example.com", "a..b@example.com", "a@.example.com", "a@example.com.", "a@example..com"]),
        **dict.fromkeys(["a@-b.example", "a@b-.example", "a@b_c.example", "a@192.0.2.1", "a@[192.0.2.1]", '"a b"@example.com']),
        **dict.fromkeys(
            [f"{'a' * 65}@example.com", f"a@{'b.' * 126}example", "<a@example.com>", "mailto:a@example.com", "a@example.com, b@example.com"]
        ),
    },
    "phone": {
        **dict.fromkeys(["+12025550100", "+1 202 555 0100", "+1 (202) 555-0100", "+1.202.555.0100", "tel:+1-202-555-0100"], "+12025550100"),
        **dict.fromkeys([" TEL:001/202/555 0100\n", "+1\u00a0202\u2011555\u20130100", "00 1 [202] 5550100"], "+12025550100"),
        **dict.fromkeys(["+44 (0)20 7946 0018", "+44 20 7946 0018"], "+442079460018"),
        "+1 555 0100": "+15550100",
        "+123456789012345": "+123456789012345",
        "+1234567": "+1234567",
        **dict.fromkeys(["", "2025550100", "(202) 555-0100", "020 7946 0018", "+123456", "+1234567890123456", "+0442079460018"]),
        **dict.fromkeys(
            [
                "+1 202 555 0100 x2",
                "+1 202 555 0100;ext=2",
                "++12025550100",
                "+1 202 CALL NOW",
                "+\u0661\u0662\u0663\u0664\u0665\u0666\u0667",
                "tel:",
            ]
        ),
    },
    "name": {
        **dict.fromkeys(["ada lovelace", " Ada\t LOVELACE\n", "Ada\u00a0Lovelace", "\u200b\uff21da\u3000Lovelace"], "ada lovelace"),
        **dict.fromkeys(["\u00c9lo\u00efse", "E\u0301LOI\u0308SE"], "\u00e9lo\u00efse"),
        "": "",
    },
    "as_sent": {text: text for text in ("", " Ada\u00a0", "\\x41", UUID.upper())},
}
ODD = ["\\", "%", "\ud7ff\ue000", "\U0001f469\u200d\U0001f680", "\u0130I\u0131", "a" * 10_000, "+" * 500, "@." * 500, "\u0301" * 500]


@pytest.mark.parametrize("case", RFC_4231)
def test_hmac_of_rfc_4231(masked_for_all: Database, case: int) -> None:
    key, data, digest = RFC_4231[case]
    blocks = ", ".join(f"masking.hmac_block('\\x{key}', {pad})" for pad in (0x36, 0x5C))
    found = masked_for_all.value(f"select encode(masking.hmac_sha256({blocks}, '\\x{data}'), 'hex')")
    assert found[: len(digest)] == digest


def test_a_value_is_masked_in_its_canonical_form_by_the_key_of_its_domain(masked: Database) -> None:
    """The tokens are computed anew here, from the keys and RFC 2104. Each ip is sent as the device id as well."""
    forms: dict[str, tuple[str, str, str | None]] = {
        "192.0.2.1": ("ip", "192.0.2.1", "192.0.2.0/24"),
        "::ffff:192.0.2.1": ("ip", "192.0.2.1", "192.0.2.0/24"),
        "2001:0DB8:0000::0001": ("ip", "2001:db8::1", "2001:db8::/48"),
        "192.0.2.01": ("invalid_ip", "192.0.2.01", None),
        "\\x41": ("invalid_ip", "\\x41", None),  # the letter A, were it read as an escape
    }
    support.land(masked, [canaries.login(ip=ip, device_id=ip) for ip in forms])
    keys = {row[0]: row[1:] for row in masked.rows("select domain, inner_block, outer_block from masking.keys")}
    # RFC 2104, section 2: one key under both pads
    assert all(bytes(byte ^ 0x36 ^ 0x5C for byte in inner) == outer for inner, outer in keys.values())

    def token(domain: str, value: str | None) -> str | None:
        inner, outer = keys[domain]
        return value and f"v1:{sha256(outer + sha256(inner + value.encode()).digest()).hexdigest()[:32]}"

    found = masked.rows("select masked_ip, masked_network, masked_device_id from staging.unjudged_logins", "transformer")

    assert sorted(found, key=str) == sorted(
        [(token(domain, form), token("network", network), token("device_id", ip)) for ip, (domain, form, network) in forms.items()], key=str
    )
    assert len({token(domain, "192.0.2.1") for domain in keys}) == len(keys)


def test_an_address_has_one_spelling_however_it_is_sent_and_it_is_its_own(masked_for_all: Database) -> None:
    chance = random.Random(4_291)  # noqa: S311  # made-up addresses, no secrets
    groups = [[chance.choice((0, 0, 0, 1, 0xFFFF, chance.getrandbits(16))) for _ in range(8)] for _ in range(5_000)]
    addresses = [ipaddress.IPv6Address(":".join(f"{group:x}" for group in address)) for address in groups]
    spelled = {spelling: address for address in addresses for spelling in (str(address), f" {address.exploded.upper()}\n")}
    one, mapped = ipaddress.IPv6Address("2001:db8::1"), ipaddress.IPv6Address("::ffff:192.0.2.1")
    spelled |= dict.fromkeys(["2001:db8:0:0:0:0:0:1", "2001:db8::0.0.0.1"], one)
    spelled |= dict.fromkeys(["\t192.0.2.1 ", "::FFFF:192.0.2.1", "0:0:0:0:0:ffff:c000:0201"], mapped)
    found = as_transformer(masked_for_all, "masking.canonical_ip(value)", list(spelled))
    assert [ipaddress.ip_address(ip or "") for ip in found] == [address.ipv4_mapped or address for address in spelled.values()]
    assert len(set(found)) == len(set(spelled.values()))


def test_what_is_no_address_is_none_and_raises_nothing(masked_for_all: Database) -> None:
    assert set(as_transformer(masked_for_all, "masking.canonical_ip(value)", NO_ADDRESSES)) == {None}
    # of what is not canonical it says nothing, but it does not raise, for the message would quote the text
    as_transformer(masked_for_all, "masking.network_of_ip(value, 24, 48)", NO_ADDRESSES)


@pytest.mark.parametrize("form", ["device_id", "email", "phone", "name", "as_sent"])
def test_a_value_has_one_spelling_of_its_kind_or_none_and_raises_nothing(masked_for_all: Database, form: str) -> None:
    spellings = SPELLINGS[form]
    as_other_kinds = [spelling for others in SPELLINGS.values() for spelling in others]
    canonical = f"masking.canonical_text('{form}', value)"
    assert dict(zip(spellings, as_transformer(masked_for_all, canonical, list(spellings)), strict=True)) == spellings
    # a canonical form is its own
    found = as_transformer(masked_for_all, canonical, [*as_other_kinds, *ODD])
    forms = [one for one in found if one is not None]
    assert as_transformer(masked_for_all, canonical, forms) == forms


def test_addresses_of_one_network_have_one_network_token_and_others_another(masked_for_all: Database) -> None:
    addresses = ["192.0.2.1", "192.0.2.254", "::ffff:192.0.2.7", "192.0.3.1", "2001:db8:1:2::3", "2001:db8:1:ffff::", "2001:db8:2::"]
    networks = as_transformer(masked_for_all, "masking.network_of_ip(masking.canonical_ip(value), 24, 48)", addresses)
    assert networks == [*["192.0.2.0/24"] * 3, "192.0.3.0/24", *["2001:db8:1::/48"] * 2, "2001:db8:2::/48"]
    wider = as_transformer(masked_for_all, "masking.network_of_ip(masking.canonical_ip(value), 16, 32)", addresses)
    assert wider == [*["192.0.0.0/16"] * 4, *["2001:db8::/32"] * 3]


def test_two_databases_have_unrelated_tokens(masked_for_all: Database, database: Database) -> None:
    database.execute("delete from masking.keys", "select masking.create_key('ip')")
    token = "select masking.token(version, inner_block, outer_block, '192.0.2.1') from masking.keys where domain = 'ip'"
    assert database.value(token) != masked_for_all.value(token)
