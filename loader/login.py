"""How a connection to PostgreSQL proves who we are, and what to do where it fails."""

import os

import boto3
import botocore.exceptions as failures

from loader.aws import error_code
from loader.errors import LoaderError, first_line, refused, unavailable, wrong_setting
from loader.settings import TokenSettings, read

# What is wrong with variables and files, as botocore says it. Its other errors are of servers and programs.
CONFIGURATION = (failures.NoRegionError, failures.NoCredentialsError, failures.PartialCredentialsError, failures.ProfileNotFound)


def password_for(user: str, kept: str | None) -> str | None:
    """The password for one connection of *user*: *kept*, or a new token where RDS_IAM_AUTH asks for it."""
    return token_for(user) if read(TokenSettings).rds_iam_auth else kept


def token_for(user: str) -> str:
    """A token that RDS takes as the password of *user* for 15 minutes, signed here with the AWS credentials; or a LoaderError."""
    settings = read(TokenSettings)
    host, port, mode = settings.pghost, settings.pgport, settings.pgsslmode
    if mode != "verify-full" or not host or "," in host + port:
        # RDS has the token sent as it is, so whoever answers in its place could use it.
        found = f"PGSSLMODE is {mode}, PGHOST is {host or 'not set'} and PGPORT {port}"
        raise wrong_setting(f"{found}, and an RDS token is sent to one verified server alone; set verify-full and the endpoint of RDS")
    try:
        region = boto3.Session().region_name or settings.aws_region
        token: str = boto3.client("rds", region_name=region).generate_db_auth_token(DBHostname=host, Port=int(port), DBUsername=user)
    except (*CONFIGURATION, OSError, ValueError) as error:
        raise wrong_setting(f"AWS configuration: {first_line(error)}; correct it, for an RDS token is signed with it") from None
    except (failures.BotoCoreError, failures.ClientError) as error:
        code = error_code(error)  # its words are whatever a program or a server said, so it is only named
        found = f"AWS gives no credentials to sign an RDS token ({code or type(error).__name__})"
        advice, exit_code = "check the role or the profile of this machine, and its way to AWS", os.EX_NOPERM if code else os.EX_UNAVAILABLE
        raise LoaderError(f"{found}; {advice}", exit_code) from None
    return token


def refusal(error: Exception, variable: str, user_variable: str) -> LoaderError:
    """What to do where connecting failed with *error*; *variable* is that of the password.

    By libpq's own state, for an error in connecting has no SQLSTATE, and its words are in the language of the server.
    """
    found, connection = first_line(error), getattr(error, "pgconn", None)
    if connection and connection.needs_password:
        return wrong_setting(f"{variable} is not set; set it, or run make up, which writes .env")
    if connection and connection.used_password:  # the server answered, and had us prove who we are
        if read(TokenSettings).rds_iam_auth:
            return refused(f"{found}; let this AWS identity rds-db:connect as this user, and grant rds_iam to the user")
        sets = "make up" if variable == "ADMIN_PASSWORD" else "python -m loader migrate"
        advice = f"check {variable}, {user_variable} and PGDATABASE, or run {sets}, which sets the password"
        return refused(f"{found}; {advice}; where RDS wants IAM, set RDS_IAM_AUTH")
    return unavailable(f"{found}; start the server (the sandbox's: make up), or check PGHOST, PGPORT, PGSSLMODE and PGSSLROOTCERT")
