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
HIGHEST_PORT = 65535


@dataclass(frozen=True)
class Settings:
    """The sandbox's addresses, read once."""

    postgres_port: int
    database: str
    admin_user: str
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
def load_env_file(path: Path = ENV_FILE) -> None:
    """Set the variables of *path* that the environment lacks. A missing file is no error; an empty variable counts as unset."""
    for name in dotenv_values(path):
        if os.environ.get(name) == "":
            del os.environ[name]
    load_dotenv(path)


@_using_env_file()
def complete_env_file(environ: Mapping[str, str]) -> list[str]:
    """Make `.env` (mode 0600) from `.env.example`, or fill in what it lacks, and return the names written.

    Addresses become those of *environ*, so that the next shell finds them. A missing password is that of *environ*, else random;
    whatever else is missing comes from the example. A value that is set stays.
    """
    if not ENV_FILE.exists():
        ENV_FILE.touch(mode=0o600)
        ENV_FILE.write_text(ENV_EXAMPLE.read_text())
    ENV_FILE.chmod(0o600)
    written = []
    for name, default in dotenv_values(ENV_EXAMPLE, interpolate=False).items():
        present = dotenv_values(ENV_FILE).get(name)  # read again each time, because one value may refer to another
        is_password = name.endswith("_PASSWORD")
        given = (environ.get(name) if name in ADDRESSES or (is_password and not present) else None) or present
        if not present or given != present:
            # a password of somebody's choice is quoted, so that it is read back as it is
            quote_mode = "always" if given and is_password else "never"
            set_key(ENV_FILE, name, given or default or secrets.token_urlsafe(24), quote_mode=quote_mode)
            written.append(name)
    return written


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The sandbox's addresses from *environ*; SandboxError when one is missing, or names a server that is not the sandbox's."""
    queues = f"{required(environ, 'AWS_ENDPOINT_URL').rstrip('/')}/000000000000/"
    port = r"(0*[1-9]\d{0,4})"
    ours = {
        "PGHOST": (r"127\.0\.0\.1|localhost", HOST),
        "PGPORT": (port, "a number"),
        "AWS_ENDPOINT_URL": (rf"http://(?:127\.0\.0\.1|localhost):{port}/?", f"http://{HOST}:PORT"),
        "SQS_QUEUE_URL": (f"{re.escape(queues)}([^/]+)", f"{queues}login-queue"),
    }
    found = {}
    for name, (pattern, example) in ours.items():
        match = re.fullmatch(pattern, value := required(environ, name))
        if not match or (pattern.count(port) and int(match[1]) > HIGHEST_PORT):
            raise SandboxError(f"{name} is {value}, and the sandbox's is {example}; unset it, or set it so", os.EX_CONFIG)
        found[name] = match[match.re.groups]
    return Settings(
        postgres_port=int(found["PGPORT"]),
        database=required(environ, "PGDATABASE"),
        admin_user=environ.get("ADMIN_USER") or "postgres",
        emulator_port=int(found["AWS_ENDPOINT_URL"]),
        queue_name=found["SQS_QUEUE_URL"],
    )


def required(environ: Mapping[str, str], name: str) -> str:
    """The value of *name*; SandboxError if it is missing or empty."""
    if value := environ.get(name):
        return value
    raise SandboxError(f"{name} is not set; set it, or run make up, which writes .env", os.EX_CONFIG)


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
