"""All that can be set: the environment, read into one typed object for each use."""

import os
from typing import Annotated, Any, TypeVar

from dotenv import load_dotenv
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings

from loader.errors import refused, wrong_setting

Kind = TypeVar("Kind", bound=BaseSettings)

HIGHEST_PORT = 65_535


def _ports(text: str) -> str:
    # One for each host, and an empty one for the default, as libpq has it; what is wrong with it libpq says as if a server were down.
    if not all(port == "" or (port.isdecimal() and 0 < int(port) <= HIGHEST_PORT) for port in text.split(",")):
        raise PydanticCustomError("port", "should be a port, from 1 to 65535")
    return text


Ports = Annotated[str, AfterValidator(_ports)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]

# A receive brings ten messages, so fewer could never be held; SQS keeps at most 120,000 of a queue in flight.
HeldMessages = Annotated[int, Field(ge=10, le=120_000)]


class LoaderSettings(BaseSettings):
    """What `drain` and `follow` need. AWS_* and PG* variables are boto3's and libpq's own."""

    aws_region: str | None = None  # boto3 itself only reads AWS_DEFAULT_REGION, which wins
    sqs_queue_url: Annotated[str, Field(pattern="^https?://")]
    pghost: str
    pgport: Ports | None = None
    pguser: str = "loader"
    pgpassword: SecretStr | None = None
    loader_password: SecretStr | None = None

    loader_receivers: Annotated[int, Field(ge=1, le=1_000)] = 20
    loader_batch_messages: Positive = 2_000
    loader_batch_seconds: Seconds = 0.25
    loader_max_held_messages: HeldMessages = 10_000
    loader_max_held_bytes: Annotated[int, Field(ge=1024**2)] = 16 * 1024**2
    loader_timeout_seconds: Annotated[float, Field(ge=1)] = 30.0
    loader_grace_seconds: Annotated[float, Field(ge=6)] = 25.0  # the last replies take 2 s of it, giving messages back 3 s
    loader_http_host: str = "127.0.0.1"
    loader_http_port: Annotated[int, Field(ge=0, le=HIGHEST_PORT)] = 9464

    @property
    def password(self) -> str | None:
        """The password to connect with: libpq's variable wins, as it does for every other client."""
        secret = self.pgpassword or self.loader_password
        return secret.get_secret_value() if secret else None


class MigrateSettings(BaseSettings):
    """What `migrate` needs: an administrator, and the passwords that the login roles shall have."""

    pghost: str
    pgport: Ports | None = None
    pguser: str = "postgres"
    pgpassword: SecretStr | None = None
    admin_user: str | None = None
    admin_password: SecretStr | None = None

    loader_password: SecretStr | None = None
    transformer_password: SecretStr | None = None
    analyst_password: SecretStr | None = None
    pii_requester_password: SecretStr | None = None
    pii_approver_password: SecretStr | None = None
    privacy_officer_password: SecretStr | None = None

    @property
    def user(self) -> str:
        """The administrator to connect as."""
        return self.admin_user or self.pguser

    @property
    def password(self) -> str | None:
        """The administrator's password, or None to let libpq find one."""
        secret = self.admin_password or self.pgpassword
        return secret.get_secret_value() if secret else None

    @property
    def role_passwords(self) -> dict[str, str]:
        """The password of each login role for which one is set."""
        roles = ("loader", "transformer", "analyst", "pii_requester", "pii_approver", "privacy_officer")
        secrets: dict[str, SecretStr | None] = {role: getattr(self, f"{role}_password") for role in roles}
        return {role: secret.get_secret_value() for role, secret in secrets.items() if secret}


class TokenSettings(BaseSettings):
    """Whether AWS signs the password of a connection, and for which server; see `loader.login`."""

    rds_iam_auth: bool = False
    pghost: str | None = None
    pgport: Ports | None = None
    pgsslmode: str = "prefer"
    aws_region: str | None = None  # boto3 itself only reads AWS_DEFAULT_REGION, which wins


def read(kind: type[Kind]) -> Kind:
    """Read *kind* from the environment and, below it, from `.env` in the working directory.

    Raises:
        LoaderError: a variable is missing or wrong; the message names it, and shows no secret. Or `.env` cannot be read.
    """
    try:
        load_dotenv(".env")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise refused(f".env cannot be read: {reason}; give this user the right to, or remove it") from None
    # An empty variable is what compose files and shells make of an unset one.
    for name in [name for name in kind.model_fields if os.environ.get(name.upper()) == ""]:
        del os.environ[name.upper()]
    try:
        return kind()
    except ValidationError as error:
        raise wrong_setting(_explain(error.errors()[0])) from None


def _explain(problem: Any) -> str:
    variable = str(problem["loc"][0]).upper()
    if problem["type"] == "missing":
        return f"{variable} is not set; copy .env.example to .env or run make up"
    found = "" if "PASSWORD" in variable else f" is {problem['input']!r}"
    return f"{variable}{found}: {problem['msg'][0].lower()}{problem['msg'][1:]}; see .env.example"
