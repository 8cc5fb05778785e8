"""A dictionary of all likely values finds none behind a token without the key: not plain, not under a key that was replaced."""

import pytest

from tests import canaries
from tests.support import Database

# the whole /16 around known addresses, 65,536 guesses, the canary's among them
GUESSES = "select '198.51.' || a || '.' || b as ip from generate_series(0, 255) as a cross join generate_series(0, 255) as b"
PLAIN = {
    "itself": "ip",
    "md5": "md5(ip)",
    "sha-256": "left(encode(sha256(ip::bytea), 'hex'), 32)",
    "sha-256, salted with the domain": "left(encode(sha256(('ip' || ip)::bytea), 'hex'), 32)",
    "sha-512": "left(encode(sha512(ip::bytea), 'hex'), 32)",
    "base64": "encode(ip::bytea, 'base64')",
    "hex": "encode(ip::bytea, 'hex')",
    "HMAC under an empty key": (
        "left(encode(masking.hmac_sha256(masking.hmac_block('', 54), masking.hmac_block('', 92), ip::bytea), 'hex'), 32)"
    ),
    "HMAC under the domain's name": (
        "left(encode(masking.hmac_sha256(masking.hmac_block('ip', 54), masking.hmac_block('ip', 92), ip::bytea), 'hex'), 32)"
    ),
}


def addresses_found(database: Database, guess: str) -> int:
    """How many masked addresses or networks equal *guess* of one of these addresses, whatever key version they name."""
    return int(
        database.value(
            f"with guesses as ({GUESSES}), hashed as materialized (select {guess} as hash from guesses) "
            "select count(*) from marts.user_logins "
            "where regexp_replace(masked_ip, '^v[0-9]+:', '') in (select hash from hashed) "
            "or regexp_replace(masked_network, '^v[0-9]+:', '') in (select hash from hashed)"
        )
    )


def test_the_dictionary_is_a_whole_network_with_the_canary_in_it(masked_for_all: Database) -> None:
    found = masked_for_all.rows(f"select count(distinct ip), bool_or(ip = '{canaries.IPV4}') from ({GUESSES}) as guesses")
    assert found == [(2**16, True)]


@pytest.mark.parametrize("name", PLAIN)
def test_a_dictionary_without_a_key_finds_no_address(masked: Database, name: str) -> None:
    assert addresses_found(masked, PLAIN[name]) == 0
    # the guard removed: masked_ip is what the attacker guesses
    with masked.connect() as connection:
        connection.execute(
            "update marts.user_logins set masked_ip = "
            f"'v1:' || (select {PLAIN[name]} from (values ('{canaries.IPV4}')) as known (ip))".encode()
        )
    assert addresses_found(masked, PLAIN[name]) > 0


def test_a_dictionary_under_an_old_key_finds_no_address(masked: Database) -> None:
    """The attacker has the key that was replaced, and every address that there is."""
    old_key = masked.rows("select inner_block, outer_block from masking.keys where domain = 'ip'")[0]
    inner, outer = (f"'\\x{block.hex()}'::bytea" for block in old_key)
    guess = f"left(encode(sha256({outer} || sha256({inner} || ip::bytea)), 'hex'), 32)"
    # masked under that key, they are found: the attack is a real one
    assert addresses_found(masked, guess) > 0
    with masked.connect() as connection:
        connection.execute("select recovery.rotate()")
    assert masked.value("select count(*) from marts.user_logins where masked_ip like 'v2:%'") > 0
    assert addresses_found(masked, guess) == 0
