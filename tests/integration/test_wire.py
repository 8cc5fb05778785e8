"""The calls made by hand are the ones that boto3 makes, and get the answers that boto3 gets."""

import asyncio
import contextlib
import gzip
import http.server
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from botocore.credentials import ReadOnlyCredentials

from benchmarks.stub import Stub
from loader import sqs
from loader.aws import BotoClient, Identity
from loader.client import Endpoint, SqsClient
from loader.errors import LoaderError, SqsError
from loader.settings import LoaderSettings
from tests.support import Queue

Caller = SqsClient | BotoClient
URL = "http://127.0.0.1:1/000000000000/login-queue"
RECEIVE = {"QueueUrl": URL, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0, "MessageSystemAttributeNames": ["SentTimestamp"]}


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of its own, and nothing of this machine's."""
    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def connect(queue_url: str = URL, **settings: Any) -> Caller:
    return sqs.connect(LoaderSettings(sqs_queue_url=queue_url, pghost="unused", loader_timeout_seconds=2, **settings)).client


def calling(monkeypatch: pytest.MonkeyPatch, endpoint: str, **settings: Any) -> Caller:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    return connect(**settings)


def call(caller: Caller, action: str, **parameters: Any) -> dict[str, Any]:
    """One call, on an event loop of its own, so with connections of its own."""

    async def work() -> dict[str, Any]:
        try:
            return await caller.call(action, {"QueueUrl": URL} | parameters)
        finally:
            if isinstance(caller, SqsClient):  # its connections belong to this loop
                await caller.close()

    return asyncio.run(work())


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def by_hand_and_by_boto3(monkeypatch: pytest.MonkeyPatch, queue: Queue) -> tuple[Caller, Caller]:
    by_hand = calling(monkeypatch, queue.emulator.endpoint_url)
    by_boto3 = calling(monkeypatch, queue.emulator.endpoint_url, loader_sqs_client="boto3")
    assert isinstance(by_hand, SqsClient)
    assert isinstance(by_boto3, BotoClient)
    return by_hand, by_boto3


def test_every_call_is_answered_as_boto3_is(monkeypatch: pytest.MonkeyPatch, queue: Queue) -> None:
    callers = by_hand_and_by_boto3(monkeypatch, queue)
    queue.send("one", '{"zoë": "🦊"}')
    url = {"QueueUrl": queue.url}
    seen: list[list[Any]] = []
    for caller in callers:
        answers = [call(caller, "ReceiveMessage", **RECEIVE | url)]
        messages = sorted(answers[0]["Messages"], key=lambda message: str(message["Body"]))
        handles = [message.pop("ReceiptHandle") for message in messages]  # new with each receive
        entries = [{"Id": str(index), "ReceiptHandle": handle} for index, handle in enumerate([*handles, "invented"])]
        held = [entry | {"VisibilityTimeout": 60} for entry in entries]
        let_go = [entry | {"VisibilityTimeout": 0} for entry in entries]
        answers.append(call(caller, "ChangeMessageVisibilityBatch", Entries=held, **url))
        answers.append(
            call(caller, "GetQueueAttributes", AttributeNames=["VisibilityTimeout", "ApproximateNumberOfMessagesNotVisible"], **url)
        )
        answers.append(call(caller, "ReceiveMessage", **RECEIVE | url))
        answers.append(call(caller, "ChangeMessageVisibilityBatch", Entries=let_go, **url))
        answers.append(call(caller, "DeleteMessageBatch", Entries=entries[-1:], **url))
        for answer in answers:
            answer.pop("ResponseMetadata", None)
        answers[0]["Messages"] = messages
        seen.append(answers)
    assert seen[0] == seen[1]
    assert seen[0][0]["Messages"][1]["Body"] == '{"zoë": "🦊"}'


@pytest.mark.parametrize(
    ("action", "parameters", "code"),
    [
        ("GetQueueAttributes", {"QueueUrl": URL + "-not", "AttributeNames": ["All"]}, "QueueDoesNotExist"),
        ("ReceiveMessage", {"QueueUrl": URL + "-not"}, "QueueDoesNotExist"),
        ("DeleteMessageBatch", {"Entries": [{"Id": "a", "ReceiptHandle": "x"}] * 2}, "BatchEntryIdsNotDistinct"),
        ("DeleteMessageBatch", {"Entries": []}, "EmptyBatchRequest"),
    ],
)
def test_every_error_is_read_as_boto3_reads_it(
    monkeypatch: pytest.MonkeyPatch, queue: Queue, action: str, parameters: dict[str, Any], code: str
) -> None:
    found = []
    for caller in by_hand_and_by_boto3(monkeypatch, queue):
        with pytest.raises(SqsError) as caught:
            call(caller, action, **{"QueueUrl": queue.url} | parameters)
        found.append(caught.value.code)
    assert found == [code, code]


@pytest.mark.parametrize("behaviour", [{"chunked": True}, {"close_every": 1}, {"chunked": True, "close_every": 2}], ids=str)
def test_answers_in_chunks_and_over_closed_connections_are_read(
    monkeypatch: pytest.MonkeyPatch, stub: Stub, behaviour: dict[str, Any]
) -> None:
    stub.control(**behaviour)
    stub.preload(200)

    async def receive_all(caller: Caller) -> set[str]:
        answers = [await caller.call("ReceiveMessage", RECEIVE) for _ in range(20)]
        await caller.close()
        return {message["MessageId"] for answer in answers for message in answer["Messages"]}

    caller = calling(monkeypatch, f"http://127.0.0.1:{stub.port}")
    assert len(asyncio.run(receive_all(caller))) == 200
    assert "close_every" not in behaviour or stub.stats()["connections closed"] >= 10


def test_nobody_there_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SqsError, match=r"Unreachable: 127\.0\.0\.1:1: "):
        call(calling(monkeypatch, "http://127.0.0.1:1"), "ReceiveMessage")


# ── what servers and networks do to answers ──────────────────────────────────────────────────────────────────────────

GOOD = b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"good": true}'
ANSWER = {"good": True}


@contextlib.contextmanager
def scripted(answer: Callable[[int, socket.socket], None], family: socket.AddressFamily = socket.AF_INET) -> Iterator[int]:
    """A server on a port of this machine that has *answer* reply to the n-th request on the connection that it came over."""
    count = iter(range(1_000))

    def converse(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while True:
                data = b""
                while b"\r\n\r\n" not in data:
                    if not (more := connection.recv(65_536)):
                        return
                    data += more
                length = int(data.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                while len(data.partition(b"\r\n\r\n")[2]) < length:
                    data += connection.recv(65_536)
                answer(next(count), connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=converse, args=[connection], daemon=True).start()

    with socket.socket(family) as listener:
        listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        listener.listen()
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def calls(caller: Caller, count: int, between: Callable[[], object] = lambda: None) -> list[dict[str, Any] | SqsError]:
    """So many calls, one after the other, over the same connections; errors too."""

    async def work() -> list[dict[str, Any] | SqsError]:
        answers: list[dict[str, Any] | SqsError] = []
        for _ in range(count):
            try:
                answers.append(await caller.call("ReceiveMessage", RECEIVE))
            except SqsError as error:
                answers.append(error)
            between()
        await caller.close()
        return answers

    return asyncio.run(work())


def test_a_408_in_the_buffer_of_an_idle_connection_answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = threading.Event()

    def answer(number: int, connection: socket.socket) -> None:
        connection.sendall(GOOD)
        if number == 0:
            connection.sendall(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
        sent.set()

    with scripted(answer) as port:
        # the loop does not turn between the calls, so what was sent lies in the buffer
        assert calls(calling(monkeypatch, f"http://127.0.0.1:{port}"), 2, lambda: sent.wait(5)) == [ANSWER, ANSWER]


def test_a_408_that_crosses_a_request_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(number: int, connection: socket.socket) -> None:
        if number == 1:
            connection.sendall(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.sendall(GOOD)

    with scripted(answer) as port:
        assert calls(calling(monkeypatch, f"http://127.0.0.1:{port}"), 2) == [ANSWER, ANSWER]


CORRUPT = {
    "not HTTP": b"\x15\x03\x01\x00\x02\x02",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "a second answer behind it": GOOD + GOOD[:20],
    "a whole second answer": GOOD + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("corrupt", CORRUPT.values(), ids=CORRUPT)
def test_a_corrupt_answer_on_a_reused_connection_spoils_no_other(monkeypatch: pytest.MonkeyPatch, corrupt: bytes) -> None:
    def answer(number: int, connection: socket.socket) -> None:
        connection.sendall(corrupt if number == 1 else GOOD)

    with scripted(answer) as port:
        assert calls(calling(monkeypatch, f"http://127.0.0.1:{port}"), 4) == [ANSWER] * 4


@pytest.mark.parametrize("length", [20, 50])
def test_an_answer_cut_off_in_the_middle_is_unreachable_and_the_next_call_works(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    def answer(number: int, connection: socket.socket) -> None:
        connection.sendall(GOOD[:length] if number == 0 else GOOD)
        if number == 0:
            connection.shutdown(socket.SHUT_RDWR)

    with scripted(answer) as port:
        first, second = calls(calling(monkeypatch, f"http://127.0.0.1:{port}"), 2)
    assert isinstance(first, SqsError)
    assert first.code == "Unreachable"
    assert second == ANSWER


def test_an_answer_in_gzip_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(json.dumps(ANSWER).encode())
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
    with scripted(lambda _, connection: connection.sendall(head + packed)) as port:
        assert calls(calling(monkeypatch, f"http://127.0.0.1:{port}"), 1) == [ANSWER]


@pytest.mark.parametrize("body", [b"null", b"[]", b"7", b'"text"', b"<html>", b"{", b"[" * 100_000, b"\xff"])
def test_an_answer_that_is_no_json_object_is_an_error(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with scripted(lambda _, connection: connection.sendall(head + body)) as port:
        (error,) = calls(calling(monkeypatch, f"http://127.0.0.1:{port}"), 1)
    assert isinstance(error, SqsError)
    assert error.code == "InvalidAnswer"


@pytest.mark.parametrize("body", [b"null", b"[]", b'{"__type": null}', b"<html>"])
def test_an_error_without_a_code_is_known_by_its_status(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    head = f"HTTP/1.1 503 Slow Down\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with scripted(lambda _, connection: connection.sendall(head + body)) as port:
        (error,) = calls(calling(monkeypatch, f"http://127.0.0.1:{port}"), 1)
    assert isinstance(error, SqsError)
    assert error.code == "HTTP 503"


@pytest.mark.parametrize("date", ["yesterday", "Thu, 99 Foo 20266 00:00:00 GMT", "", formatdate(0, usegmt=True)])
def test_a_clock_that_sqs_calls_wrong_is_set_by_its_date_if_that_is_one(monkeypatch: pytest.MonkeyPatch, date: str) -> None:
    body = b'{"__type": "InvalidSignatureException"}'
    head = f"HTTP/1.1 403 Forbidden\r\nDate: {date}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    asked: list[int] = []

    def answer(number: int, connection: socket.socket) -> None:
        asked.append(number)
        connection.sendall(head + body)

    with scripted(answer) as port:
        (error,) = calls(calling(monkeypatch, f"http://127.0.0.1:{port}"), 1)
    assert isinstance(error, SqsError)
    assert error.code == "InvalidSignatureException"
    assert len(asked) == (2 if date.endswith("GMT") and "1970" in date else 1)


def test_an_endpoint_may_be_an_ipv6_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(lambda _, connection: connection.sendall(GOOD), socket.AF_INET6) as port:
        assert calls(calling(monkeypatch, f"http://[::1]:{port}"), 1) == [ANSWER]


def test_no_answer_is_unreachable_and_a_late_one_is_not_taken_for_the_next(monkeypatch: pytest.MonkeyPatch, stub: Stub) -> None:
    async def twice(caller: Caller) -> None:
        stub.control(round_trip=2.5)  # half a second more than the caller waits
        with pytest.raises(SqsError, match=r"Unreachable: 127\.0\.0\.1:\d+: no answer in 2 s"):
            await caller.call("ReceiveMessage", RECEIVE)
        stub.control(round_trip=1)
        assert "Attributes" in await caller.call("GetQueueAttributes", {"QueueUrl": URL})
        await caller.close()

    caller = calling(monkeypatch, f"http://127.0.0.1:{stub.port}")
    asyncio.run(twice(caller))


# ── who to ask, and as whom ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "variables", [{"HTTP_PROXY": "http://127.0.0.1:9"}, {"LOADER_SQS_CLIENT": "boto3"}], ids=["a proxy", "the setting"]
)
def test_boto3_makes_the_calls_where_it_must_or_shall(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in ({"NO_PROXY": "", "no_proxy": ""} | variables).items():
        monkeypatch.setenv(name, value)
    caller = calling(monkeypatch, "http://sqs.invalid:80")
    assert isinstance(caller, BotoClient)
    with pytest.raises(SqsError, match="Unreachable"):
        call(caller, "ReceiveMessage")


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers every call, but refuses the key OLD as expired."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        expired = "Credential=OLD/" in self.headers["Authorization"]
        answer: dict[str, Any] = (
            {"__type": "com.amazon.coral.service#ExpiredTokenException", "message": "expired"} if expired else {"Attributes": {}}
        )
        content = json.dumps(answer).encode()
        self.send_response(403 if expired else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def answering(context: ssl.SSLContext | None = None) -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_credentials_that_expire_in_mid_flight_are_fetched_again() -> None:
    keys = iter(["OLD", "NEW"])
    with answering() as port:
        identity = Identity(lambda: SimpleNamespace(get_frozen_credentials=lambda: ReadOnlyCredentials(next(keys), "secret", None)))
        caller = SqsClient(Endpoint.parse(f"http://127.0.0.1:{port}", "us-east-1"), identity, None, 2)
        assert call(caller, "GetQueueAttributes") == {"Attributes": {}}


def certified(path: Path) -> ssl.SSLContext:
    """A server's context for localhost; the authority that vouches for it is written to *path*."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(path))
    return context


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_tls_is_verified_by_the_bundle_that_boto3_would_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    bundle = tmp_path / "ca.pem"
    with answering(certified(bundle)) as port:
        with pytest.raises(SqsError, match="certificate verify failed"):
            call(calling(monkeypatch, f"https://localhost:{port}"), "GetQueueAttributes")
        monkeypatch.setenv(variable, str(bundle))
        assert call(calling(monkeypatch, f"https://localhost:{port}"), "GetQueueAttributes") == {"Attributes": {}}
        with pytest.raises(SqsError, match="certificate verify failed"):
            call(calling(monkeypatch, f"https://127.0.0.1:{port}"), "GetQueueAttributes")


def test_certificates_are_checked_as_strictly_as_by_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Python 3.13 the standard library's default is stricter, and refuses authorities that boto3 takes."""
    caller = calling(monkeypatch, "https://localhost:1")
    assert isinstance(caller, SqsClient)
    assert caller._tls  # noqa: SLF001  # there is nobody to ask who would show it on this version
    assert not caller._tls.verify_flags & ssl.VERIFY_X509_STRICT  # noqa: SLF001  # as above
    assert caller._tls.check_hostname  # noqa: SLF001  # as above


def test_an_unreadable_bundle_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with pytest.raises(LoaderError, match="AWS_CA_BUNDLE"):
        calling(monkeypatch, "https://localhost:1")
