#!/usr/bin/env python3
"""Publishes goals: JSON lines from a file or standard input, or one in words.

    publish_goals.py goals.jsonl
    publish_goals.py < goals.jsonl
    publish_goals.py --text "Write a haiku about parcels."

A goal is plain JSON without a header; only `text` is required. A goal that may be sent twice needs an `id`: the second
one is not run again.
"""

import argparse
import json
import sys

from confluent_kafka import KafkaException, Producer

import cluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", default="-", help="one JSON object a line; `-`, the default, is standard input")
    parser.add_argument("--text", help="one goal in words, instead of a file")
    cluster.add_arguments(parser)
    arguments = parser.parse_args()
    goals = [{"text": arguments.text}] if arguments.text is not None else list(read(arguments.file))

    complaints = cluster.Complaints()
    settings = cluster.settings(arguments) | {
        "enable.idempotence": True,
        # The partition that a node gives the key, and so one hop less.
        "partitioner": "murmur2_random",
        "delivery.timeout.ms": 30_000,
        "error_cb": complaints,
    }
    try:
        producer = Producer(settings)
    except KafkaException as error:
        cluster.fail(cluster.USAGE, error.args[0].str())
    cluster.check(producer, arguments, complaints, "goals")

    lost = []
    for goal in goals:
        value = json.dumps(goal, ensure_ascii=False)
        while True:
            try:
                producer.produce(f"{arguments.prefix}.goals", value, key_of(goal), on_delivery=note(lost))
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush()
    if lost:
        cluster.fail(cluster.OUTSIDE, f"{len(lost)} of {len(goals)} goals were not taken; the first: {lost[0].str()}")
    print(f"{len(goals)} goals published")


def note(lost: list):
    return lambda error, _: lost.append(error) if error else None


def key_of(goal: dict):
    """The agent, where the goal names one, else tenant and id. A goal without an id goes anywhere."""
    if goal.get("agent"):
        return goal["agent"]
    return f"{goal.get('tenant', 'default')}/{goal['id']}" if goal.get("id") else None


def read(name: str):
    """Every goal of the file; ends the program at the first that nobody could take."""
    try:
        lines = sys.stdin if name == "-" else open(name, encoding="utf-8")
    except OSError as error:
        cluster.fail(cluster.USAGE, str(error))
    with lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                goal = json.loads(line)
            except json.JSONDecodeError as error:
                cluster.fail(cluster.USAGE, f"{name}:{number}: {error}")
            if not isinstance(goal, dict) or not isinstance(goal.get("text"), str) or not goal["text"].strip():
                cluster.fail(cluster.USAGE, f"{name}:{number}: a goal is an object with a `text` that is not empty")
            yield goal


if __name__ == "__main__":
    main()
