"""All that can be set: the environment, read into one typed object for each use."""

import os
from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from dotenv import load_dotenv
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings

from loader.errors import refused, wrong_setting

Kind = TypeVar("Kind", bound=BaseSettings)

HIGHEST_PORT = 65_535
LOGIN_ROLES = ("loader", "transformer", "analyst", "pii_requester", "pii_approver", "privacy_officer")


def _ports(text: str) -> str:
    # One for each host, and an empty one for the default, as in libpq, which would report a wrong one as if a server were down.
    if not all(port == "" or (port.isdecimal() and 0 < int(port) <= HIGHEST_PORT) for port in text.split(",")):
        raise PydanticCustomError("port", "should be a port, from 1 to 65535")
    return text


Ports = Annotated[str, AfterValidator(_ports)]


class LoaderSettings(BaseSettings):
    """What `drain` and `follow` need. AWS_* and PG* variables are boto3's and libpq's own."""

    aws_region: str | None = None  # boto3 itself only reads AWS_DEFAULT_REGION, which wins
    sqs_queue_url: Annotated[str, Field(pattern="^https?://")]
    pghost: str
    pgport: Ports | None = None
    pguser: str = "loader"
    pgpassword: SecretStr | None = None  # wins over loader_password, as it does for every other client of libpq
    loader_password: SecretStr | None = None

    loader_receivers: Annotated[int, Field(ge=1, le=1_000)] = 20
    loader_visibility_seconds: Annotated[int, Field(ge=1, le=43_200)] = 60  # SQS allows 12 hours
    loader_batch_messages: Annotated[int, Field(ge=1)] = 2_000
    loader_batch_seconds: Annotated[float, Field(gt=0)] = 0.25
    loader_max_held_messages: Annotated[int, Field(ge=10, le=120_000)] = 10_000  # a receive brings ten; SQS allows 120,000
    loader_max_held_bytes: Annotated[int, Field(ge=1024**2)] = 16 * 1024**2
    loader_timeout_seconds: Annotated[float, Field(ge=1)] = 30.0
    loader_grace_seconds: Annotated[float, Field(ge=6)] = 25.0  # the last answers take 2 s of it, giving messages back 3 s
    loader_http_host: str = "127.0.0.1"
    loader_http_port: Annotated[int, Field(ge=0, le=HIGHEST_PORT)] = 9464
    loader_sqs_client: Literal["own", "boto3"] = "own"


class MigrateSettings(BaseSettings):
    """What `migrate` needs: an administrator."""

    pghost: str
    pgport: Ports | None = None
    pguser: str = "postgres"
    pgpassword: SecretStr | None = None
    admin_user: str | None = None
    admin_password: SecretStr | None = None


class TokenSettings(BaseSettings):
    """Whether AWS signs the password of a connection, and for which server; see `loader.login`."""

    rds_iam_auth: bool = False
    pghost: str | None = None
    pgport: Ports | None = None
    pgsslmode: str = "prefer"
    aws_region: str | None = None  # as above


def read(kind: type[Kind], also_missing: Callable[[], list[str]] = list) -> Kind:
    """Read *kind* from the environment and, below it, from `.env` in the working directory.

    A LoaderError names all that are missing or wrong, and shows no secret; *also_missing* finds some that are no fields of *kind*.
    """
    try:
        load_dotenv(".env")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise refused(f".env cannot be read: {reason}; give this user the right to, or remove it") from None
    for name in [name for name in kind.model_fields if os.environ.get(name.upper()) == ""]:
        del os.environ[name.upper()]  # what compose files and shells make of an unset one
    wrong, missing = list[str](), list[str]()
    try:
        settings = kind()
    except ValidationError as error:
        for each in error.errors():
            variable = str(each["loc"][0]).upper()
            if each["type"] == "missing":
                missing.append(variable)
            else:
                wrong.append(f"{variable} is {each['input']!r}: {each['msg'].lower()}; see .env.example")
    if missing := missing + also_missing():
        verb, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        wrong.append(f"{', '.join(missing)} {verb} not set; set {them}, or run make up, which writes .env")
    if wrong:
        raise wrong_setting("; ".join(wrong))
    return settings
