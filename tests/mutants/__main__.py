"""Break the SQL, or the loader, in one place, run the tests that should notice, and print which breaks live.

`make mutants` breaks each file of SQL in one place, by the operator that was applied least so far, and all that is named BY_HAND; `make
mutants FILE=rotate` only those whose name the regular expression `rotate` is found in. Each break is made in a copy of the working tree,
never in the tree itself. One that lives needs a test, or a reason in survivors.txt.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support import ROOT, inherited

COPIES = 2  # mutants that are tried at once
TIMEOUT_SECONDS = 1200
UNSOUND = "which fails without a mutant too"
HUNG = "the tests did not end"
FAILED = re.compile(r"^(?:FAILED|ERROR) ([^\s\[]+)", re.MULTILINE)
REASONS = Path(__file__).with_name("survivors.txt")
KILLED = Path(__file__).with_name("killed.txt")  # what was broken, and the test that failed

# By name: what is looked for in a line, and what takes its place.
OPERATORS = {
    "< to <=": (r" < ", " <= "),
    "<= to <": (r" <= ", " < "),
    "> to >=": (r" > (?!now|clock)", " >= "),
    ">= to >": (r" >= ", " > "),
    "and to or": (r"^(\s+)and ", r"\1or "),
    "or to and": (r"^(\s+)or ", r"\1and "),
    "not dropped": (r"\bnot (exists|in|between)\b", r"\1"),
    "left join to inner join": (r"\bleft (outer )?join\b", "inner join"),
    "on conflict dropped": (r"on conflict .*(nothing|excluded\.\w+)", ""),
    "distinct dropped": (r"\bdistinct (?!from)", ""),
    "coalesce dropped": (r"\bcoalesce\((\w[\w.]*), [^()]+\)", r"\1"),
    "security definer dropped": (r" security definer", ""),
    "search_path dropped": (r" set search_path = pg_catalog, pg_temp", ""),
    "lock dropped": (r"^\s*lock table .*;", ""),
    "check of isolation dropped": (r"^\s*perform recovery\.require_isolation.*;", ""),
    "check of partitions dropped": (r"^\s*perform recovery\.require_attached.*;", ""),
    "record dropped": (r"perform recovery\.record\((.*)\);", r"perform \1;"),
    "revoke dropped": (r"^\s*execute format\('revoke .*;|^alter default privileges .*;", ""),
    "row security dropped": (r"^alter table .* enable row level security;", ""),
    "policy dropped": (r"^\s*create policy .*;", ""),
    "statistics kept": (r"set statistics 0", "set statistics 1000"),
    "security_barrier dropped": (r" with \(security_barrier\)", ""),
    "version not raised": (r"version \+ 1", "version"),
}

SEEN_IN_THE_CATALOG = {
    "security definer dropped",
    "search_path dropped",
    "revoke dropped",
    "row security dropped",
    "policy dropped",
    "statistics kept",
}
REVIEWED = "tests/access/test_privileges.py"
WHOLE, AGAIN, DATA_TESTS = "tests/whole", "tests/judging/test_judging_again.py", "tests/judging/test_data_tests.py"
POISON, TOKENS, KEYS = "tests/judging/test_poison.py", "tests/attacks/test_tokens.py", "tests/attacks/test_keys.py"
DURABILITY, LOST = "tests/faults/test_durability.py", "tests/faults/test_nothing_is_lost.py"
AT_ONCE, COMMANDS = "tests/judging/test_at_once.py", "tests/judging/test_dbt_commands.py"
EXPIRE, ERASE, ROTATE = "tests/recovery/test_expire.py", "tests/recovery/test_erase.py", "tests/recovery/test_rotate.py"
AUDIT, REVEAL, ATTACKS = "tests/recovery/test_audit.py", "tests/recovery/test_reveal.py", "tests/recovery/test_reveal_attacks.py"
# Which tests are run for a file, up to the first failure: those of the first pattern that its path matches, the quickest first.
TESTS = {
    "loader/(landing|land.sql|session)": ["tests/unit/test_landing.py", "tests/integration/test_landing.py", DURABILITY, LOST],
    "loader/migrate": ["tests/integration/test_migrate.py"],
    "loader": ["tests/unit", "tests/integration/test_wire.py", "tests/integration/test_follow.py", LOST],
    "dbt_project/tests": [DATA_TESTS, "tests/judging/test_views.py", "tests/judging/test_fields.py", AGAIN],
    "0_migrate|1_roles|3_schemas|7_privileges": ["tests/access", "tests/integration/test_migrate.py"],
    "recovery.*reveal": [REVEAL, ATTACKS, WHOLE],
    "recovery.(audit|record|verify|refuse)": [AUDIT, WHOLE],
    "recovery.(set_)?retention|recovery.expire": [EXPIRE, AUDIT, WHOLE],
    "recovery.(rotate|scrub)": [ROTATE, ERASE, WHOLE],
    "recovery": [ERASE, WHOLE, EXPIRE, ROTATE],
    "staging.begin": [AGAIN, ERASE, WHOLE, AT_ONCE, COMMANDS],
    "staging.(leaf_paths|names_in|sender)": [DATA_TESTS],
    "staging.(ensure|raw|unjudged)": ["tests/integration/test_landing.py", "tests/attacks/test_catalog.py", EXPIRE],
    "masking.apply|6_fields": [TOKENS, "tests/judging/test_fields.py", WHOLE, AT_ONCE, COMMANDS],
    "masking.(create_key|keys|hmac|token)": [TOKENS, KEYS],
    "masking.(holds|may_hold)": ["tests/attacks/test_plain_fields.py"],
    "staging.(body|can|envelope|gunzip|huffman|open|read|split)": ["tests/judging/test_envelopes.py", POISON],
    "masking|staging.event": ["tests/judging/test_fields.py", TOKENS, POISON],
    "macros/judging|models/marts": [AGAIN, DATA_TESTS, WHOLE, AT_ONCE],
    "macros|models/staging": [COMMANDS, DATA_TESTS, "tests/attacks/test_small_groups.py", "tests/attacks/test_catalog.py"],
    "models/(analytics|reports)": [
        DATA_TESTS,
        "tests/judging/test_views.py",
        "tests/attacks/test_small_groups.py",
        "tests/access",
        COMMANDS,
    ],
    "": ["tests/access/test_privileges.py", TOKENS, WHOLE],
}


@dataclass(frozen=True)
class Mutant:
    """One break: the *number*th line of *file* (from 0), which was *old*, is *new*."""

    what: str
    file: str
    number: int
    old: str
    new: str

    @property
    def name(self) -> str:
        """What survivors.txt calls it; no number of a line, so that it outlives changes elsewhere in the file."""
        return f"{self.file}: {self.what}: {' '.join(self.old.split())}"

    @property
    def tests(self) -> list[str]:
        """The tests that should notice."""
        tests = next(tests for pattern, tests in TESTS.items() if re.search(pattern, self.file))
        return [REVIEWED, *tests] if self.what in SEEN_IN_THE_CATALOG else tests


# (file, old, new): what no operator above does. *old* is looked for in each line, and must be there.
BY_HAND = [
    ("database/4_tables/09_recovery.tombstones.sql", "user_token text primary key", "user_token text not null"),
    ("database/4_tables/10_recovery.erased_messages.sql", "primary key (message_id, sent_at)", "check (true)"),
    ("database/4_tables/12_recovery.scrubs.sql", "relation regclass primary key", "relation regclass not null"),
    ("database/5_functions/masking.btrim_spaces.sql", r"\u00a0", ""),
    ("database/6_fields.sql", "'ip', 'invalid_ip'", "'ip', 'ip'"),
    ("database/6_fields.sql", "'device_id', 'device_id', null", "'ip', 'device_id', null"),
    ("database/6_fields.sql", "'ip', 'ip', 'invalid_ip'", "'ip', 'as_sent', null"),
    ("database/5_functions/masking.network_of_ip.sql", "else length_6", "else 64"),
    ("database/5_functions/masking.network_of_ip.sql", "'0/24'", "'0/16'"),
    ("database/5_functions/masking.token.sql", "1, 16", "1, 8"),
    ("database/5_functions/masking.token.sql", "'v' || version::text", "'v1'"),
    ("database/5_functions/masking.hmac_sha256.sql", "inner_block || message", "message || inner_block"),
    ("database/5_functions/masking.create_key.sql", "(key, 92)", "(key, 54)"),
    ("database/5_functions/masking.create_key.sql", "force_generic_plan", "auto"),
    ("database/5_functions/masking.canonical_ip.sql", r"|\.$", ""),
    ("database/5_functions/masking.apply_fields.sql", "where masked.message_id = raw_logins.message_id and", "where false and"),
    ("database/5_functions/masking.apply_fields.sql", "where rejected.message_id = raw_logins.message_id and", "where false and"),
    ("database/5_functions/staging.begin_judging.sql", "if exists (select from recovery.tombstones) or", "if"),
    ("database/5_functions/staging.begin_judging.sql", "or exists (select from recovery.erased_messages) then", "then"),
    ("database/5_functions/recovery.rotate.sql", "where old_key.domain = 'erased_user'", "where false"),
    ("database/5_functions/recovery.rotate.sql", "if unexplained > 0", "if false"),
    ("database/5_functions/recovery.rotate.sql", "truncate masking.keys", "delete from masking.keys"),
    ("database/5_functions/recovery.read_reveal.sql", "= 'committed'", "is not null"),
    ("database/5_functions/recovery.approve_reveal.sql", "reveals.requester != session_user", "true"),
    ("database/5_functions/recovery.record.sql", "recorded_at, session_user", "recorded_at, current_user"),
    ("database/7_privileges.sql", "insert (message_id, sent_at, body, attributes)", "insert, select"),
    ("database/7_privileges.sql", "grant usage on schema analytics to analyst;", "grant usage on schema analytics, marts to analyst;"),
    ("loader/client.py", "if is_reused and isinstance(error, ConnectionError):", "if False:"),
    ("loader/client.py", "self._skew_seconds = skew_seconds", "pass"),
    ("loader/pipeline.py", "while handles and delivery.until > monotonic():", "while handles:"),
    ("loader/session.sql", "else 'on' end", "else 'off' end"),
    ("loader/landing.py", "if rows and not landed:", "if False:"),
    ("loader/land.sql", "on conflict do nothing;", ";"),
    ("loader/landing.py", "if self._warnings:", "if False:"),
    ("loader/landing.py", 'quotes_rows = error.sqlstate.startswith(("22", "23"))', "quotes_rows = False"),
    ("database/0_migrate.sql", "set local lock_timeout = '500ms';", ""),
    ("loader/migrate.py", "if before and ", "if False and "),
    ("loader/pipeline.py", "await self._commit(batch)", "pass"),
    ("loader/pipeline.py", 'is_blocked = POSTGRESQL in self._failing or ("delete" in self._failing and self._held)', "is_blocked = False"),
    ("loader/pipeline.py", 'if not self._has_received or what == "delete":', "if not self._has_received:"),
    ("loader/pipeline.py", "and await self._is_empty()", ""),
    ("loader/report.py", "min(self.received_at, self.committed_at)", "self.received_at"),
    ("loader/delivery.py", "if digest and digest != ", "if digest and False and digest != "),
    ("loader/sqs.py", '"VisibilityTimeout": self.visibility_seconds', '"VisibilityTimeout": 30'),
    ("loader/sqs.py", "if str(at) not in done", "if str(at) in codes"),
    ("loader/client.py", "if not self._reply:", "if False:"),
    ("loader/client.py", "if self.transport.is_closing():", "if False:"),
    ("loader/client.py", "if not self._parser.should_keep_alive():", "if False:"),
    ("dbt_project/macros/columns_for_analysts.sql", "rejectattr", "selectattr"),
    ("dbt_project/macros/generate_schema_name.sql", "target.name == 'production' and custom_schema_name", "custom_schema_name"),
    ("dbt_project/macros/print_findings.sql", "log(row['finding'], info=True)", "log(row['finding'])"),
    ("dbt_project/macros/judging.sql", "repeatable read", "read committed"),
    ("dbt_project/macros/judging.sql", "using {{ this }} as judged", "using staging.raw_logins as judged"),
    ("dbt_project/models/staging/stg_logins.sql", "else 'logins'", "else 'unjudged_logins'"),
    ("dbt_project/models/marts/user_logins.sql", "where reasons is null", "where true"),
    ("dbt_project/models/marts/user_logins.sql", "at time zone 'UTC'", "at time zone 'Asia/Tokyo'"),
    ("dbt_project/models/marts/rejected_logins.sql", "where reasons is not null", "where true"),
    ("dbt_project/models/analytics/analytics_user_logins.sql", "columns_for_analysts()", "'*'"),
    ("dbt_project/models/analytics/shared_ips.sql", "having count(*) > 1", ""),
    ("dbt_project/tests/assert_plain_columns_are_as_sent.sql", "fields.domain is null and", "false and"),
    ("dbt_project/tests/generic/token_format.sql", "where {{ column_name }} !~", "where false and {{ column_name }} !~"),
]  # fmt: skip


def mutants() -> Iterator[Mutant]:
    """Every mutant, in the order of their files."""
    files = sorted(
        {path for folder in ("database", "dbt_project") for path in (ROOT / folder).rglob("*.sql") if is_source(path)}
        | {ROOT / file for file, _, _ in BY_HAND}
    )
    applied: Counter[str] = Counter()
    for path in files:
        file = str(path.relative_to(ROOT))
        code = {number: line for number, line in enumerate(path.read_text().splitlines()) if not line.lstrip().startswith("--")}
        operators = OPERATORS.items() if path.suffix == ".sql" else ()
        for what, (pattern, replacement) in sorted(operators, key=lambda operator: applied[operator[0]]):
            changed = [(number, new) for number, line in code.items() if (new := re.sub(pattern, replacement, line, count=1)) != line]
            if changed:
                applied[what] += 1
                yield Mutant(what, file, changed[0][0], code[changed[0][0]], changed[0][1])
                break
        for _, old, new in (entry for entry in BY_HAND if entry[0] == file):
            number = next(number for number, line in code.items() if old in line)
            yield Mutant(f"{old} to {new or 'nothing'}", file, number, code[number], code[number].replace(old, new))


def is_source(path: Path) -> bool:
    """Whether *path* is ours, and no upgrade from the first edition, which tests/upgrade takes minutes for."""
    return not {"target", "logs", "dbt_packages"} & set(path.parts) and "first_edition" not in path.name


def killer(mutant: Mutant) -> str | None:
    """The first test that fails with *mutant*, or None where it lives."""
    with copy_of_the_tree() as copy:
        path = Path(copy) / mutant.file
        lines = path.read_text().splitlines()
        lines[mutant.number] = mutant.new
        path.write_text("\n".join(lines) + "\n")
        failed = first_failure(Path(copy), mutant.tests)
    return f"{failed}, {UNSOUND}" if failed and fails_without(failed) else failed


@cache
def fails_without(test: str) -> bool:
    """Whether *test* fails although nothing is broken."""
    if test == HUNG:
        return False
    with copy_of_the_tree() as copy:
        return first_failure(Path(copy), [test]) is not None


def copy_of_the_tree() -> "tempfile.TemporaryDirectory[str]":
    """A copy of the files that git knows or would add."""
    listing = [shutil.which("git") or "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    folder = tempfile.TemporaryDirectory(prefix="mutant-")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (Path(folder.name) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, Path(folder.name) / name)
    return folder


def first_failure(tree: Path, tests: list[str]) -> str | None:
    """The test of *tests* that fails first in *tree*, or HUNG; None when all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", *tests]
    try:
        environ = inherited() | {"PYTHONPATH": str(tree)}
        ran = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return HUNG
    if ran.returncode not in (0, 1):
        raise SystemExit(f"pytest did not run (exit code {ran.returncode}): {ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    found = FAILED.search(ran.stdout)
    return found[1] if found else None


def main() -> None:
    """Try every mutant whose name matches FILE, print a line for each, and, where all were tried, write killed.txt."""
    every = list(mutants())
    chosen = [mutant for mutant in every if re.search(os.environ.get("FILE", ""), mutant.name)]
    reasons = dict(line.split(" — ", 1) for line in REASONS.read_text().splitlines() if line and not line.startswith("#"))
    wrong = [f"survivors.txt names no mutant: {name}" for name in reasons.keys() - {mutant.name for mutant in every}]
    killers: dict[str, str] = {}
    with ThreadPoolExecutor(COPIES) as pool:
        tried = {pool.submit(killer, mutant): mutant for mutant in chosen}
        for done in as_completed(tried):
            if done.exception():
                pool.shutdown(cancel_futures=True)
            name, test = tried[done].name, done.result()
            killers |= {name: test} if test else {}
            print("killed" if test else "LIVES ", f"{name}\n       {test or reasons.get(name, 'no reason is given')}", flush=True)
            if UNSOUND in (test or ""):
                wrong.append(f"mend {test}")
            elif (name in reasons) == bool(test):
                wrong.append(f"{'dead, so take it out of survivors.txt' if test else 'alive without a reason'}: {name}")
    if chosen == every:
        KILLED.write_text("".join(f"{name}\n    {killers[name]}\n" for name in sorted(killers)))
    print(f"{len(chosen)} mutants, {len(killers)} killed, {len(chosen) - len(killers)} alive", *wrong, sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
