"""Put faults of the past back, one at a time, and print after how many steps the state machine finds each, and by which few steps.

`python -m tests.whole.put_back [WORDS]`: those whose name has WORDS, or all. Each is made in a copy of the working tree and looked for
for WHOLE_MINUTES (5), from each of SEEDS (1). Exits with 1 where a fault is not found, or something is found where there is no fault.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.mutants.__main__ import copy_of_the_tree
from tests.support import inherited

Edit = tuple[str, str, str]  # file, what is found there once, what takes its place

PIPELINE, JUDGING, LOGINS = "loader/pipeline.py", "dbt_project/macros/judging.sql", "dbt_project/models/marts/user_logins.sql"
RAW, ROTATE = "database/4_tables/03_staging.raw_logins.sql", "database/5_functions/recovery.rotate.sql"
FIELDS = "database/5_functions/masking.apply_fields.sql"
NO_FAULT = "no fault"
DELETE = "            self._committed.put_nowait(delivery)\n"
UNOPENED = "case when staging.can_be_jsonb(raw_logins.body) then raw_logins.body::jsonb end"
IS_OF_MODEL = "(judged.reasons is null) = {{ this.name == 'user_logins' }}"
ABOVE_THE_MARK = """(
        select id from staging.raw_logins as raw where raw.message_id = logins.message_id and raw.sent_at = logins.sent_at
    ) > (select coalesce(max(id), 0) from staging.raw_logins inner join {{ this }} using (message_id, sent_at))"""
FAULTS: dict[str, list[Edit]] = {
    "the delete before the commit": [
        (PIPELINE, f"{DELETE}        self._turn.set()", "        self._turn.set()"),
        (PIPELINE, "        while (landed :=", f"        for delivery in batch:\n{DELETE}        while (landed :="),
    ],
    # what the model should have taken leaves the list, and not what it has taken
    "--empty loses messages": [
        (JUDGING, "delete from staging.unjudged using {{ this }} as judged", "delete from staging.unjudged using staging.logins as judged"),
        (JUDGING, "unjudged.sent_at = judged.sent_at\n    {%-", f"unjudged.sent_at = judged.sent_at and {IS_OF_MODEL}\n    {{%-"),
    ],
    # dbt opens it, and what keeps erased persons out does not
    "an erased person comes back through an envelope": [
        (
            FIELDS,
            "staging.event(raw_logins.body) as event limit all) as read',\n            built.user_id",
            f"{UNOPENED} as event limit all) as read',\n            built.user_id",
        ),
    ],
    "a mark by max(id)": [
        (RAW, "create table staging.raw_logins (\n", "create table staging.raw_logins (\n    id bigserial,\n"),
        (
            "database/7_privileges.sql",
            "grant usage on schema analytics to analyst;\n",
            "grant usage on schema analytics to analyst;\ngrant usage on sequence staging.raw_logins_id_seq to loader;\n",
        ),
        (LOGINS, "    where reasons is null\n", f"    where reasons is null and {ABOVE_THE_MARK}\n"),
    ],
    # its key stays, and with it its tokens: that of what is no address, which few messages have
    "a rotation skips a domain": [
        (ROTATE, "where old_key.domain = 'erased_user';", "where old_key.domain in ('erased_user', 'invalid_ip');"),
        (
            ROTATE,
            "from unnest(old_keys) as old_key where old_key.domain != 'erased_user';",
            "from unnest(old_keys) as old_key where old_key.domain not in ('erased_user', 'invalid_ip');",
        ),
    ],
    NO_FAULT: [],
}


def search(edits: list[Edit], seed: int) -> tuple[str, str]:
    """What the state machine says of a tree with *edits*: how soon something was found, and the steps that lead to it or nothing."""
    with copy_of_the_tree() as folder:
        for file, old, new in edits:
            path = Path(folder) / file
            text = path.read_text()
            if text.count(old) != 1:
                raise SystemExit(f"{file} has this {text.count(old)} times and not once: {old}")
            path.write_text(text.replace(old, new))
        environ = inherited() | {
            "PYTHONPATH": folder,
            "WHOLE_MINUTES": os.environ.get("WHOLE_MINUTES", "5"),
            "WHOLE_SEED": str(seed),
        }
        command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--tb=short", "tests/whole", "-k", "model_says"]
        ran = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    said = re.search(r"^seed .*", ran.stdout, re.MULTILINE)
    if not said:
        raise SystemExit(f"the state machine did not run: {ran.stdout[-3000:]}{ran.stderr[-1000:]}")
    script = re.search(r"^shortened to:\n(    .*\n)*", ran.stdout, re.MULTILINE)
    where = re.findall(r"^tests/whole/\w+\.py:\d+: in (\w+)$", ran.stdout, re.MULTILINE)
    cause = re.search(r"^E +(\S.*)", ran.stdout, re.MULTILINE)
    broken = f"broken: {where[-1] if where else ''}: {cause[1]}" if cause else ""
    return said[0].partition(": {")[0], (script[0] if script else "") + broken


def main() -> None:
    """Look for every fault whose name has the words of the command line, and print how it went."""
    words = " ".join(sys.argv[1:])
    wrong = []
    for name, edits in FAULTS.items():
        for seed in range(int(os.environ.get("SEEDS", "1")) if words in name else 0):
            said, script = search(edits, seed)
            print(f"{name}\n    {said}", *script.splitlines(), sep="\n    ", flush=True)
            if ("found after" in said) != (name != NO_FAULT):
                wrong.append(f"{name}: seed {seed}: {'not found' if name != NO_FAULT else 'found'}")
    print(*wrong, sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
