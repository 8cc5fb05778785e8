"""The sandbox's settings: `.env`, which it completes, overridden by the environment."""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from dotenv import dotenv_values, load_dotenv, set_key

from sandbox.errors import SandboxError
from sandbox.processes import HOST

ENV_FILE = Path(".env")
ENV_EXAMPLE = Path(".env.example")
STATE = Path(".sandbox")
PROFILE = Path("dbt_project/profiles/profiles.yml")
SANDBOX_PROFILE = Path("dbt_project/profiles.yml")
NO_PROFILE = Path("sandbox/profiles.yml")
DBT_ARTEFACTS = Path("dbt_project/target")
DBT_LOGS = Path("dbt_project/logs")
ADDRESSES = ("PGHOST", "PGPORT", "PGDATABASE", "AWS_ENDPOINT_URL", "SQS_QUEUE_URL")
OURS = (HOST, "localhost")
HIGHEST_PORT = 65535


@dataclass(frozen=True)
class Settings:
    """The sandbox's addresses and the superuser's password, read once."""

    postgres_port: int
    database: str
    admin_user: str
    admin_password: str
    emulator_port: int
    queue_name: str


@contextlib.contextmanager
def _using_env_file() -> Iterator[None]:
    """Say in one line if `.env` cannot be used."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        said = f"{ENV_FILE} cannot be read or written: {reason}; give this user the right to, or remove it"
        raise SandboxError(said, os.EX_NOPERM) from error


@_using_env_file()
def load_env_file() -> None:
    """Set the variables of `.env` that the environment lacks. A missing file is no error; an empty variable counts as unset."""
    for name in dotenv_values(ENV_FILE):
        if os.environ.get(name) == "":
            del os.environ[name]
    load_dotenv(ENV_FILE)


@_using_env_file()
def complete_env_file(environ: Mapping[str, str]) -> list[str]:
    """Make `.env` (mode 0600) from `.env.example`, or fill in what it lacks, and return the names written.

    A missing value comes from the example. A missing password or address comes from *environ* if it is set there; otherwise a password
    is random. A value that is set stays.
    """
    if not ENV_FILE.exists():
        ENV_FILE.touch(mode=0o600)
        ENV_FILE.write_text(ENV_EXAMPLE.read_text())
    ENV_FILE.chmod(0o600)
    defaults = dotenv_values(ENV_EXAMPLE, interpolate=False)
    present = dotenv_values(ENV_FILE, interpolate=False)
    missing = [name for name in defaults if not present.get(name)]
    for name in missing:
        given = environ.get(name) if name.endswith("_PASSWORD") or name in ADDRESSES else None
        # a password of somebody's choice is quoted, so that it is read back as it is
        quote_mode = "always" if given and name.endswith("_PASSWORD") else "never"
        set_key(ENV_FILE, name, given or defaults[name] or secrets.token_urlsafe(24), quote_mode=quote_mode)
    return missing


@_using_env_file()
def keep_addresses(environ: Mapping[str, str]) -> list[str]:
    """Save the addresses in use, those of *environ*, to `.env` for the next shell, and return the names written."""
    written = []
    for name in ADDRESSES:
        # read again each time, because one value may refer to another
        if dotenv_values(ENV_FILE).get(name) != environ[name]:
            set_key(ENV_FILE, name, environ[name], quote_mode="never")
            written.append(name)
    return written


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The sandbox's settings from *environ*; SandboxError when one is missing, or names a server that is not the sandbox's."""
    host, endpoint, url = (required(environ, name) for name in ("PGHOST", "AWS_ENDPOINT_URL", "SQS_QUEUE_URL"))
    if host not in OURS:
        raise SandboxError(f"PGHOST is {host}, and the sandbox runs on {HOST} alone; unset it, or set it to {HOST}", os.EX_CONFIG)
    found = re.fullmatch(rf"http://(?:{'|'.join(OURS)}):(\d{{1,5}})/?", endpoint)
    if not found:
        ours = f"the sandbox's is http://{HOST}:PORT; unset it, or set it so"
        raise SandboxError(f"AWS_ENDPOINT_URL is {endpoint}, and {ours}", os.EX_CONFIG)
    base, _, queue_name = url.rpartition("/")
    queues = f"{endpoint.rstrip('/')}/000000000000"
    if not queue_name or base != queues:
        advice = f"unset it, or set it to {queues}/login-queue"
        said = f"SQS_QUEUE_URL is {url}, and the sandbox's queues are at AWS_ENDPOINT_URL/000000000000/NAME; {advice}"
        raise SandboxError(said, os.EX_CONFIG)
    return Settings(
        postgres_port=_port("PGPORT", required(environ, "PGPORT")),
        database=required(environ, "PGDATABASE"),
        admin_user=environ.get("ADMIN_USER") or "postgres",
        admin_password=required(environ, "ADMIN_PASSWORD"),
        emulator_port=_port("AWS_ENDPOINT_URL's port", found[1]),
        queue_name=queue_name,
    )


def required(environ: Mapping[str, str], name: str) -> str:
    """The value of *name*; SandboxError if it is missing or empty."""
    value = environ.get(name)
    if not value:
        raise SandboxError(f"{name} is not set; copy .env.example to .env or run make up", os.EX_CONFIG)
    return value


def write_dbt_profile(environ: Mapping[str, str]) -> None:
    """Write dbt's profile with the sandbox's values as defaults (mode 0600), so that `dbt run` needs nothing else."""

    def with_default(match: re.Match[str]) -> str:
        name, default = match.groups()
        value = required(environ, name) if default is None else environ.get(name) or default
        value = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"env_var('{name}', '{value}')"

    profile = yaml.safe_load(PROFILE.read_text())
    for output in profile["user_logins"]["outputs"].values():
        for key, value in output.items():
            if isinstance(value, str):
                output[key] = re.sub(r"env_var\('(\w+)'(?:, '(\w*)')?\)", with_default, value)
    SANDBOX_PROFILE.unlink(missing_ok=True)
    SANDBOX_PROFILE.touch(mode=0o600)
    SANDBOX_PROFILE.write_text("# Written by `make up`; holds a password of the sandbox.\n" + yaml.safe_dump(profile, sort_keys=False))


def _port(name: str, text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= HIGHEST_PORT:
        raise SandboxError(f"{name} is {text}, which is no port; set it to a number from 1 to {HIGHEST_PORT}", os.EX_CONFIG)
    return int(text)
