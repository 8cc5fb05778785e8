"""What boto3 is asked for: credentials, region, endpoint, certificates, and the calls to SQS where the loader's own client would not do."""

import asyncio
import functools
import os
import re
import ssl
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
import botocore.exceptions as failures
import botocore.httpsession
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials

from loader.errors import SqsError, first_line, unavailable, wrong_setting

CREDENTIALS_CHECK_SECONDS = 60.0
# sqs.REGION.…, sqs-fips.REGION.…, vpce-….sqs.REGION.vpce.…, in every partition and dual-stack domain; the older REGION.queue.…
REGION_IN_HOST = re.compile(r"(?:^|\.)(?:sqs(?:-fips)?\.)?([a-z]{2,}(?:-[a-z]+)+-\d+)\.")
SPECIAL_HOST = re.compile(r"^sqs-fips\.|\.vpce\.|\.api\.")


def region_in(queue_url: str) -> str | None:
    """The region that the host of *queue_url* names, if it does."""
    found = REGION_IN_HOST.search(urllib.parse.urlsplit(queue_url).hostname or "")
    return found and found[1]


def missing() -> list[str]:
    """The variables that AWS's settings lack: the region, the credentials."""
    try:
        session = boto3.Session()
        lacks_region = not (region_in(os.environ.get("SQS_QUEUE_URL", "")) or session.region_name or os.environ.get("AWS_REGION"))
        lacks_credentials = session.get_credentials() is None
    except Exception as error:  # noqa: BLE001  # botocore's own, and whatever reading its files raises
        raise wrong_setting(f"AWS configuration: {first_line(error)}; correct it") from None
    return ["AWS_DEFAULT_REGION"] * lacks_region + ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] * lacks_credentials


def sqs_client(queue_url: str, region: str | None, timeout_seconds: float, connections: int) -> Any:
    """boto3's client for SQS, in the region of *queue_url*, at its endpoint if a VPC's, dual-stack or FIPS, unless another is set."""
    session, url = boto3.Session(), urllib.parse.urlsplit(queue_url)
    # Long polling holds an answer back for 20 s. The pipeline has its own back-off.
    times: dict[str, Any] = {"connect_timeout": timeout_seconds, "read_timeout": timeout_seconds + 20, "retries": {"total_max_attempts": 1}}
    config = Config(**times, max_pool_connections=connections)
    make = functools.partial(session.client, "sqs", region_in(queue_url) or session.region_name or region, config=config)
    try:
        client = make()
        if re.match(r"https://sqs[.-]", client.meta.endpoint_url) and SPECIAL_HOST.search(url.hostname or ""):
            client = make(endpoint_url=f"{url.scheme}://{url.netloc}")
        urllib.parse.urlsplit(client.meta.endpoint_url).port  # noqa: B018  # reading it is the check
    except (failures.BotoCoreError, ValueError) as error:
        raise wrong_setting(f"AWS configuration: {first_line(error)}; correct AWS_ENDPOINT_URL or the profile") from None
    return client


def is_plain(client: Any) -> bool:
    """Whether *client* calls a host directly and verifies it, or in plain text; else only boto3 can do as it does."""
    http, parts = client._endpoint.http_session, urllib.parse.urlsplit(client.meta.endpoint_url)  # noqa: SLF001  # there is no public way
    is_host = parts.path in {"", "/"} and parts.username is None
    return is_host and not (http._proxy_config._proxies or http._cert_file or http._verify is False)  # noqa: SLF001  # as above


def tls_context(client: Any) -> ssl.SSLContext | None:
    """How *client* verifies: botocore's own context, with the bundle of AWS_CA_BUNDLE, the profile or REQUESTS_CA_BUNDLE, or botocore's."""
    if not client.meta.endpoint_url.startswith("https:"):
        return None
    context: ssl.SSLContext = botocore.httpsession.create_urllib3_context()
    context.check_hostname = True
    bundle = botocore.httpsession.get_cert_path(client._endpoint.http_session._verify)  # noqa: SLF001  # as above
    try:
        context.load_verify_locations(bundle)
    except OSError as error:
        raise unavailable(f"AWS_CA_BUNDLE: cannot read {bundle}: {error.strerror or error}") from None
    return context


@dataclass
class Identity:
    """The credentials that requests are signed with, fetched in a thread, because they may come over the network."""

    find: Callable[[], Any] = lambda: boto3.Session().get_credentials()
    _source: Any = None
    _fetch: asyncio.Task[ReadOnlyCredentials] | None = None
    _valid_until: float = 0.0

    async def credentials(self, seconds: float | None = None) -> ReadOnlyCredentials:
        """The current credentials, an SqsError or, after so many *seconds*, a TimeoutError.

        They are looked at anew once a minute, by one fetch however many calls wait for it.
        """
        now, fetch = asyncio.get_running_loop().time(), self._fetch
        if fetch is None or (fetch.done() and (now >= self._valid_until or fetch.exception())):
            fetch = self._fetch = asyncio.create_task(asyncio.to_thread(self._frozen))
            self._valid_until = now + CREDENTIALS_CHECK_SECONDS
        if not fetch.done() and fetch not in (await asyncio.wait([fetch], timeout=seconds))[0]:
            raise TimeoutError("AWS credentials did not come in time")
        return fetch.result()

    def expired(self) -> None:
        """SQS calls them expired: look for new ones, in files too."""
        self._source, self._valid_until = None, 0.0

    def _frozen(self) -> ReadOnlyCredentials:
        try:
            self._source = self._source or self.find()
            found: ReadOnlyCredentials = self._source.get_frozen_credentials()
        except Exception as error:  # noqa: BLE001  # whatever a credential process or a server does; its words may hold a secret
            raise SqsError("NoCredentials", f"AWS credentials cannot be fetched ({error_code(error) or type(error).__name__})") from None
        return found


@dataclass
class BotoClient:
    """Calls SQS through boto3's *client*, each call in a thread: with several times the CPU, and wherever boto3 itself works."""

    client: Any

    async def call(self, action: str, parameters: Mapping[str, Any], _wait_seconds: int = 0) -> dict[str, Any]:
        """Make *action*; see `loader.client.SqsClient.call`."""
        method: Callable[..., dict[str, Any]] = getattr(self.client, botocore.xform_name(action))
        try:
            return await asyncio.to_thread(method, **parameters)
        except Exception as error:  # noqa: BLE001  # botocore's own, and whatever fetching credentials raises
            code = error_code(error)
            raise SqsError(plain_code(code) if code else "Unreachable", type(error).__name__) from None


def error_code(error: BaseException) -> str | None:
    """The code that AWS refused with, if *error* is such a refusal."""
    return error.response.get("Error", {}).get("Code") if isinstance(error, failures.ClientError) else None


def plain_code(code: str) -> str:
    """`QueueDoesNotExist` from `com.amazonaws.sqs#QueueDoesNotExist` or `AWS.SimpleQueueService.QueueDoesNotExist`."""
    plain = code.rpartition("#")[2].rpartition(".")[2]
    return {"NonExistentQueue": "QueueDoesNotExist", "AccessDeniedException": "AccessDenied"}.get(plain, plain)
