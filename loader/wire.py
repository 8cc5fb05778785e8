"""The calls to SQS that run thousands of times a second, made by hand: AWS JSON 1.0 over kept-open HTTP/1.1.

boto3 spends 1.2 to 1.6 ms of CPU on a receive and a delete of ten messages, this some 0.2 ms. boto3 still finds the
credentials, the region and the endpoint, botocore signs, and httptools parses; what is left here is to write bytes and
to wait for the answer. `BotoCaller` makes the same calls through boto3, for the places that this way does not
reach (a proxy), and as what the tests compare with.

Protocol: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-making-api-requests-json.html
Signature: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html
"""

import asyncio
import datetime as dt
import functools
import json
import ssl
import urllib.parse
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import boto3
import botocore.exceptions
import botocore.httpsession
import botocore.utils
import httptools
from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials

from loader.errors import unavailable, wrong_setting

# AWS accepts a signature for five minutes and does not mind to see it twice; the same receive is sent over and over.
SIGNATURE_REUSE_SECONDS = 60.0
CREDENTIALS_CHECK_SECONDS = 60.0

SKEW_CODES = frozenset({"RequestTimeTooSkewed", "InvalidSignatureException", "SignatureDoesNotMatch", "RequestExpired"})
EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
SKEW_MINIMUM_SECONDS = 60.0
NO_SKEW = dt.timedelta()
# A thread cannot be stopped, so how long it waits adds to how long the loader takes to end.
BOTO_WAIT_SECONDS = 5

Parameters = Mapping[str, Any]


class SqsError(Exception):
    """SQS answered with an error, or did not answer (*code* is then `Unreachable`)."""

    def __init__(self, code: str, message: str) -> None:
        """*code* is SQS's own, without its namespace."""
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Caller(Protocol):
    """Something that makes a call to SQS."""

    async def call(self, action: str, parameters: Parameters, wait_seconds: int = 0) -> dict[str, Any]:
        """Make *action* with *parameters*, both spelled as in the SQS API reference, and return its answer.

        *wait_seconds* is how long the answer may be held back by design (long polling).

        Raises:
            SqsError: refused, or no answer in time.
        """

    async def close(self) -> None:
        """Give up the connections."""


def connect(queue_url: str, region: str | None, timeout_seconds: float, connections: int) -> Caller:
    """Ask boto3 for credentials, region and endpoint, and return the way to call SQS with them.

    *region* is the one to take where boto3 finds none itself; *connections* is how many calls may be under way at once.

    Raises:
        LoaderError: no credentials, no region, or an endpoint that is no URL.
    """
    session = boto3.Session()
    region = session.region_name or region or region_in(queue_url)
    config = Config(
        connect_timeout=timeout_seconds,
        read_timeout=timeout_seconds + 20,  # long polling holds an answer back for 20 s
        retries={"total_max_attempts": 1},  # the pipeline has its own back-off
        max_pool_connections=connections,
    )
    try:
        if session.get_credentials() is None:
            raise wrong_setting("AWS credentials: none found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role")
        client = session.client("sqs", region_name=region, config=config)
    except botocore.exceptions.NoRegionError:
        raise wrong_setting(
            "AWS_DEFAULT_REGION is not set, and SQS_QUEUE_URL names no region; copy .env.example to .env or run make up"
        ) from None
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        raise wrong_setting(f"AWS configuration: {_first_line(error)}") from None
    endpoint = client.meta.endpoint_url
    try:
        urllib.parse.urlsplit(endpoint).port  # noqa: B018  # reading it is the check
    except ValueError as error:
        raise wrong_setting(f"AWS_ENDPOINT_URL is {endpoint}: {error}; correct it") from None
    if botocore.utils.get_environ_proxies(endpoint):
        return BotoCaller(client, connections)
    return SignedCaller(session, client.meta.region_name, endpoint, timeout_seconds)


def region_in(queue_url: str) -> str | None:
    """The region in https://sqs.REGION.amazonaws.com/…, where the host has one."""
    labels = (urllib.parse.urlsplit(queue_url).hostname or "").split(".")
    return labels[1] if labels[0] == "sqs" and "amazonaws" in labels else None


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response; *date* is its header, empty when it has none."""

    status: int
    body: bytes
    date: str


class Connection(asyncio.Protocol):
    """One kept-open HTTP/1.1 connection that carries one exchange at a time."""

    def __init__(self) -> None:
        """Start closed; asyncio's `create_connection` opens it."""
        self.open = False
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser
        self._reply: asyncio.Future[Reply] | None = None
        self._body: list[bytes] = []
        self._date = ""

    def exchange(self, request: bytes) -> asyncio.Future[Reply]:
        """Send *request*, a whole HTTP request, and return what will be its reply, or a ConnectionError."""
        self._reply = asyncio.get_running_loop().create_future()
        self._body.clear()
        self._date = ""
        self._transport.write(request)
        return self._reply

    def close(self) -> None:
        """Give the connection up, at once and with what it still carries."""
        self.open = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio: the connection stands."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # create_connection makes no other
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)
        self.open = True

    def data_received(self, data: bytes) -> None:
        """Asyncio: bytes came."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.close()
            self._fail(f"not an HTTP answer ({type(error).__name__})")

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio: the other side closed, or the network broke."""
        self.open = False
        self._fail(str(exc) if exc else "the server closed the connection")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Httptools: one header."""
        if name.lower() == b"date":
            self._date = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Httptools: a piece of the body, chunked encoding taken off."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Httptools: the whole answer is here."""
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        if self._reply and not self._reply.done() and status >= 200:  # noqa: PLR2004  # 1xx comes before the answer
            self._reply.set_result(Reply(status, b"".join(self._body), self._date))

    def _fail(self, reason: str) -> None:
        if self._reply and not self._reply.done():
            self._reply.set_exception(ConnectionError(reason))


class SignedCaller:
    """Calls SQS over its own kept-open connections, signed by botocore."""

    def __init__(self, session: boto3.Session, region: str, endpoint: str, timeout_seconds: float) -> None:
        """Keep what a call needs; *timeout_seconds* bounds connecting and, beyond long polling, each answer."""
        self._session = session
        self._region = region
        self._endpoint = endpoint.rstrip("/") + "/"
        self._timeout_seconds = timeout_seconds
        parts = urllib.parse.urlsplit(self._endpoint)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._address = f"{self._host}:{self._port}"
        self._tls = _tls_context(session) if parts.scheme == "https" else None
        self._idle: list[Connection] = []
        self._credentials = ReadOnlyCredentials("", "", None)
        self._credentials_until = 0.0
        self._skew = NO_SKEW
        self._signed: dict[tuple[str, bytes], tuple[float, bytes]] = {}

    async def call(self, action: str, parameters: Parameters, wait_seconds: int = 0) -> dict[str, Any]:
        """Make *action*; see `Caller.call`."""
        body = json.dumps(parameters, separators=(",", ":")).encode()
        try:
            async with asyncio.timeout(wait_seconds + self._timeout_seconds):
                reply = await self._send(await self.request(action, body))
                if reply.status != 200 and self._corrected(reply):  # noqa: PLR2004
                    reply = await self._send(await self.request(action, body))
        except TimeoutError:
            raise SqsError("Unreachable", f"no answer from {self._address} in {wait_seconds + self._timeout_seconds:g} s") from None
        except OSError as error:
            raise SqsError("Unreachable", f"{self._address}: {_first_line(error)}") from None
        if reply.status != 200:  # noqa: PLR2004
            raise _error_in(reply)
        try:
            answer: dict[str, Any] = json.loads(reply.body) if reply.body else {}
        except ValueError:
            raise SqsError("Unreachable", f"{self._address} did not answer in JSON") from None
        return answer

    async def close(self) -> None:
        """Close the idle connections; a call under way closes its own."""
        while self._idle:
            self._idle.pop().close()
        await asyncio.sleep(0)  # asyncio closes the sockets in its next turn

    async def _send(self, request: bytes) -> Reply:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                try:
                    return await self._exchange(connection, request)
                except ConnectionError:
                    # The server closes idle connections whenever it likes; so may this one have gone. Every call made
                    # here may be repeated: a receive that got lost shows its messages again after the visibility time-out.
                    continue
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, self._host, self._port, ssl=self._tls)
        return await self._exchange(connection, request)

    async def _exchange(self, connection: Connection, request: bytes) -> Reply:
        try:
            reply = await connection.exchange(request)
        except BaseException:
            connection.close()  # what comes over it now would be taken for the answer to the next request
            raise
        if connection.open:
            self._idle.append(connection)
        return reply

    async def request(self, action: str, body: bytes) -> bytes:
        """The signed bytes for *action*; those of a receive are the same for a minute."""
        now = asyncio.get_running_loop().time()
        if now >= self._credentials_until:
            self._credentials_until = now + CREDENTIALS_CHECK_SECONDS  # first, so that not every caller asks
            await self._refresh_credentials()
        if action != "ReceiveMessage":
            return self._sign(action, body)
        expiry, request = self._signed.get((action, body), (0.0, b""))
        if now >= expiry:
            request = self._sign(action, body)
            self._signed = {(action, body): (now + SIGNATURE_REUSE_SECONDS, request)}
        return request

    def _sign(self, action: str, body: bytes) -> bytes:
        return signed(self._endpoint, self._region, self._credentials, action, body, self._skew)

    async def _refresh_credentials(self) -> None:
        # A role's credentials are fetched over the network when they come near their end, so not in the event loop.
        credentials = self._session.get_credentials()
        try:
            frozen = await asyncio.to_thread(credentials.get_frozen_credentials) if credentials else self._credentials
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:  # STS that refuses is the latter
            self._credentials_until = 0.0
            raise SqsError("Unreachable", f"no credentials: {_first_line(error)}") from None
        if frozen != self._credentials:
            self._credentials = frozen
            self._signed.clear()

    def _corrected(self, reply: Reply) -> bool:
        """Whether *reply* refuses our clock or our old credentials and it is worth to ask again, set right."""
        error = _error_in(reply)
        if error.code in EXPIRED_CODES:
            self._credentials_until = 0.0
        if error.code not in SKEW_CODES or not reply.date:
            return error.code in EXPIRED_CODES
        skew = parsedate_to_datetime(reply.date) - dt.datetime.now(dt.UTC)
        if abs((skew - self._skew).total_seconds()) < SKEW_MINIMUM_SECONDS:
            return False
        self._skew = skew
        self._signed.clear()
        return True


def signed(  # noqa: PLR0913, PLR0917  # all that a signature covers
    endpoint: str, region: str, credentials: ReadOnlyCredentials, action: str, body: bytes, skew: dt.timedelta = NO_SKEW
) -> bytes:
    """The whole HTTP request for *action* at *endpoint*, signed by botocore; *skew* is how far the server's clock is ahead of ours."""
    timestamp = (dt.datetime.now(dt.UTC) + skew).strftime(SIGV4_TIMESTAMP)
    headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"AmazonSQS.{action}", "X-Amz-Date": timestamp}
    if credentials.token:
        headers["X-Amz-Security-Token"] = credentials.token
    # What SigV4Auth.add_auth does, but for its clock, which is this machine's and may be wrong.
    request = AWSRequest("POST", endpoint, headers=headers, data=body)
    request.context["timestamp"] = timestamp
    signer = SigV4Auth(credentials, "sqs", region)
    signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    signed_headers = signer.signed_headers(signer.headers_to_sign(request))
    headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, SignedHeaders={signed_headers}, Signature={signature}"
    parts = urllib.parse.urlsplit(endpoint)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


class BotoCaller:
    """Makes the calls through a boto3 client, each in a thread: slower, and wherever boto3 itself works."""

    def __init__(self, client: Any, threads: int) -> None:
        """Use *client*, boto3's for SQS, in up to *threads* threads."""
        self._client = client
        self._threads = ThreadPoolExecutor(threads, "boto3")

    async def call(self, action: str, parameters: Parameters, wait_seconds: int = 0) -> dict[str, Any]:
        """Make *action*; see `Caller.call`. The client's own time-outs apply."""
        method: Callable[..., dict[str, Any]] = getattr(self._client, botocore.xform_name(action))
        if wait_seconds:
            parameters = {**parameters, "WaitTimeSeconds": min(wait_seconds, BOTO_WAIT_SECONDS)}
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(method, **parameters))
        except botocore.exceptions.ClientError as error:
            found = error.response["Error"]
            raise SqsError(_plain(found["Code"]), found["Message"]) from None
        except botocore.exceptions.BotoCoreError as error:
            raise SqsError("Unreachable", _first_line(error)) from None

    async def close(self) -> None:
        """Close boto3's connections; a call under way ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()


def _tls_context(session: boto3.Session) -> ssl.SSLContext:
    """Verify as boto3 does: AWS_CA_BUNDLE or the profile's ca_bundle, or else the certificates that botocore trusts."""
    bundle = session._session.get_config_variable("ca_bundle") or botocore.httpsession.where()  # noqa: SLF001  # boto3 has no public way to ask
    try:
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise unavailable(f"AWS_CA_BUNDLE: cannot read {bundle}: {error.strerror or error}") from None


def _error_in(reply: Reply) -> SqsError:
    """What an answer other than 200 says; a load balancer's HTML counts as `HTTP 503`."""
    try:
        body = json.loads(reply.body)
        code = _plain(body["__type"])
        message = str(body.get("message") or body.get("Message") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return SqsError(f"HTTP {reply.status}", "no reason given")
    return SqsError(code, message)


def _plain(code: str) -> str:
    """`QueueDoesNotExist` from `com.amazonaws.sqs#QueueDoesNotExist` or `AWS.SimpleQueueService.QueueDoesNotExist`."""
    plain = code.rpartition("#")[2].rpartition(".")[2]
    return {"NonExistentQueue": "QueueDoesNotExist", "AccessDeniedException": "AccessDenied"}.get(plain, plain)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
