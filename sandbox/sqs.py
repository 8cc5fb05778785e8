"""SQS for one machine: the calls that this project makes (AWS JSON 1.0), on standard queues in one SQLite file.

AWS has and this has not: FIFO queues, permissions, signatures, the expiry of old messages. This has and AWS has not: a sender may
give a SentTimestamp in the past as a system attribute, so that the sample spans weeks.

`python -m sandbox.sqs HOST PORT FILE` serves until it is terminated.
"""

import hashlib
import json
import re
import select
import socket
import sqlite3
import sys
import threading
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REGION, ACCOUNT = "us-east-1", "000000000000"
ARN = f"arn:aws:sqs:{REGION}:{ACCOUNT}:"
MAX_BYTES = 1_048_576  # of a message, and of a batch (SQS's developer guide, "Message quotas")
MAX_ENTRIES = 10
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # API reference of SendMessage
DEFAULTS = {"VisibilityTimeout": "30", "ReceiveMessageWaitTimeSeconds": "0", "DelaySeconds": "0"}
OLDER_CODES = {"QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue"}

SCHEMA = """
pragma journal_mode = truncate; -- a log of changes would keep deleted bodies
pragma secure_delete = on; -- bodies are personal data
pragma synchronous = off; -- survives a crash of this process, not of the machine
pragma foreign_keys = on;
create table if not exists queues (name text primary key, attributes text not null);
create table if not exists messages (
    number integer primary key autoincrement,
    queue text not null references queues on delete cascade,
    message_id text not null,
    body text not null,
    attributes text not null,
    sent_ms integer not null,
    visible_ms integer not null,
    receives integer not null default 0,
    source_arn text
);
create index if not exists visible on messages (queue, visible_ms);
"""
COUNTS = """
select
    count(*) filter (where visible_ms <= :now) as ApproximateNumberOfMessages,
    count(*) filter (where visible_ms > :now and receives > 0) as ApproximateNumberOfMessagesNotVisible,
    count(*) filter (where visible_ms > :now and receives = 0) as ApproximateNumberOfMessagesDelayed
from messages where queue = :queue
"""
TAKE = """
update messages set receives = receives + 1, visible_ms = :hidden_until
where number in (select number from messages where queue = :queue and visible_ms <= :now order by visible_ms, number limit :most)
returning *
"""
Content = dict[str, Any]


class Refusal(Exception):  # noqa: N818  what SQS says, no fault of this program
    """An answer that is an error: SQS's *code* and a message without any part of a body."""

    def __init__(self, code: str, message: str = "") -> None:
        """Keep both."""
        super().__init__(message or code)
        self.code = code


class Queues:
    """The queues in the file at *path*. Each call is one transaction, and calls take turns."""

    def __init__(self, path: str) -> None:
        """Open the file, or make it."""
        self.database = sqlite3.connect(path, check_same_thread=False)
        self.database.row_factory = sqlite3.Row
        self.database.executescript(SCHEMA)
        self.changed = threading.Condition()

    def call(self, action: str, request: Content, host: str, alive: Callable[[], bool]) -> Content:
        """Do *action*; a receive waits while the client is *alive*. Raises Refusal."""
        name = str(request.get("QueueUrl") or request["QueueName"]).rpartition("/")[2]
        with self.changed:
            if action == "ReceiveMessage":
                return self._receive(name, request, alive)
            with self.database:
                if action == "CreateQueue":
                    self._do("insert into queues values (?, ?) on conflict do nothing", name, json.dumps(_settable(request)))
                attributes = self._attributes(name)
                if action in {"CreateQueue", "GetQueueUrl"}:
                    return {"QueueUrl": f"http://{host}/{ACCOUNT}/{name}"}
                call = CALLS.get(action.removesuffix("Batch"))
                if call is None:
                    raise Refusal("UnsupportedOperation", f"This emulator has no {action}.")
                if action.endswith("Batch"):
                    return _batch(lambda entry: call(self, name, attributes, entry), request["Entries"])
                return call(self, name, attributes, request)

    def _do(self, statement: str, *values: object, **named: object) -> sqlite3.Cursor:
        return self.database.execute(statement, named or values)

    def _attributes(self, name: str) -> Content:
        found = self._do("select attributes from queues where name = ?", name).fetchone()
        if found is None:
            raise Refusal("QueueDoesNotExist", "The specified queue does not exist.")
        return {**DEFAULTS, **json.loads(found["attributes"])}

    def _get_attributes(self, name: str, attributes: Content, request: Content) -> Content:
        counts = {key: str(count) for key, count in dict(self._do(COUNTS, now=_now(), queue=name).fetchone()).items()}
        known, wanted = {**attributes, **counts, "QueueArn": ARN + name}, request.get("AttributeNames", [])
        return {"Attributes": {key: value for key, value in known.items() if key in wanted or "All" in wanted}}

    def _set_attributes(self, name: str, attributes: Content, request: Content) -> Content:
        self._do("update queues set attributes = ? where name = ?", json.dumps(attributes | _settable(request)), name)
        return {}

    def _delete_queue(self, name: str, _attributes: Content, _request: Content) -> Content:
        self._do("delete from queues where name = ?", name)
        return {}

    def _purge(self, name: str, _attributes: Content, _request: Content) -> Content:
        self._do("delete from messages where queue = ?", name)
        return {}

    def _send(self, name: str, attributes: Content, entry: Content) -> Content:
        body, now, message_id = entry["MessageBody"], _now(), str(uuid.uuid4())
        if not body or FORBIDDEN.search(body):
            raise Refusal("InvalidMessageContents" if body else "MissingParameter")
        if len(body.encode()) > MAX_BYTES:
            raise Refusal("InvalidParameterValue", f"A message has at most {MAX_BYTES} bytes.")
        sent_ms = _number(entry.get("MessageSystemAttributes", {}).get("SentTimestamp", {}), "StringValue", now)
        visible_ms = now + 1000 * _number(entry, "DelaySeconds", attributes["DelaySeconds"])
        row = (name, message_id, body, json.dumps(entry.get("MessageAttributes", {})), min(sent_ms, now), visible_ms)
        self._do("insert into messages values (null, ?, ?, ?, ?, ?, ?, 0, null)", *row)
        self.changed.notify_all()
        return {"MessageId": message_id, "MD5OfMessageBody": _md5(body)}

    def _delete(self, name: str, _attributes: Content, entry: Content) -> Content:
        # the handle of an earlier receive succeeds without deleting
        self._do("delete from messages where number = ? and receives = ? and queue = ?", *_handle(entry), name)
        return {}

    def _change_visibility(self, name: str, _attributes: Content, entry: Content) -> Content:
        update = "update messages set visible_ms = ? where number = ? and receives = ? and queue = ? and visible_ms > ?"
        now = _now()
        if not self._do(update, now + 1000 * int(entry["VisibilityTimeout"]), *_handle(entry), name, now).rowcount:
            raise Refusal("MessageNotInflight", "The message is not in flight under this receipt handle.")
        self.changed.notify_all()
        return {}

    def _receive(self, name: str, request: Content, alive: Callable[[], bool]) -> Content:
        deadline = time.monotonic() + _number(request, "WaitTimeSeconds", self._attributes(name)["ReceiveMessageWaitTimeSeconds"])
        while alive():
            with self.database:
                found = self._take(name, self._attributes(name), request)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return {"Messages": found} if found else {}
            now = _now()
            hidden = self._do("select min(visible_ms) as ms from messages where queue = ? and visible_ms > ?", name, now).fetchone()
            self.changed.wait(min(left, (hidden["ms"] - now) / 1000) if hidden["ms"] else left)
        return {}

    def _take(self, name: str, attributes: Content, request: Content) -> list[Content]:
        """Up to MaxNumberOfMessages visible messages, hidden from now on; one received too often becomes a dead letter instead."""
        now, policy = _now(), json.loads(attributes.get("RedrivePolicy", "null"))
        if policy:
            dead = "update messages set queue = ?, source_arn = ? where queue = ? and visible_ms <= ? and receives >= ?"
            target = policy["deadLetterTargetArn"].rpartition(":")[2]
            self._do(dead, target, ARN + name, name, now, int(policy["maxReceiveCount"]))
        hidden_until = now + 1000 * _number(request, "VisibilityTimeout", attributes["VisibilityTimeout"])
        most = _number(request, "MaxNumberOfMessages", 1)
        found = self._do(TAKE, hidden_until=hidden_until, queue=name, now=now, most=most).fetchall()
        return [_message(row, request) for row in sorted(found, key=lambda row: int(row["number"]))]


CALLS: dict[str, Callable[[Queues, str, Content, Content], Content]] = {
    "GetQueueAttributes": Queues._get_attributes,  # noqa: SLF001  this table is all that calls them
    "SetQueueAttributes": Queues._set_attributes,  # noqa: SLF001
    "DeleteQueue": Queues._delete_queue,  # noqa: SLF001
    "PurgeQueue": Queues._purge,  # noqa: SLF001
    "SendMessage": Queues._send,  # noqa: SLF001
    "DeleteMessage": Queues._delete,  # noqa: SLF001
    "ChangeMessageVisibility": Queues._change_visibility,  # noqa: SLF001
}


def _batch(call: Callable[[Content], Content], entries: list[Content]) -> Content:
    """Do *call* for each entry; one that is refused leaves the others done."""
    if not 0 < len(entries) <= MAX_ENTRIES:
        raise Refusal("TooManyEntriesInBatchRequest" if entries else "EmptyBatchRequest")
    if len({entry["Id"] for entry in entries}) < len(entries):
        raise Refusal("BatchEntryIdsNotDistinct")
    if sum(len(entry.get("MessageBody", "").encode(errors="replace")) for entry in entries) > MAX_BYTES:
        raise Refusal("BatchRequestTooLong")
    answer: Content = {"Successful": [], "Failed": []}
    for entry in entries:
        try:
            answer["Successful"].append({"Id": entry["Id"], **call(entry)})
        except Refusal as refusal:
            answer["Failed"].append({"Id": entry["Id"], "Code": refusal.code, "Message": str(refusal), "SenderFault": True})
    return answer


def _message(row: sqlite3.Row, request: Content) -> Content:
    """A received message, with the system attributes and message attributes that *request* asks for."""
    wanted = {*request.get("AttributeNames", []), *request.get("MessageSystemAttributeNames", [])}
    known = {"SentTimestamp": row["sent_ms"], "ApproximateReceiveCount": row["receives"], "DeadLetterQueueSourceArn": row["source_arn"]}
    parts = {
        "MessageId": row["message_id"],
        "ReceiptHandle": f"{row['number']}-{row['receives']}",
        "Body": row["body"],
        "MD5OfBody": _md5(row["body"]),
        "Attributes": {name: str(value) for name, value in known.items() if value is not None and wanted & {name, "All"}},
        "MessageAttributes": json.loads(row["attributes"]) if request.get("MessageAttributeNames") else {},
    }
    return {name: value for name, value in parts.items() if value}


def _settable(request: Content) -> Content:
    attributes: Content = request.get("Attributes", {})
    if unknown := attributes.keys() - {*DEFAULTS, "RedrivePolicy"}:
        raise Refusal("InvalidAttributeName", f"This emulator has no {', '.join(sorted(unknown))}.")
    return attributes


def _handle(entry: Content) -> tuple[str, ...]:
    """The message's number, and which of its receives this is."""
    found = re.fullmatch(r"(\d+)-(\d+)", entry["ReceiptHandle"])
    if not found:
        raise Refusal("ReceiptHandleIsInvalid")
    return found.groups()


def _number(content: Content, name: str, default: Any) -> int:
    return int(content.get(name, default))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Handler(BaseHTTPRequestHandler):
    """One client's connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer is one packet
    queues: Queues

    def do_POST(self) -> None:
        """Answer one call."""
        action = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            self._answer(self.queues.call(action, json.loads(body), self.headers.get("Host", ""), self._alive))
        except Refusal as refusal:
            self._refuse(refusal.code, str(refusal))
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # an ill-formed request, of which nothing is repeated
            self._refuse("InvalidParameterValue", type(error).__name__)

    def do_GET(self) -> None:
        """Say that the server is up."""
        self._answer({})

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def _alive(self) -> bool:
        """Whether the client is there still: a message must not go to one that was killed while it waited."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return not readable or bool(self.connection.recv(1, socket.MSG_PEEK))

    def _refuse(self, code: str, message: str) -> None:
        self._answer({"__type": f"com.amazonaws.sqs#{code}", "message": message}, f"{OLDER_CODES.get(code, code)};Sender")

    def _answer(self, content: Content, error: str = "") -> None:
        data = json.dumps(content).encode()
        self.send_response(400 if error else 200)
        self.send_header("Content-Length", str(len(data)))
        if error:
            self.send_header("x-amzn-query-error", error)
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """A thread for each connection; they end with the process."""

    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, _request: object, _address: object) -> None:
        """Say nothing of a client that went away, and of anything else its kind alone."""
        if not isinstance(error := sys.exc_info()[1], OSError):
            sys.stderr.write(f"a call failed: {type(error).__name__}\n")


if __name__ == "__main__":
    Handler.queues = Queues(sys.argv[3])
    Server((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
