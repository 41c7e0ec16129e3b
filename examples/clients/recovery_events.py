#!/usr/bin/env python3
"""Shows what is done about faults, as it happens: one line a recovery event, or the whole event as JSON.

    recovery_events.py                                  from now on
    recovery_events.py --from-beginning --until-end     all there are
"""

import argparse
import json
import os
import sys

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

import cluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-beginning", action="store_true", help="all that is kept, before what is new")
    parser.add_argument("--until-end", action="store_true", help="stop at the newest")
    parser.add_argument("--agent", help="only those of this agent, or of `tool:NAME`")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    cluster.add_arguments(parser)
    arguments = parser.parse_args()

    complaints = cluster.Complaints()
    settings = cluster.settings(arguments) | {
        # Nodes write in transactions: what was not committed never was.
        "isolation.level": "read_committed",
        # It reads every partition and commits nothing, so it takes nothing from anybody.
        "group.id": "kintsugi-recovery-events",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "error_cb": complaints,
    }
    try:
        consumer = Consumer(settings)
    except KafkaException as error:
        cluster.fail(cluster.USAGE, error.args[0].str())
    partitions = cluster.check(consumer, arguments, complaints, "recoveries")
    begin = OFFSET_BEGINNING if arguments.from_beginning else OFFSET_END
    topic = f"{arguments.prefix}.recoveries"
    consumer.assign([TopicPartition(topic, partition, begin) for partition in partitions])
    unread = set(partitions)
    try:
        while unread or not arguments.until_end:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error():
                if message.error().code() == KafkaError._PARTITION_EOF:
                    unread.discard(message.partition())
                    continue
                cluster.fail(cluster.OUTSIDE, message.error().str())
            show(message, arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read has seen enough; nothing is to be said to them at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        consumer.close()


def show(message, arguments: argparse.Namespace) -> None:
    event = {
        name.removeprefix("ce_"): value.decode()
        for name, value in message.headers() or []
        if name.startswith("ce_") and value is not None
    }
    data = json.loads(message.value())
    if arguments.agent not in (None, data["agent"]):
        return
    if arguments.format == "json":
        place = {"topic": message.topic(), "partition": message.partition(), "offset": message.offset()}
        line = json.dumps(event | place | {"data": data}, ensure_ascii=False)
    else:
        line = "{time}  {agent}  {phase}  {action}  {policy}  {outcome}".format(
            time=event.get("time", "-"),
            **{name: data.get(name) or "-" for name in ("agent", "phase", "action", "policy", "outcome")},
        )
    print(line, flush=True)


if __name__ == "__main__":
    main()
