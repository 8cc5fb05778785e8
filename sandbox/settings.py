"""The sandbox's settings: `.env`, which it completes, overridden by the environment."""

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

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


def load_env_file() -> None:
    """Set the variables of `.env` that the environment lacks. A missing file is no error; an empty variable counts as unset."""
    try:
        for name in dotenv_values(ENV_FILE):
            if os.environ.get(name) == "":
                del os.environ[name]
        load_dotenv(ENV_FILE)
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(ENV_FILE, error) from error


def complete_env_file(environ: Mapping[str, str]) -> list[str]:
    """Make `.env` (mode 0600) from `.env.example`, or fill in what it lacks, and return the names written.

    A missing value comes from the example. A missing password or address comes from *environ* if it is set there; otherwise a password
    is random. A value that is set stays.
    """
    try:
        if not ENV_FILE.exists():
            ENV_FILE.touch(mode=0o600)
            ENV_FILE.write_text(ENV_EXAMPLE.read_text())
        ENV_FILE.chmod(0o600)
        defaults = dotenv_values(ENV_EXAMPLE, interpolate=False)
        present = dotenv_values(ENV_FILE, interpolate=False)
        missing = [name for name in defaults if not present.get(name)]
        for name in missing:
            given = environ.get(name) if name.endswith("_PASSWORD") or name in ADDRESSES else None
            if given and name.endswith("_PASSWORD"):
                set_key(ENV_FILE, name, given)  # quoted, so that it is read back as it is
            else:
                set_key(ENV_FILE, name, given or defaults[name] or secrets.token_urlsafe(24), quote_mode="never")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(ENV_FILE, error) from error
    return missing


def keep_addresses(environ: Mapping[str, str]) -> list[str]:
    """Save the addresses in use, those of *environ*, to `.env` for the next shell, and return the names written."""
    written = []
    try:
        for name in ADDRESSES:
            # read again each time, because one value may refer to another
            if dotenv_values(ENV_FILE).get(name) != environ[name]:
                set_key(ENV_FILE, name, environ[name], quote_mode="never")
                written.append(name)
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(ENV_FILE, error) from error
    return written


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The sandbox's settings from *environ*.

    Raises SandboxError when a variable is missing or wrong, or names a server that is not the sandbox's.
    """
    host = required(environ, "PGHOST")
    if host not in OURS:
        raise SandboxError(f"PGHOST is {host}, and the sandbox runs on {HOST} alone; unset it, or set it to {HOST}", os.EX_CONFIG)
    queue_name = urlsplit(required(environ, "SQS_QUEUE_URL")).path.rpartition("/")[2]
    settings = Settings(
        postgres_port=_port(required(environ, "PGPORT")),
        database=required(environ, "PGDATABASE"),
        admin_user=environ.get("ADMIN_USER") or "postgres",
        admin_password=required(environ, "ADMIN_PASSWORD"),
        emulator_port=_emulator_port(required(environ, "AWS_ENDPOINT_URL")),
        queue_name=queue_name,
    )
    expected = f"{environ['AWS_ENDPOINT_URL'].rstrip('/')}/000000000000/{queue_name}"
    if not queue_name or environ["SQS_QUEUE_URL"] != expected:
        raise SandboxError(
            f"SQS_QUEUE_URL is {environ['SQS_QUEUE_URL']}, and the sandbox's queues are at AWS_ENDPOINT_URL/000000000000/NAME; "
            f"unset it, or set it to {environ['AWS_ENDPOINT_URL'].rstrip('/')}/000000000000/login-queue",
            os.EX_CONFIG,
        )
    return settings


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


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= HIGHEST_PORT:
        raise SandboxError(f"PGPORT is {text}, which is no port; set it to a number from 1 to {HIGHEST_PORT}", os.EX_CONFIG)
    return int(text)


def _emulator_port(endpoint_url: str) -> int:
    try:
        parts = urlsplit(endpoint_url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme != "http" or parts.hostname not in OURS or not port:
        raise SandboxError(
            f"AWS_ENDPOINT_URL is {endpoint_url}, and the sandbox's is http://{HOST}:PORT; unset it, or set it so", os.EX_CONFIG
        )
    return port


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> SandboxError:
    reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
    return SandboxError(f"{path} cannot be read or written: {reason}; give this user the right to, or remove it", os.EX_NOPERM)
