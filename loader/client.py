"""An SQS client: signed AWS JSON 1.0 over persistent HTTP/1.1 connections, for a fraction of the CPU that boto3 takes.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-making-api-requests-json.html
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html
"""

import asyncio
import contextlib
import functools
import gzip
import hashlib
import hmac
import json
import ssl
import time
import urllib.parse
import zlib
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import httptools
import orjson
from botocore.credentials import ReadOnlyCredentials

from loader.aws import Identity, plain_code
from loader.errors import SqsError

SKEW_CODES = frozenset({"RequestTimeTooSkewed", "InvalidSignatureException", "SignatureDoesNotMatch", "RequestExpired"})
EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
SKEW_MINIMUM_SECONDS, OK = 60, 200

_Reply = tuple[int, bytes, dict[bytes, bytes]]  # the status, the body, the headers in lower case


class Endpoint(NamedTuple):
    """Where requests go; *host* is the Host header: in lower case, with brackets around IPv6, without a default port."""

    hostname: str
    port: int
    host: str
    region: str

    @classmethod
    def parse(cls, url: str, region: str) -> "Endpoint":
        """From http(s)://host[:port]."""
        parts, default = urllib.parse.urlsplit(url), 443 if url.lower().startswith("https:") else 80
        return cls(parts.hostname or "", parts.port or default, parts.netloc.lower().removesuffix(f":{default}"), region)


@functools.lru_cache(maxsize=64)
def signed(endpoint: Endpoint, credentials: ReadOnlyCredentials, action: str, body: bytes, now: float) -> bytes:
    """The whole HTTP request for *action* of SQS, signed as of *now* (Unix time) by AWS Signature Version 4."""
    canonical, to_sign, key, head = _unsigned(endpoint, credentials, action, now)
    digest = hashlib.sha256(f"{canonical}{hashlib.sha256(body).hexdigest()}".encode()).hexdigest()
    signature = hmac.digest(key, f"{to_sign}{digest}".encode(), "sha256").hex()
    return f"{head}{signature}\r\ncontent-length:{len(body)}\r\n\r\n".encode() + body


@functools.lru_cache(maxsize=64)
def _unsigned(endpoint: Endpoint, credentials: ReadOnlyCredentials, action: str, now: float) -> tuple[str, str, bytes, str]:
    """What requests for *action* at *now* have in common: what is signed, up to its digest, the key, the request up to its signature."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    scope, secret = f"{stamp[:8]}/{endpoint.region}/sqs/aws4_request", f"AWS4{credentials.secret_key}".encode()
    key = functools.reduce(lambda key, part: hmac.digest(key, part.encode(), "sha256"), scope.split("/"), secret)
    token, token_name = (f"x-amz-security-token:{credentials.token}\n", "x-amz-security-token;") if credentials.token else ("", "")
    names = f"content-type;host;x-amz-date;{token_name}x-amz-target"
    headers = f"content-type:application/x-amz-json-1.0\nhost:{endpoint.host}\nx-amz-date:{stamp}\n{token}x-amz-target:AmazonSQS.{action}\n"
    authorization = f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature="
    head = f"POST / HTTP/1.1\n{headers}accept-encoding:identity\nauthorization:{authorization}".replace("\n", "\r\n")
    return f"POST\n/\n\n{headers}\n{names}\n", f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n", key, head


class _Connection(asyncio.Protocol):
    """One connection, which carries one exchange at a time; asyncio calls the first methods, httptools the `on_` ones."""

    _reply: asyncio.Future[_Reply] | None = None
    _timer: asyncio.TimerHandle | None = None

    def exchange(self, request: bytes, seconds: float) -> asyncio.Future[_Reply]:
        """Send *request* and return what will be its reply, a ConnectionError or, after so many *seconds*, a TimeoutError."""
        loop = asyncio.get_running_loop()
        reply = self._reply = loop.create_future()
        self._deadline = loop.time() + seconds
        if not self._timer or self._timer.when() > self._deadline:
            self._watch()
        if self.transport.is_closing():
            self.connection_lost(None)
        self.transport.write(request)
        return reply

    def _watch(self) -> None:
        """Look at the deadline when it is due. A timer serves many exchanges: most of them move the deadline long before."""
        loop = asyncio.get_running_loop()
        if self._timer:
            self._timer.cancel()
        self._timer = loop.call_at(self._deadline, self._watch) if self._reply and loop.time() < self._deadline else None
        if self._reply and not self._timer:
            self.connection_lost(TimeoutError("no answer in time"))

    def connection_made(self, transport: Any) -> None:
        self.transport, self._parser = transport, httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)  # for what it cannot read it raises an error, and for that asyncio ends the connection

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport.abort()
        if self._reply and not self._reply.done():
            closed = ConnectionError(str(exc or "the server closed the connection"))
            self._reply.set_exception(exc if isinstance(exc, TimeoutError) else closed)
        if self._timer:
            self._timer.cancel()

    def on_message_begin(self) -> None:
        self._body: list[bytes] = []  # list[bytes]() would take eight times as long
        self._headers: dict[bytes, bytes] = {}
        if not self._reply:
            self.transport.abort()  # nobody asked: a second answer, or the 408 of a server that closes an idle connection

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status, reply = self._parser.get_status_code(), self._reply
        if reply and not reply.done() and status >= OK:  # 1xx comes before the answer
            self._reply = None
            reply.set_result((status, b"".join(self._body), self._headers))
            if not self._parser.should_keep_alive():
                self.transport.abort()


class SqsClient:
    """Calls SQS over connections of its own; `loader.aws.BotoClient` does the same through boto3."""

    def __init__(self, endpoint: Endpoint, identity: Identity, tls: ssl.SSLContext | None, timeout_seconds: float) -> None:
        """*timeout_seconds* bounds credentials, connecting and, beyond long polling, each answer."""
        self._endpoint, self._identity, self._tls, self._timeout_seconds = endpoint, identity, tls, timeout_seconds
        self._idle, self._skew_seconds = list[_Connection](), 0.0

    async def call(self, action: str, parameters: dict[str, Any], wait_seconds: int = 0) -> dict[str, Any]:
        """Make *action*, spelled as in the API reference, or raise an SqsError; SQS may hold its answer back for *wait_seconds*."""
        body, seconds = orjson.dumps(parameters), wait_seconds + self._timeout_seconds
        try:
            reply = await self._send(action, body, seconds)
            try:
                return _answer(reply)
            except SqsError as error:
                if not self._corrected(error.code, reply[2].get(b"date", b"").decode("latin-1")):
                    raise
            return _answer(await self._send(action, body, seconds))
        except OSError as error:
            raise SqsError("Unreachable", f"{self._endpoint.host}: {str(error) or 'no connection in time'}") from None

    async def _send(self, action: str, body: bytes, seconds: float) -> _Reply:
        credentials, now = await self._identity.credentials(self._timeout_seconds), time.time() + self._skew_seconds
        # A signature is good for five minutes, and more than once: that of a receive is made once a minute.
        request = signed(self._endpoint, credentials, action, body, now // 60 * 60)
        to, loop = self._endpoint, asyncio.get_running_loop()
        while True:
            if is_reused := bool(self._idle):
                connection = self._idle.pop()
            else:
                new = loop.create_connection(_Connection, to.hostname, to.port, ssl=self._tls, happy_eyeballs_delay=0.25)
                connection = (await asyncio.wait_for(new, self._timeout_seconds))[1]
            try:
                reply = await connection.exchange(request, seconds)
            except BaseException as error:
                connection.transport.abort()  # an answer that comes later would be taken for that of the next request
                if is_reused and isinstance(error, ConnectionError):
                    continue  # servers close idle connections. Every call may be repeated: messages of a lost answer come again
                raise
            self._idle.append(connection)
            return reply

    def _corrected(self, code: str, date: str) -> bool:
        """Whether *code* refuses our clock or our old credentials, and asking again, corrected, may help."""
        if code in EXPIRED_CODES:
            self._identity.expired()
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            skew_seconds = parsedate_to_datetime(date).timestamp() - time.time()
            if code in SKEW_CODES and abs(skew_seconds - self._skew_seconds) >= SKEW_MINIMUM_SECONDS:
                self._skew_seconds = skew_seconds
                return True
        return code in EXPIRED_CODES or code == "HTTP 408"  # the server closed a connection that was idle for too long


def _answer(reply: _Reply) -> dict[str, Any]:
    """What *reply* says, or the SqsError that it is; a load balancer's HTML counts as `HTTP 503`."""
    status, body, headers = reply
    try:
        text = gzip.decompress(body) if headers.get(b"content-encoding") == b"gzip" else body or b"{}"
        try:
            said = orjson.loads(text)
        except orjson.JSONDecodeError:
            said = json.loads(text)  # which takes half of a surrogate pair
    except (ValueError, OSError, EOFError, zlib.error, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise SqsError("InvalidAnswer" if status == OK else f"HTTP {status}", "the answer is no JSON object")
    if status != OK:
        code = said.get("__type")
        raise SqsError(plain_code(code) if isinstance(code, str) else f"HTTP {status}", str(said.get("message")))
    return said
