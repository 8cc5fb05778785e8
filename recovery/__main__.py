"""The command line: `python -m recovery --help`."""

import codecs
import json
import os
import re
import time
from typing import Any

import click
import psycopg
from dotenv import load_dotenv

from recovery.session import RecoveryError, call, connect

PURPOSES = ("fraud", "security_incident", "data_subject_request", "legal_obligation")
SCRUB_ATTEMPTS = 5


class OneLineErrors(click.Group):
    """A group of commands whose errors are one line on stderr."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a RecoveryError becomes its line and its exit code."""
        try:
            return super().invoke(ctx)
        except RecoveryError as error:
            click.echo(error, err=True)
            raise click.exceptions.Exit(error.exit_code) from error


@click.group(cls=OneLineErrors)
def main() -> None:
    """Get a masked value back, or let it go; every act is on record. See docs/privacy-officer.md.

    Set by environment variables, or by .env in the working directory. Each command says whose it is.

    \b
    Exit codes:
      0   done
      1   verify-audit found a broken entry
      2   a wrong command line
      65  what was given is not what the command takes
      69  the server is down, or database/ is not applied
      75  not finished, run it again
      77  refused
      78  a variable is missing or wrong
    """  # noqa: D301  # \b is click's mark for a paragraph to be left as it is
    try:
        load_dotenv(".env")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise RecoveryError(f".env cannot be read: {reason}; give this user the right to, or remove it", os.EX_NOPERM) from None


@main.command()
@click.argument("tokens", nargs=-1, required=True)
@click.option("--purpose", required=True, type=click.Choice(PURPOSES))
@click.option("--legal-reference", required=True, help="The case, ticket or order that allows it; no personal data.")
def request(tokens: tuple[str, ...], purpose: str, legal_reference: str) -> None:
    """Ask for the values behind 1 to 50 TOKENS (pii_requester); prints the reveal's id, valid for one hour."""
    with connect("pii_requester") as connection:
        rows = call(connection, "select recovery.request_reveal(%s, %s, %s)", (list(tokens), purpose, legal_reference))
    click.echo(rows[0][0])


@main.command()
@click.option("--as", "role", type=click.Choice(["pii_approver", "pii_requester"]), default="pii_approver")
def pending(role: str) -> None:
    """List the reveals that can still be approved or opened, as JSON lines."""
    with connect(role) as connection:
        _print_lines(connection, "select to_jsonb(line) from recovery.pending_reveals() as line")


@main.command()
@click.argument("reveal_id")
def approve(reveal_id: str) -> None:
    """Allow somebody else's reveal (pii_approver)."""
    with connect("pii_approver") as connection:
        call(connection, "select recovery.approve_reveal(%s)", (reveal_id,))
    click.echo("approved")


@main.command("open")
@click.argument("reveal_id")
def open_(reveal_id: str) -> None:
    """Put on record that an approved reveal is about to be read (pii_requester)."""
    with connect("pii_requester") as connection:
        call(connection, "select recovery.open_reveal(%s)", (reveal_id,))
    click.echo("opened")


@main.command()
@click.argument("reveal_id")
def read(reveal_id: str) -> None:
    """Print the values of an opened reveal, once, as JSON lines (pii_requester).

    A token whose raw messages have expired, were erased, or were masked under a key that is destroyed has no line.
    """
    with connect("pii_requester") as connection:
        _print_lines(connection, "select to_jsonb(line) from recovery.read_reveal(%s) as line", (reveal_id,))


@main.command()
def erase() -> None:
    """Erase the persons whose user_ids come on standard input, one per line, in one transaction and for good (privacy_officer).

    On standard input, because other users of the machine can read a command line. In UTF-8; white space around an id is no part of it.
    """
    user_ids = _read_user_ids(click.get_binary_stream("stdin").read())
    if not user_ids:
        raise RecoveryError("no user_id is given; write one a line to standard input", os.EX_DATAERR)
    unmatched = 0
    with connect("privacy_officer") as connection:
        erased = call(
            connection, "select raw_messages, logins, rejections from recovery.erase(%s) order by person", (list(user_ids.values()),)
        )
        for number, counts in zip(user_ids, erased, strict=True):
            click.echo("erased: {} raw messages, {} logins, {} rejections".format(*counts))
            if not any(counts):
                unmatched += 1
                click.echo(f"line {number} matched nothing; compare the id with what the producer sends", err=True)
        _scrub(connection)
    if unmatched:
        raise click.exceptions.Exit(os.EX_DATAERR)


@main.command()
@click.argument("days", type=int, required=False)
def retention(days: int | None) -> None:
    """Print for how many days raw messages are kept; with DAYS, 14 at least, set it first (privacy_officer)."""
    with connect("privacy_officer") as connection:
        if days is not None:
            call(connection, "select recovery.set_retention(%s)", (days,))
        click.echo(call(connection, "select raw_days from recovery.retention")[0][0])


@main.command()
def expire() -> None:
    """Drop the days of raw messages that are past retention, and finish what was left to scrub (privacy_officer). For a scheduler.

    A day with a message that dbt has not judged yet stays.
    """
    with connect("privacy_officer") as connection:
        days = 0
        while (day := call(connection, "select recovery.expire_next()")[0][0]) is not None:
            days += 1
            click.echo(f"expired: {day}")
        click.echo(f"{days} days expired")
        _scrub(connection)


@main.command()
def rotate() -> None:
    """Change the masking keys, and every token whose raw message is still there, in one transaction (privacy_officer)."""
    with connect("privacy_officer") as connection:
        started = time.monotonic()
        click.echo("changing keys and tokens; readers and loaders go on, dbt waits …", err=True)
        changed, kept, tokens = call(connection, "select * from recovery.rotate()")[0]
        click.echo(f"{changed} logins changed, {tokens} tokens one to one, in {time.monotonic() - started:.1f} s")
        click.echo(f"{kept} logins keep a token whose value has expired")
        _scrub(connection)


@main.command()
def scrub() -> None:
    """Write anew the files that still hold bytes of deleted rows (privacy_officer); erase, expire and rotate do it themselves."""
    with connect("privacy_officer") as connection:
        _scrub(connection)


@main.command()
def audit() -> None:
    """Print the audit as JSON lines, oldest entry first (privacy_officer)."""
    with connect("privacy_officer") as connection:
        _print_lines(connection, "select to_jsonb(line) - '{previous_seal,seal}'::text[] from recovery.audit as line order by entry")


@main.command("audit-head")
def audit_head() -> None:
    """Print the anchor ENTRY:SEAL of the audit's last entry, to be kept outside this server (privacy_officer)."""
    with connect("privacy_officer") as connection:
        for entry, seal in call(connection, "select * from recovery.audit_head()"):
            click.echo(f"{entry}:{seal}")


@main.command("verify-audit")
@click.argument("anchor", required=False, metavar="[ENTRY:SEAL]")
def verify_audit(anchor: str | None) -> None:
    """Recompute the audit's chain, and compare it with an anchor that audit-head printed earlier (privacy_officer)."""
    entry, _, seal = (anchor or "").partition(":")
    if anchor and not (entry.isdecimal() and re.fullmatch("[0-9a-f]{64}", seal)):
        raise RecoveryError("an anchor is ENTRY:SEAL, as audit-head printed it", os.EX_DATAERR)
    with connect("privacy_officer") as connection:
        entries, broken = call(connection, "select * from recovery.verify_audit(%s, %s)", (entry or None, seal or None))[0]
    if broken is not None:
        raise RecoveryError(f"entry {broken} of the audit is missing or was changed; {entries} entries are there", 1)
    click.echo(f"{entries} entries hold{' and reach the anchor' if anchor else ''}")


def _read_user_ids(given: bytes) -> dict[int, str]:
    """The user ids in *given*, by the number of their line; blank lines are none.

    Raises:
        RecoveryError: a line is no text; its number is said, and nothing of what it holds.
    """
    user_ids = {}
    for number, line in enumerate(given.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        try:
            user_id = line.decode().rstrip("\r")
        except UnicodeDecodeError:
            raise RecoveryError(f"line {number} is not UTF-8; save the list as UTF-8 text; nothing was erased", os.EX_DATAERR) from None
        if "\0" in user_id:
            raise RecoveryError(f"line {number} holds a NUL; save the list as UTF-8 text; nothing was erased", os.EX_DATAERR)
        if user_id.strip():
            user_ids[number] = user_id
    return user_ids


def _scrub(connection: psycopg.Connection[Any]) -> None:
    """Write anew what has deleted rows in it; an old transaction that may still see them is waited for, some seconds."""
    for attempt in range(SCRUB_ATTEMPTS):
        left = [
            relation
            for (relation,) in call(connection, "select relation::oid from recovery.scrubs order by relation")
            if not call(connection, "select recovery.scrub(%s::oid)", (relation,))[0][0]
        ]
        if not left:
            return
        time.sleep(2**attempt)
    raise RecoveryError(
        f"a transaction older than the act is still open, so {len(left)} files hold bytes of deleted rows; end it and run scrub",
        os.EX_TEMPFAIL,
    )


def _print_lines(connection: psycopg.Connection[Any], statement: str, parameters: tuple[Any, ...] = ()) -> None:
    """Print each row, a JSON object, on a line; JSON's escapes keep what an event sent from steering the terminal."""
    for (row,) in call(connection, statement, parameters):
        click.echo(json.dumps(row))


if __name__ == "__main__":
    main(prog_name="python -m recovery")
