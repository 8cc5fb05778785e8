"""The obvious loop: receive ten, delete ten, in one thread per receiver."""

import os
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config


def main() -> None:
    """Empty the queue."""
    threads = int(os.environ["LOADER_RECEIVERS"])
    url = os.environ["SQS_QUEUE_URL"]
    client = boto3.client("sqs", config=Config(max_pool_connections=threads))

    def work() -> None:
        while messages := client.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1, MessageSystemAttributeNames=["All"], MessageAttributeNames=["All"]
        ).get("Messages"):
            entries = [{"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]} for index, message in enumerate(messages)]
            client.delete_message_batch(QueueUrl=url, Entries=entries)  # type: ignore[arg-type]  # these are such entries

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work) for _ in range(threads)]:
            future.result()


if __name__ == "__main__":
    main()
