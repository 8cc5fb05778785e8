"""A stand-in for SQS that costs the same however deep the queue is, with a round trip and faults to order.

It speaks the calls that the loader makes (AWS JSON 1.0), with SQS's visibility semantics: a received message is hidden
until its time-out passes; each receive makes a new receipt handle; a delete with an old handle succeeds without deleting; a message
that was received too often moves to the dead-letter queue. It does not check signatures, only their time.

`python -m benchmarks.stub` serves; `Stub` starts that in a process of its own and steers it over HTTP: POST /control changes
`Behaviour`, POST /preload adds messages, GET /stats counts what was served and which faults really happened.
"""

import asyncio
import datetime as dt
import hashlib
import heapq
import http.client
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

BATCH = 10
SKEW_SECONDS = 300  # what AWS allows
# As long as SQS's receipt handles are.
PADDING = "A" * 380

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
ACTION = re.compile(rb"x-amz-target: *AmazonSQS\.(\w+)", re.IGNORECASE)
DATE = re.compile(rb"x-amz-date: *(\w+)", re.IGNORECASE)
WAIT = re.compile(rb'"WaitTimeSeconds": ?(\d+)')
VISIBILITY = re.compile(rb'"VisibilityTimeout": ?(\d+)')
HANDLE = re.compile(rb'"ReceiptHandle": ?"(\d+)-(\d+)-')


@dataclass(slots=True)
class Behaviour:
    """How the stub answers; rates are between 0 and 1, times in seconds."""

    round_trip: float = 0.0
    visibility: int = 30  # the queue's own, for receives that do not say theirs
    max_receives: int = 0  # more than so many, and a message goes to the dead-letter queue; 0: never
    error_rate: float = 0.0  # HTTP 500 without having done anything
    throttle_rate: float = 0.0  # RequestThrottled
    over_limit_rate: float = 0.0  # OverLimit, for receives
    entry_failure_rate: float = 0.0  # InternalError for single entries of a delete
    lose_answer_rate: float = 0.0  # the delete is done, and the connection closes without an answer
    duplicate_rate: float = 0.0  # a message is handed out twice in one reply, under two handles
    redeliver_rate: float = 0.0  # a message that was just handed out is visible again at once
    corrupt_rate: float = 0.0  # the body does not match its digest
    checks_time: bool = False  # refuse a signature whose time is not this machine's, within what AWS allows
    fail_next: dict[str, int] = field(default_factory=dict)  # so many next calls of an action: InternalError
    denied: list[str] = field(default_factory=list)  # actions that are refused
    denied_code: str = "AccessDeniedException"
    hold: list[str] = field(default_factory=list)  # actions that are done, and never answered
    chunked: bool = False  # answer in chunked encoding
    close_every: int = 0  # close the connection after every so many answers


@dataclass(slots=True)
class Stored:
    """The queue: per message its SentTimestamp (0: deleted) and how often it was received."""

    sent_ms: list[int] = field(default_factory=list)
    receives: list[int] = field(default_factory=list)
    copies_of: dict[int, int] = field(default_factory=dict)  # redriven message to the one whose body it has
    visible: deque[int] = field(default_factory=deque)
    in_flight: dict[int, float] = field(default_factory=dict)  # message to when it is visible again
    deadlines: list[tuple[float, int]] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    deleted: int = 0


def message_id(number: int) -> str:
    """The MessageId of the stub's message *number*."""
    return f"{number:08x}-0000-4000-8000-{number:012x}"


def body(number: int) -> str:
    """A login as the real queue has them, 170 bytes, from the address ranges for documentation."""
    return (
        f'{{"user_id":"00000000-0000-4000-8000-{number % 50_000:012x}","app_version":"2.3.{number % 7}","device_type":"android",'
        f'"ip":"198.51.100.{number % 256}","locale":"RU","device_id":"{number % 1000:03d}-{number % 97:02d}-{number % 10_000:04d}"}}'
    )


class Server:
    """The queue and its counters."""

    def __init__(self, behaviour: Behaviour) -> None:
        """Start empty."""
        self.behaviour = behaviour
        self.stored = Stored()
        self.stats: dict[str, int] = {}
        self.random = random.Random(1)  # noqa: S311  # the same faults in every run
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.polls: set[asyncio.Task[None]] = set()
        self.receiving = 0
        self.started_at = 0.0
        self.ended_at = 0.0

    def count(self, what: str, by: int = 1) -> None:
        """Note that *what* happened."""
        self.stats[what] = self.stats.get(what, 0) + by

    def preload(self, messages: int, sent_ms: int | None = None) -> None:
        """Put *messages* new messages on the queue."""
        first = len(self.stored.sent_ms)
        sent_ms = int(time.time() * 1000) if sent_ms is None else sent_ms
        self.stored.sent_ms += [sent_ms] * messages
        self.stored.receives += [0] * messages
        self.stored.visible.extend(range(first, first + messages))
        self._wake()

    def lapse(self) -> int:
        """Have every visibility time-out end now, as if it had passed."""
        numbers = list(self.stored.in_flight)
        for number in numbers:
            self._hide(number, -1)
        self.expire()
        return len(numbers)

    def redrive(self) -> int:
        """Move the dead letters back, as AWS does: as new messages with new ids."""
        dead, self.stored.dead = self.stored.dead, []
        for number in dead:
            self.stored.copies_of[len(self.stored.sent_ms)] = number
            self.preload(1)
        return len(dead)

    def happens(self, rate: float) -> bool:
        """Whether a fault of this *rate* strikes now."""
        return rate > 0 and self.random.random() < rate

    def expire(self) -> None:
        """Make visible again what was not deleted in time."""
        stored, now = self.stored, time.monotonic()
        while stored.deadlines and stored.deadlines[0][0] <= now:
            deadline, number = heapq.heappop(stored.deadlines)
            if stored.in_flight.get(number) == deadline:
                del stored.in_flight[number]
                stored.visible.append(number)
                self.count("expired")
                self._wake()

    def take(self, seconds: int) -> bytes:
        """Up to ten visible messages, hidden for *seconds*, as the body of a ReceiveMessage answer."""
        stored, behaviour = self.stored, self.behaviour
        self.expire()
        found: list[str] = []
        while stored.visible and len(found) < BATCH:
            number = stored.visible.popleft()
            if not stored.sent_ms[number]:
                continue
            stored.receives[number] += 1
            if behaviour.max_receives and stored.receives[number] > behaviour.max_receives:
                stored.dead.append(number)
                stored.receives[number] = 0
                self.count("dead")
                continue
            found.append(self.render(number))
            self._hide(number, seconds)
            if self.happens(behaviour.duplicate_rate) and len(found) < BATCH:
                stored.receives[number] += 1
                found.append(self.render(number))
                self.count("duplicated in a batch")
            elif self.happens(behaviour.redeliver_rate):
                del stored.in_flight[number]
                stored.visible.append(number)
                self.count("redelivered at once")
        if not found:
            return b"{}"
        self.count("handed out", len(found))
        self.stats["most in flight"] = max(self.stats.get("most in flight", 0), len(stored.in_flight))
        self.started_at = self.started_at or time.monotonic()
        return ('{"Messages":[' + ",".join(found) + "]}").encode()

    def render(self, number: int) -> str:
        """One message in JSON, with a new handle."""
        text = body(self.stored.copies_of.get(number, number))
        digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        if self.happens(self.behaviour.corrupt_rate):
            self.count("corrupted")
            text = text.replace("android", "andr0id")
        quoted = text.replace('"', '\\"')
        return (
            f'{{"MessageId":"{message_id(number)}","ReceiptHandle":"{number}-{self.stored.receives[number]}-{PADDING}","MD5OfBody":"{digest}",'
            f'"Body":"{quoted}","Attributes":{{'
            f'"ApproximateReceiveCount":"{self.stored.receives[number]}","SentTimestamp":"{self.stored.sent_ms[number]}"}}}}'
        )

    def delete(self, request: bytes) -> bytes:
        """DeleteMessageBatch."""
        stored = self.stored
        handles = HANDLE.findall(request)
        if not handles:
            return b'{"Failed":[{"Id":"0","Code":"ReceiptHandleIsInvalid","SenderFault":true,"Message":"The receipt handle is invalid."}]}'
        failed: list[str] = []
        done: list[str] = []
        for index, (number_text, receive_text) in enumerate(handles):
            if self.happens(self.behaviour.entry_failure_rate):
                failed.append(f'{{"Id":"{index}","Code":"InternalError","SenderFault":false,"Message":"try again"}}')
                continue
            number = int(number_text)
            done.append(f'{{"Id":"{index}"}}')
            if stored.receives[number] != int(receive_text):
                self.count("deletes with an old handle")
            elif stored.sent_ms[number]:
                stored.sent_ms[number] = 0
                stored.in_flight.pop(number, None)
                stored.deleted += 1
        self.ended_at = time.monotonic()
        self.count("failed entries", len(failed))
        return f'{{"Successful":[{",".join(done)}],"Failed":[{",".join(failed)}]}}'.encode()

    def change(self, request: bytes) -> bytes:
        """ChangeMessageVisibilityBatch."""
        stored = self.stored
        done: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        for index, entry in enumerate(json.loads(request)["Entries"]):
            handle = re.match(r"(\d+)-(\d+)-", entry["ReceiptHandle"])
            if not handle:
                failed.append({"Id": entry["Id"], "Code": "ReceiptHandleIsInvalid", "SenderFault": True})
                continue
            number = int(handle[1])
            if number not in stored.in_flight or stored.receives[number] != int(handle[2]):
                failed.append({"Id": str(index), "Code": "InvalidParameterValue", "SenderFault": True})
                self.count("extensions refused")
            elif entry["VisibilityTimeout"]:
                done.append({"Id": str(index)})
                self._hide(number, entry["VisibilityTimeout"])
                self.count("extended")
            else:
                done.append({"Id": str(index)})
                del stored.in_flight[number]
                stored.visible.append(number)
                self.count("released")
                self._wake()
        return json.dumps({"Successful": done, "Failed": failed}).encode()

    def attributes(self) -> bytes:
        """GetQueueAttributes, all that anyone asks for."""
        self.expire()
        stored = self.stored
        return json.dumps(
            {
                "Attributes": {
                    "VisibilityTimeout": str(self.behaviour.visibility),
                    "ApproximateNumberOfMessages": str(
                        len(stored.sent_ms) - stored.deleted - len(stored.in_flight) - len(stored.dead) - self.moved
                    ),
                    "ApproximateNumberOfMessagesNotVisible": str(len(stored.in_flight)),
                    "ApproximateNumberOfMessagesDelayed": "0",
                }
            }
        ).encode()

    @property
    def moved(self) -> int:
        """How many messages were replaced by their redriven copies."""
        return len(self.stored.copies_of)

    def _hide(self, number: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self.stored.in_flight[number] = deadline
        heapq.heappush(self.stored.deadlines, (deadline, number))

    def _wake(self) -> None:
        while self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)


class Session(asyncio.Protocol):
    """One client connection."""

    def __init__(self, server: Server) -> None:
        """Serve *server*'s queue."""
        self.server = server
        self.buffer = b""
        self.answers = 0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # create_server makes no other
        self.transport = transport
        self.server.count("connections")

    def data_received(self, data: bytes) -> None:
        """Answer every complete request in *data*."""
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            length = LENGTH.search(head)
            total = end + 4 + (int(length[1]) if length else 0)
            if len(self.buffer) < total:
                return
            request, self.buffer = self.buffer[end + 4 : total], self.buffer[total:]
            self.dispatch(head, request)

    def dispatch(self, head: bytes, request: bytes) -> None:
        """Do what the request asks for, unless a fault is due."""
        found = ACTION.search(head)
        if not found:
            self.steer(head, request)
            return
        action = found[1].decode()
        self.server.count(action)
        if self.refuses_time(head) or self.refuses(action):
            return
        if action == "ReceiveMessage":
            self.receive(request)
        elif action == "DeleteMessageBatch":
            self.delete(request)
        elif action == "ChangeMessageVisibilityBatch":
            self.answer(self.server.change(request), action)
        elif action == "GetQueueAttributes":
            self.answer(self.server.attributes(), action)
        else:
            self.fail(400, "UnsupportedOperation", "unsupported")

    def refuses(self, action: str) -> bool:
        """Fail the whole call, if a fault is due."""
        server, behaviour = self.server, self.server.behaviour
        if action in behaviour.denied:
            self.fail(403, behaviour.denied_code, f"denied {action}")
        elif behaviour.fail_next.get(action):
            behaviour.fail_next[action] -= 1
            self.fail(500, "InternalError", f"failed {action}")
        elif server.happens(behaviour.error_rate):
            self.fail(500, "InternalError", "errors")
        elif server.happens(behaviour.throttle_rate):
            self.fail(400, "RequestThrottled", "throttled")
        elif action == "ReceiveMessage" and server.happens(behaviour.over_limit_rate):
            self.fail(403, "OverLimit", "over limit")
        else:
            return False
        return True

    def delete(self, request: bytes) -> None:
        """DeleteMessageBatch, whose answer may get lost."""
        answer = self.server.delete(request)
        if b'"probe"' in request:
            self.write(answer)
        elif self.server.happens(self.server.behaviour.lose_answer_rate):
            self.server.count("answers lost")
            self.transport.abort()
        else:
            self.answer(answer, "DeleteMessageBatch")

    def refuses_time(self, head: bytes) -> bool:
        """Refuse a signature that is too old or too new."""
        signed = DATE.search(head) if self.server.behaviour.checks_time else None
        if not signed:
            return False
        at = dt.datetime.strptime(signed[1].decode(), "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC).timestamp()
        if abs(time.time() - at) < SKEW_SECONDS:
            self.server.count("signed in time")
            return False
        self.fail(403, "InvalidSignatureException", "refused for their time")
        return True

    def receive(self, request: bytes) -> None:
        """ReceiveMessage, held back until something comes or its time is over."""
        server = self.server
        server.receiving += 1
        server.stats["most receives at once"] = max(server.stats.get("most receives at once", 0), server.receiving)
        visibility = VISIBILITY.search(request)
        seconds = int(visibility[1]) if visibility else self.server.behaviour.visibility
        answer = self.server.take(seconds)
        wait = WAIT.search(request)
        if answer != b"{}" or not wait or wait[1] == b"0":
            self.answer(answer, "ReceiveMessage")
        else:
            self.server.count(f"long polls of {int(wait[1])} s")
            task = asyncio.get_running_loop().create_task(self.poll(time.monotonic() + int(wait[1]), seconds))
            self.server.polls.add(task)
            task.add_done_callback(self.server.polls.discard)

    async def poll(self, until: float, seconds: int) -> None:
        """Long polling."""
        answer = b"{}"
        while answer == b"{}" and (left := until - time.monotonic()) > 0 and not self.transport.is_closing():
            deadlines = self.server.stored.deadlines
            nearest = max(0.001, deadlines[0][0] - time.monotonic()) if deadlines else left
            waiter = asyncio.get_running_loop().create_future()
            self.server.waiting.append(waiter)
            await asyncio.wait([waiter], timeout=min(left, nearest))
            if not self.transport.is_closing():
                answer = self.server.take(seconds)
        self.answer(answer, "ReceiveMessage")

    def fail(self, status: int, code: str, what: str) -> None:
        """Answer with an error and count it."""
        self.server.count(what)
        self.write(json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "from the stub"}).encode(), status)

    def answer(self, answer: bytes, action: str) -> None:
        """Answer after the round trip."""
        behaviour = self.server.behaviour
        if action in behaviour.hold:
            self.server.count(f"held {action}")
        elif behaviour.round_trip:
            asyncio.get_running_loop().call_later(behaviour.round_trip, self.finish, answer, action)
        else:
            self.finish(answer, action)

    def finish(self, answer: bytes, action: str) -> None:
        """Answer now."""
        self.server.receiving -= action == "ReceiveMessage"
        self.write(answer)

    def write(self, answer: bytes, status: int = 200) -> None:
        """Send an HTTP answer."""
        behaviour = self.server.behaviour
        if self.transport.is_closing():
            return
        head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/x-amz-json-1.0\r\n"
        if status != 200:  # noqa: PLR2004
            head += f"Date: {dt.datetime.now(dt.UTC):%a, %d %b %Y %H:%M:%S} GMT\r\n"
        if behaviour.chunked:
            half = len(answer) // 2
            pieces = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (answer[:half], answer[half:]) if piece)
            self.transport.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + pieces + b"0\r\n\r\n")
        else:
            self.transport.write(f"{head}Content-Length: {len(answer)}\r\n\r\n".encode() + answer)
        self.answers += 1
        if behaviour.close_every and self.answers % behaviour.close_every == 0:
            self.server.count("connections closed")
            self.transport.close()

    def steer(self, head: bytes, request: bytes) -> None:
        """The calls that control this stub."""
        path = head.split(b" ", 2)[1].decode()
        server = self.server
        if path == "/control":
            for name, value in json.loads(request).items():
                setattr(server.behaviour, name, value)
        elif path == "/preload":
            server.preload(**json.loads(request))
        elif path == "/lapse":
            server.count("lapsed", server.lapse())
        elif path == "/redrive":
            server.count("redriven", server.redrive())
        server.expire()
        stored = server.stored
        left = sum(1 for sent_ms in stored.sent_ms if sent_ms) - len(stored.dead) - server.moved if path == "/stats" else -1
        stats = {
            **server.stats,
            "left": left,
            "deleted": stored.deleted,
            "in flight": len(stored.in_flight),
            "dead now": len(stored.dead),
            "polls": len(server.polls),
        }
        gone = [number for number, sent_ms in enumerate(stored.sent_ms) if not sent_ms] if path == "/deleted" else []
        self.write(json.dumps({"stats": stats, "seconds": server.ended_at - server.started_at, "deleted": gone}).encode())


async def serve() -> None:
    """Serve until SIGTERM, on a free port which is the first line of stdout."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = Server(Behaviour())
    listener = await loop.create_server(lambda: Session(server), "127.0.0.1", 0, backlog=1000)
    sys.stdout.write(f"{listener.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await stop.wait()


@dataclass(frozen=True, slots=True)
class Stub:
    """A running stub, controlled over HTTP."""

    port: int
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make a loader use this stub."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "stub",
            "AWS_SECRET_ACCESS_KEY": "stub",
            "SQS_QUEUE_URL": f"http://127.0.0.1:{self.port}/000000000000/login-queue",
        }

    def control(self, **changes: Any) -> None:
        """Change the behaviour; see `Behaviour`."""
        self._post("/control", changes)

    def preload(self, messages: int, sent_ms: int | None = None) -> None:
        """Put *messages* new messages on the queue."""
        self._post("/preload", {"messages": messages, "sent_ms": sent_ms})

    def redrive(self) -> None:
        """Move the dead letters back to the queue."""
        self._post("/redrive", {})

    def lapse(self) -> None:
        """Have every visibility time-out end now."""
        self._post("/lapse", {})

    def stats(self) -> dict[str, int]:
        """What was served, and which faults happened."""
        stats: dict[str, int] = self._post("/stats", {})["stats"]
        return stats

    def deleted(self) -> set[str]:
        """The ids of the messages that were deleted."""
        return {message_id(number) for number in self._post("/deleted", {})["deleted"]}

    def seconds(self) -> float:
        """From the first message handed out to the last delete, each without its round trip."""
        return float(self._post("/seconds", {})["seconds"])

    def _post(self, path: str, content: dict[str, Any]) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", path, json.dumps(content))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@contextmanager
def running() -> Iterator[Stub]:
    """Start a stub in its own process, and end it afterwards."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks.stub"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101  # it is a pipe, just above
        try:
            yield Stub(int(process.stdout.readline()), process.pid)
        finally:
            process.terminate()


if __name__ == "__main__":
    asyncio.run(serve())
