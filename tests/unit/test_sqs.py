"""Messages as SQS describes them, and what is made of its answers."""

import json
from typing import Any

import pytest

from loader.delivery import YEAR_2000_MS
from loader.errors import SqsError
from loader.sqs import DEPTHS, Queue
from tests.unit.memory import fields_of

ATTRIBUTES = {"SentTimestamp": "1790000000123", "ApproximateReceiveCount": "3", "SenderId": "AIDAEXAMPLE"}
GOOD = {"MessageId": "m1", "ReceiptHandle": "handle", "Body": "{}", "MD5OfBody": "99914b932bd37a50b983c5e7c90ae93b"}


class Answers(Queue):
    """A queue whose every call gets one answer."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer, self.asked = answer, dict[str, Any]()
        super().__init__("http://unused", self, 45)  # type: ignore[arg-type]  # it answers as a client does

    async def call(self, _action: str, parameters: dict[str, Any], _wait_seconds: int = 0) -> dict[str, Any]:
        self.asked = parameters
        return json.loads(json.dumps(self.answer))  # type: ignore[no-any-return]  # a dict again


async def test_a_message_is_read_with_everything_that_is_not_in_its_body_and_hidden_from_others() -> None:
    attribute = {"a": {"DataType": "String", "StringValue": "x"}}
    queue = Answers({"Messages": [GOOD | {"Attributes": ATTRIBUTES, "MessageAttributes": attribute}]})
    delivery = await queue.receive(20)
    message_id, sent_at, body, attributes = fields_of(delivery.rows[0])
    assert (message_id, int.from_bytes(sent_at) // 1000 + YEAR_2000_MS, body) == (b"m1", 1_790_000_000_123, b"{}")
    assert json.loads(attributes) == {"ApproximateReceiveCount": 3, "SenderId": "AIDAEXAMPLE", "MessageAttributes": attribute}
    assert (delivery.handles, delivery.sent_ms, delivery.redelivered, delivery.damaged) == (["handle"], [1_790_000_000_123], 1, [])
    assert queue.asked["VisibilityTimeout"] == 45


@pytest.mark.parametrize(
    "change",
    [
        {"Attributes": {}},
        {"Attributes": None},
        {"Attributes": {"SentTimestamp": "soon"}},
        {"Attributes": {"SentTimestamp": "99999999999999999999"}},
        {"MessageId": "a\0b"},
        {"MessageId": None},
        {"ReceiptHandle": ["handle"]},
        {"Body": None},
        {"Body": 7},
        {"MD5OfBody": "0" * 32},
    ],
    ids=str,
)
async def test_one_message_that_is_damaged_is_named_and_the_other_nine_are_taken(change: dict[str, Any]) -> None:
    good = GOOD | {"Attributes": ATTRIBUTES}
    delivery = await Answers({"Messages": [*[good] * 5, good | change, *[good] * 4]}).receive(20)
    assert len(delivery.handles) == len(delivery.rows) == len(delivery.sent_ms) == 9
    assert len(delivery.damaged) == 1
    assert "{}" not in delivery.damaged[0]


async def test_a_delete_that_sqs_does_not_confirm_is_none() -> None:
    answer = {"Successful": [{"Id": "0"}], "Failed": [{"Id": "1", "Code": "InternalError"}]}
    assert await Answers(answer).delete(["a", "b", "c"]) == {"b": "InternalError", "c": "NoAnswer"}


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("receive", {"Messages": {"a": 1}}),
        ("receive", {"Messages": "text"}),
        ("receive", {"Messages": 7}),
        ("delete", {"Successful": [{}]}),
        ("delete", {"Successful": 7}),
        ("delete", {"Failed": ["text"]}),
        ("depth", {"Attributes": None}),
        ("depth", {"Attributes": dict.fromkeys(DEPTHS, "many")}),
    ],
)
async def test_an_answer_that_is_none_of_sqs_is_an_error(method: str, answer: dict[str, Any]) -> None:
    arguments: dict[str, list[Any]] = {"receive": [20], "delete": [["a"]], "depth": []}
    with pytest.raises(SqsError, match="InvalidAnswer"):
        await getattr(Answers(answer), method)(*arguments[method])
