#!/usr/bin/env python3
"""Takes the stage `diagnose` over: reads anomalies, writes diagnoses, each exactly once.

The node leaves the stage alone with `diagnose = "external"` in the section `[stages]` of its settings. Any number of
diagnosers share the partitions; each needs an --instance of its own.
"""

import argparse
import hashlib
import json
import signal
import socket
import sys
import uuid
from datetime import datetime, timezone
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "clients"))

import cluster
from rules import diagnose

BATCH_RECORDS_MAX = 256
"""The most anomalies of one transaction."""

ORIGINAL_BYTES_MAX = 256 * 1024
"""The most that a dead letter keeps of what could not be read."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="python", help="who diagnosed, in the field `diagnosed_by`")
    parser.add_argument("--instance", default=socket.gethostname(), help="which of the diagnosers of this name it is")
    parser.add_argument(
        "--begin",
        choices=["earliest", "latest"],
        default="earliest",
        help="where the first one ever begins: `latest` where a node has diagnosed what is there",
    )
    parser.add_argument(
        "--session-timeout-ms",
        type=int,
        default=10_000,
        help="how long one that is silent keeps its partitions; at least what the brokers take, mostly 6000",
    )
    cluster.add_arguments(parser)
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    diagnoser = Diagnoser(arguments)
    try:
        while not stopping:
            diagnoser.take_batch()
    except KafkaException as error:
        # Nothing is half done: the same command goes on where the last transaction ended.
        cluster.fail(cluster.OUTSIDE, f"start it again: {error.args[0].str()}")
    finally:
        # The partitions go to the others at once.
        diagnoser.consumer.close()


stopping = []


def stop(number, _frame) -> None:
    stopping.append(number)


class Diagnoser:
    """One consumer and one transactional producer: what was read, and what came of it, is committed as one."""

    def __init__(self, arguments: argparse.Namespace):
        self.prefix, self.name = arguments.prefix, arguments.name
        complaints = cluster.Complaints()
        shared = cluster.settings(arguments) | {"error_cb": complaints}
        consumer = {
            "group.id": f"{self.prefix}-diagnose-{self.name}",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": arguments.begin,
            "session.timeout.ms": arguments.session_timeout_ms,
            "heartbeat.interval.ms": min(3_000, arguments.session_timeout_ms // 3),
        }
        producer = {
            # A new process of this name ends what a dead one left open.
            "transactional.id": f"{self.prefix}-diagnose-{self.name}-{arguments.instance}",
            # Whoever gets its partitions finds none open.
            "transaction.timeout.ms": arguments.session_timeout_ms // 2,
            "linger.ms": 0,
        }
        try:
            self.consumer, self.producer = Consumer(shared | consumer), Producer(shared | producer)
        except KafkaException as error:
            cluster.fail(cluster.USAGE, error.args[0].str())
        for topic in ("anomalies", "diagnoses", "dead-letters"):
            cluster.check(self.consumer, arguments, complaints, topic)
        try:
            self.producer.init_transactions(30)
        except KafkaException as error:
            cluster.fail(cluster.OUTSIDE, f"no transactions on {arguments.brokers}: {error.args[0].str()}")
        self.has_lost_partitions = False
        self.consumer.subscribe([f"{self.prefix}.anomalies"], on_revoke=self.note_loss, on_lost=self.note_loss)
        print(f"diagnosing as {self.name}", file=sys.stderr, flush=True)

    def note_loss(self, *_) -> None:
        self.has_lost_partitions = True

    def take_batch(self) -> None:
        self.has_lost_partitions = False
        messages = self.consumer.consume(BATCH_RECORDS_MAX, timeout=0.1)
        if messages and self.has_lost_partitions:
            # Some of it may be another diagnoser's by now.
            self.go_back()
            return
        for message in messages:
            if message.error() and message.error().fatal():
                raise KafkaException(message.error())
        messages = [message for message in messages if not message.error()]
        if not messages:
            return
        self.producer.begin_transaction()
        try:
            for message in messages:
                self.take(message)
            offsets = {}
            for message in messages:
                offsets[message.partition()] = message.offset() + 1
            self.commit([TopicPartition(messages[0].topic(), *place) for place in offsets.items()])
            print(f"{len(messages)} anomalies diagnosed", file=sys.stderr, flush=True)
        except KafkaException as error:
            # Fenced or otherwise at an end: started again, this begins at what was committed.
            if error.args[0].fatal():
                raise
            print(f"tried again: {error.args[0].str()}", file=sys.stderr, flush=True)
            self.producer.abort_transaction()
            self.go_back()

    def commit(self, offsets: list) -> None:
        """The offsets carry this consumer's generation: one that lost its partitions cannot commit for them."""
        group = self.consumer.consumer_group_metadata()
        for step in (lambda: self.producer.send_offsets_to_transaction(offsets, group), self.producer.commit_transaction):
            while True:
                try:
                    step()
                    break
                except KafkaException as error:
                    if not error.args[0].retriable():
                        raise

    def go_back(self) -> None:
        """Reads on from where the last transaction ended."""
        self.consumer.assign(self.consumer.committed(self.consumer.assignment(), timeout=30))

    def take(self, message) -> None:
        headers = {name: value.decode(errors="replace") for name, value in message.headers() or [] if value is not None}
        # The same anomaly always gets the same ids, whatever happened on the way.
        cause = headers.get("ce_id") or f"{message.topic()}/{message.partition()}/{message.offset()}"
        time_ms = uuid_time(cause) or message.timestamp()[1]
        try:
            anomaly = json.loads(message.value())
            found = diagnose(anomaly, f"dia_{derived(cause, 'diagnosis', time_ms)}", self.name)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"no anomaly that {self.name} can read: {type(error).__name__}: {error}"
            self.write("dead-letters", "dead-letter.written", message, cause, headers, dead_letter(message, reason))
            return
        if "ce_correlationid" not in headers and anomaly.get("goal"):
            headers["ce_correlationid"] = anomaly["goal"]
        self.write("diagnoses", "diagnosis.made", message, cause, headers | {"ce_subject": anomaly["agent"]}, found)

    def write(self, topic: str, name: str, message, cause: str, of: dict, data: dict) -> None:
        """An event because of `message`, in the partition of its own number: that of the agent's owner."""
        time_ms = uuid_time(cause) or message.timestamp()[1]
        subject = of.get("ce_subject") or (message.key() or b"engine").decode(errors="replace")
        headers = {
            "ce_specversion": "1.0",
            "ce_id": f"evt_{derived(cause, name, time_ms)}",
            "ce_source": f"/external/{self.name}",
            "ce_type": f"dev.kintsugi.{name}.v1",
            "ce_subject": subject,
            "ce_time": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "ce_partitionkey": subject,
            "ce_correlationid": of.get("ce_correlationid"),
            "ce_causationid": of.get("ce_id"),
            "ce_tenant": of.get("ce_tenant", "default"),
            "content-type": "application/json",
        }
        self.producer.produce(
            f"{self.prefix}.{topic}",
            json.dumps(data, ensure_ascii=False),
            subject,
            message.partition(),
            headers=[(header, value) for header, value in headers.items() if value is not None],
        )
        self.producer.poll(0)


def derived(cause: str, purpose: str, time_ms: int) -> str:
    """A UUIDv7 (RFC 9562) of the cause's time whose random part follows from cause and purpose, in hexadecimal."""
    drawn = int.from_bytes(hashlib.sha256(f"{purpose} {cause}".encode()).digest()[:10], "big")
    version, variant = 0x7 << 76, 0b10 << 62
    low = (drawn & ~(0xF << 76) & ~(0b11 << 62)) | version | variant
    return uuid.UUID(int=(time_ms & (1 << 48) - 1) << 80 | low).hex


def uuid_time(event_id: str):
    """The milliseconds since 1970 in an event's id, where it is one."""
    try:
        return uuid.UUID(event_id.removeprefix("evt_")).int >> 80
    except ValueError:
        return None


def dead_letter(message, reason: str) -> dict:
    original = message.value() or b""
    kept = original[:ORIGINAL_BYTES_MAX]
    try:
        text, is_hex = kept.decode(), False
    except UnicodeDecodeError:
        text, is_hex = kept.hex(), True
    return {
        "reason": reason,
        "source_topic": message.topic(),
        "source_partition": message.partition(),
        "source_offset": message.offset(),
        "original": text,
        "original_is_hex": is_hex,
        "original_bytes": len(original),
    }


if __name__ == "__main__":
    main()
