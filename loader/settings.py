"""All that can be set: the environment, read into one typed object for each use."""

import os
from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from dotenv import load_dotenv
from pydantic import BaseModel, Field, ValidationError

from loader.errors import refused, wrong_setting

Kind = TypeVar("Kind", bound=BaseModel)
Secret = Annotated[str | None, Field(repr=False)]

LOGIN_ROLES = ("loader", "transformer", "analyst", "reporter", "pii_requester", "pii_approver", "privacy_officer")


class TokenSettings(BaseModel):
    """Whether AWS signs the password of a connection, and for which server; see `loader.login`. PG* variables are libpq's own."""

    rds_iam_auth: bool = False
    pghost: str = ""
    pgport: str = "5432"
    pgsslmode: str = "prefer"
    aws_region: str | None = None  # boto3 itself only reads AWS_DEFAULT_REGION, which wins


class LoaderSettings(TokenSettings):
    """What `drain` and `follow` need. AWS_* variables are boto3's own."""

    sqs_queue_url: Annotated[str, Field(pattern="^https?://")]
    pghost: str
    pguser: str = "loader"
    pgpassword: Secret = None  # wins over loader_password, as it does for every other client of libpq
    loader_password: Secret = None

    loader_receivers: Annotated[int, Field(ge=1, le=1_000)] = 20
    loader_visibility_seconds: Annotated[int, Field(ge=1, le=43_200)] = 240  # SQS allows 12 hours; longer than KEEP_SECONDS
    loader_batch_messages: Annotated[int, Field(ge=10)] = 2_000  # a receive brings ten
    loader_batch_seconds: Annotated[float, Field(gt=0)] = 0.25
    loader_max_held_messages: Annotated[int, Field(ge=10, le=120_000)] = 10_000  # SQS allows 120,000
    loader_max_held_bytes: Annotated[int, Field(ge=1024**2)] = 16 * 1024**2
    loader_timeout_seconds: Annotated[float, Field(ge=1)] = 30.0
    loader_grace_seconds: Annotated[float, Field(ge=6)] = 25.0  # the last answers take 2 s of it, giving messages back 3 s
    loader_http_host: str = "127.0.0.1"
    loader_http_port: Annotated[int, Field(ge=0, le=65_535)] = 9464
    loader_sqs_client: Literal["own", "boto3"] = "own"


class MigrateSettings(TokenSettings):
    """What `migrate` needs: an administrator."""

    pghost: str
    pguser: str = "postgres"
    pgpassword: Secret = None
    admin_user: str | None = None
    admin_password: Secret = None


class TransformSettings(TokenSettings):
    """What `python -m transform follow` needs. PG* variables are libpq's own, DBT_* dbt's."""

    pghost: str
    transform_test_seconds: Annotated[float, Field(gt=0)] = 300.0
    transform_grace_seconds: Annotated[float, Field(ge=0)] = 25.0
    transform_keep_days: Annotated[float, Field(ge=0)] = 3.0
    transform_keep_runs: Annotated[int, Field(ge=1)] = 200


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
    errors = []
    try:
        settings = kind.model_validate({name: value for name in kind.model_fields if (value := os.environ.get(name.upper()))})
    except ValidationError as error:
        errors = error.errors()
    missing = [str(each["loc"][0]).upper() for each in errors if each["type"] == "missing"] + also_missing()
    wrong = [f"{str(each['loc'][0]).upper()} is {each['input']!r}: {each['msg'].lower()}" for each in errors if each["type"] != "missing"]
    if missing:
        wrong.append(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set")
    if wrong:
        raise wrong_setting(f"{'; '.join(wrong)}; see .env.example, or run make up, which writes .env")
    return settings
