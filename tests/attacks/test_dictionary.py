"""A dictionary of all likely values finds none behind a token without the key: not plain, not under a key that was replaced."""

from typing import Any

import psycopg

from tests import canaries
from tests.support import Database

# the whole /16 around known addresses, 65,536 guesses, the canary's among them
GUESSES = "select '198.51.' || a || '.' || b as ip from generate_series(0, 255) as a cross join generate_series(0, 255) as b"
HMAC = "left(encode(masking.hmac_sha256(masking.hmac_block('{0}', 54), masking.hmac_block('{0}', 92), ip::bytea), 'hex'), 32)"
WITHOUT_A_KEY = (
    "ip",
    "md5(ip)",
    "left(encode(sha256(ip::bytea), 'hex'), 32)",
    "left(encode(sha256(('ip' || ip)::bytea), 'hex'), 32)",
    "left(encode(sha512(ip::bytea), 'hex'), 32)",
    "encode(ip::bytea, 'base64')",
    "encode(ip::bytea, 'hex')",
    HMAC.format(""),
    HMAC.format("ip"),
)
FOUND = """
    with hashed as materialized (select {} as hash from ({}) as guesses)
    select count(*) from marts.user_logins
    where regexp_replace(masked_ip, '^v[0-9]+:', '') in (select hash from hashed)
    or regexp_replace(masked_network, '^v[0-9]+:', '') in (select hash from hashed)
"""


def addresses_found(connection: psycopg.Connection[Any], guess: str) -> int:
    """How many masked addresses or networks equal *guess* of one of these addresses, whatever key version they name."""
    return int((connection.execute(FOUND.format(guess, GUESSES).encode()).fetchone() or [0])[0])


def test_a_dictionary_without_a_key_finds_no_address_until_what_it_guesses_is_in_its_place(masked_for_all: Database) -> None:
    with masked_for_all.connect(autocommit=False) as connection:
        for guess in WITHOUT_A_KEY:
            assert addresses_found(connection, guess) == 0, guess
        for guess in WITHOUT_A_KEY:
            known = f"select 'v1:' || {guess} from (values ('{canaries.IPV4}')) as known (ip)"
            connection.execute(f"update marts.user_logins set masked_ip = ({known}) where user_id = 'canary-user'".encode())
            assert addresses_found(connection, guess) > 0, guess
        connection.rollback()


def test_a_dictionary_under_an_old_key_finds_no_address(masked: Database) -> None:
    """The attacker has the key that was replaced, and every address that there is."""
    old_key = masked.rows("select inner_block, outer_block from masking.keys where domain = 'ip'")[0]
    inner, outer = (f"'\\x{block.hex()}'::bytea" for block in old_key)
    guess = f"left(encode(sha256({outer} || sha256({inner} || ip::bytea)), 'hex'), 32)"
    with masked.connect() as connection:
        # masked under that key, they are found: the attack is a real one
        assert addresses_found(connection, guess) > 0
        connection.execute("select recovery.rotate()")
        assert masked.value("select count(*) from marts.user_logins where masked_ip like 'v2:%'") > 0
        assert addresses_found(connection, guess) == 0
