"""What the role `transformer` (dbt) may.

It reads staging and what the views mask of it, so it can tell whose token is whose: that is its work, and why it is nobody else's
role. It has no key, cannot have a value of its own choosing masked, and owns nothing that recovery or the loader work on.
"""

from tests import canaries
from tests.support import Database


def test_transformer_has_landed_values_masked_and_no_others(masked_for_all: Database) -> None:
    """No function that it may call, whatever its arguments, gives the token of a value that it chooses."""
    token = masked_for_all.value(
        "select masked_ip from staging.logins inner join staging.raw_logins using (message_id) "
        f"where strpos(body, '\"{canaries.IPV4}\"') > 0 and reasons is null",
        "transformer",
    )
    assert masked_for_all.value(f"select count(*) from analytics.user_logins where masked_ip = '{token}'", "analyst") > 0
    # what it may call holds no key: it runs as its caller, or takes no value at all
    callable_as_owner = masked_for_all.rows(
        "select oid::regprocedure::text from pg_proc where prosecdef and has_function_privilege(oid, 'execute') "
        "and pronamespace::regnamespace::text in ('staging', 'masking', 'marts', 'recovery')",
        "transformer",
    )
    assert callable_as_owner == [("staging.begin_judging(bigint)",)]
