"""A field that no policy names, in database/6_fields.sql, is found by a dbt test before anybody uses it, and nothing of it is shown."""

import shutil
from pathlib import Path
from typing import Any

from tests import canaries, support
from tests.support import ROOT, Database

POLICY_TEST = ["test", "--select", "assert_every_field_has_a_masking_policy"]
NAMED = "5 messages carry the field referrer, and it has no masking policy: say in database/6_fields.sql what it is"
COUNTED = "28 times a message carries a field whose name may be a value"


def test_a_new_field_without_a_policy_is_named_unless_its_name_may_be_a_value(masked: Database, tmp_path: Path) -> None:
    """A producer who means harm puts values into names; what few users share, or what no name looks like, is not printed."""
    personal = "canary_of_one_person"
    of_four: dict[str, Any] = {personal: 1, canaries.IPV6: 1}
    no_names: dict[str, Any] = {canaries.IPV4: 1, canaries.DEVICE_ID: 1, "\x1b]0;canary": 1, "c" * 33: 1}
    hidden = (personal, canaries.IPV4, canaries.IPV6, canaries.DEVICE_ID, "c" * 33)
    assert support.dbt(masked, POLICY_TEST, tmp_path).returncode == 0

    carried = [of_four] * 4 + [no_names] * 5 + [{"referrer": f"{canaries.NO_ADDRESS} {number}"} for number in range(5)]
    support.land(masked, [canaries.login(user_id=f"u{number}", **fields) for number, fields in enumerate(carried)])
    assert support.dbt(masked, ["run", "--select", "user_logins.sql"], tmp_path).returncode == 0
    failed = support.dbt(masked, POLICY_TEST, tmp_path)
    assert failed.returncode == 1, failed.stdout
    assert NAMED in failed.stdout
    assert COUNTED in failed.stdout
    assert "FAIL 2" in failed.stdout
    outputs = failed.stdout + "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    assert not canaries.found_in(outputs)
    assert not [name for name in (*hidden, "\x1b]0;canary", "\\u001b]0;canary") if name in outputs]

    # the guards removed
    project = Path(shutil.copytree(ROOT / "dbt_project", tmp_path / "project", ignore=shutil.ignore_patterns("target", "logs")))
    careless = project / "tests" / "assert_every_field_has_a_masking_policy.sql"
    careless.write_text(careless.read_text().replace("[A-Za-z_]{1,32}", ".*").replace("{{ var('min_group_users') }}", "0"))
    shown = support.dbt(masked, POLICY_TEST, tmp_path / "careless", project).stdout
    assert not [name for name in hidden if name not in shown]
