"""The clients in `examples/`, as their READMEs show them, against a real broker at KAFKA_BROKERS."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
import unittest
import uuid
from pathlib import Path

import jsonschema
import yaml
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

ROOT = Path(__file__).resolve().parents[2]
CLIENTS, DIAGNOSER = ROOT / "examples/clients", ROOT / "examples/external-diagnoser"
BROKERS = os.environ["KAFKA_BROKERS"]
PREFIX = os.environ["KAFKA_PREFIX"] = f"clients-{uuid.uuid4().hex[:12]}"
PARTITIONS = 4
CHANNELS = yaml.safe_load((ROOT / "schemas/asyncapi.yaml").read_text())
ADMIN = AdminClient({"bootstrap.servers": BROKERS})


def setUpModule():
    names = [f"{PREFIX}.{name}" for name in CHANNELS["channels"]]
    for made in ADMIN.create_topics([NewTopic(name, PARTITIONS, 1) for name in names]).values():
        made.result()


def tearDownModule():
    for gone in ADMIN.delete_topics([f"{PREFIX}.{name}" for name in CHANNELS["channels"]]).values():
        gone.result()


def fixture(name: str) -> dict:
    return json.loads((ROOT / f"crates/events/tests/fixtures/{name}.v1.json").read_text())


def schema(name: str) -> jsonschema.Draft202012Validator:
    return validator(json.loads((ROOT / f"schemas/{name}.schema.json").read_text()))


def validator(document: dict) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(document, format_checker=jsonschema.FormatChecker())


HEADERS = validator(CHANNELS["components"]["schemas"]["headers"])


def headers_of(message) -> dict:
    return {name: value.decode() for name, value in message.headers() or []}


def event_id() -> str:
    return f"evt_{int(time.time() * 1000):012x}7{uuid.uuid4().hex[:3]}8{uuid.uuid4().hex[:15]}"


def headers(name: str, subject: str) -> dict:
    return {
        "ce_specversion": "1.0",
        "ce_id": event_id(),
        "ce_source": "/kintsugi/test",
        "ce_type": f"dev.kintsugi.{name}.v1",
        "ce_subject": subject,
        "ce_time": "2026-11-23T15:00:00Z",
        "ce_correlationid": "ticket-1",
        "ce_tenant": "acme",
        "content-type": "application/json",
    }


def everything(topic: str) -> list:
    """All that was committed to `topic`."""
    settings = {"group.id": "test", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = Consumer({"bootstrap.servers": BROKERS, "isolation.level": "read_committed"} | settings)
    name = f"{PREFIX}.{topic}"
    consumer.assign([TopicPartition(name, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
    found, unread = [], set(range(PARTITIONS))
    while unread:
        message = consumer.poll(10)
        assert message is not None, f"{name} does not end"
        if message.error():
            unread.discard(message.partition())
        else:
            found.append(message)
    consumer.close()
    return found


def client(*arguments: str, **keywords) -> subprocess.CompletedProcess:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=CLIENTS, text=True, capture_output=True, timeout=60, **keywords)


class Goals(unittest.TestCase):
    def texts(self) -> list:
        return [json.loads(message.value())["text"] for message in everything("goals")]

    def test_a_file_standard_input_and_words_become_goals_without_headers(self):
        lines = (ROOT / "examples/support-desk/goals.jsonl").read_text().splitlines()
        done = client("publish_goals.py", "../support-desk/goals.jsonl")
        self.assertEqual((done.returncode, done.stdout), (0, f"{len(lines)} goals published\n"), done.stderr)
        self.assertEqual(client("publish_goals.py", input='{"text": "by standard input"}\n').returncode, 0)
        self.assertEqual(client("publish_goals.py", "--text", "in words").returncode, 0)
        sent = self.texts()
        for text in [json.loads(line)["text"] for line in lines] + ["by standard input", "in words"]:
            self.assertEqual(sent.count(text), 1, text)
        for message in everything("goals"):
            self.assertIsNone(message.headers())
            schema("goal").validate(json.loads(message.value()))

    def test_kcat_publishes_a_bare_goal(self):
        kcat = ["kcat", "-b", BROKERS, "-P", "-t", f"{PREFIX}.goals"]
        subprocess.run(kcat, input=b'{"text": "by kcat"}\n', check=True, timeout=60)
        self.assertEqual(self.texts().count("by kcat"), 1)

    def test_a_line_that_is_no_goal_is_named_and_nothing_is_sent(self):
        done = client("publish_goals.py", input='{"text": "never sent"}\n{"txt": "?"}\n')
        self.assertEqual(done.returncode, 2)
        self.assertIn("-:2:", done.stderr)
        self.assertNotIn("never sent", self.texts())

    def test_a_missing_topic_and_a_missing_cluster_are_told_with_status_3(self):
        done = client("publish_goals.py", "--text", "x", "--prefix", "nobody")
        self.assertEqual(done.returncode, 3)
        self.assertIn("kintsugi topics create --log kafka://", done.stderr)
        done = client("publish_goals.py", "--text", "x", "--brokers", "127.0.0.1:1")
        self.assertEqual(done.returncode, 3)
        self.assertIn("Connection refused", done.stderr)


class Recoveries(unittest.TestCase):
    def test_what_was_committed_is_shown_and_what_was_not_is_not(self):
        producer = Producer({"bootstrap.servers": BROKERS, "transactional.id": f"{PREFIX}-recoveries"})
        producer.init_transactions()
        for phase in ["planned", "started", "completed", "failed"]:
            producer.begin_transaction()
            name, data = f"recovery.{phase}", fixture(f"recovery.{phase}")
            sent = list(headers(name, data["agent"]).items())
            producer.produce(f"{PREFIX}.recoveries", json.dumps(data), data["agent"], headers=sent)
            producer.flush()
            producer.abort_transaction() if phase == "failed" else producer.commit_transaction()
        every = ["recovery_events.py", "--from-beginning", "--until-end"]
        lines = client(*every).stdout.splitlines()
        self.assertEqual([line.split("  ")[1:3] for line in lines], [["support-17", phase] for phase in ["planned", "started", "completed"]])
        events = [json.loads(line) for line in client(*every, "--format", "json").stdout.splitlines()]
        self.assertEqual([event["type"] for event in events][-1], "dev.kintsugi.recovery.completed.v1")
        self.assertEqual(events[-1]["data"], fixture("recovery.completed"))
        kcat = ["kcat", "-b", BROKERS, "-C", "-t", f"{PREFIX}.recoveries", "-X", "isolation.level=read_committed"]
        shown = subprocess.run([*kcat, "-e", "-q", "-f", "%h %s\n"], capture_output=True, text=True, timeout=60)
        self.assertEqual(shown.stdout.count("ce_type=dev.kintsugi.recovery."), 3, shown)


class Running:
    """A diagnoser, and what it says."""

    def __init__(self, instance: str):
        command = [sys.executable, DIAGNOSER / "diagnoser.py", "--instance", instance, "--session-timeout-ms", "6000"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said = queue.Queue()
        # All the time: a pipe that nobody empties would stop it.
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        with self.process.stderr as lines:
            for line in lines:
                self.said.put(line)
        self.said.put(None)

    def wait_to_say(self, words: str) -> None:
        heard = []
        while True:
            line = self.said.get(timeout=120)
            assert line is not None, f"it ended and only said {heard}"
            heard.append(line)
            if words in line:
                return


class Diagnoser(unittest.TestCase):
    def start(self, instance: str) -> Running:
        """Starts one, and returns when it diagnoses: before that a signal ends it in no order."""
        running = Running(instance)
        # Where the test fails; one that has ended is left alone.
        self.addCleanup(running.process.kill)
        running.wait_to_say("diagnosing as")
        return running

    def test_every_anomaly_gets_one_diagnosis_whoever_is_killed(self):
        kinds = [kind["const"] for kind in json.loads((ROOT / "schemas/anomaly.schema.json").read_text())["$defs"]["AnomalyKind"]["oneOf"]]
        producer, sent = Producer({"bootstrap.servers": BROKERS}), {}

        def anomalies(count: int) -> None:
            for number in range(count):
                agent = f"support-{number % 17}"
                of, kind = headers("anomaly.detected", agent), kinds[number % len(kinds)]
                anomaly = fixture("anomaly.detected") | {"agent": agent, "kind": kind, "anomaly": f"ano_{of['ce_id'][4:]}"}
                sent[of["ce_id"]] = anomaly
                producer.produce(f"{PREFIX}.anomalies", json.dumps(anomaly), agent, headers=list(of.items()))
            producer.flush()

        anomalies(600)
        producer.produce(f"{PREFIX}.anomalies", b"\xff no anomaly", "support-1")
        producer.flush()
        running = [self.start("one"), self.start("two")]
        # Who is killed has begun to work.
        running[0].wait_to_say("anomalies diagnosed")
        for _ in range(3):
            self.wait_for(len(sent) // 3)
            running[0].process.kill()
            running[0].process.wait()
            anomalies(200)
            running[0] = self.start("one")
        self.wait_for(len(sent))
        for diagnoser in running:
            diagnoser.process.terminate()
        self.assertEqual([diagnoser.process.wait(60) for diagnoser in running], [0, 0])

        diagnoses = everything("diagnoses")
        causes = [headers_of(message)["ce_causationid"] for message in diagnoses]
        self.assertEqual(sorted(causes), sorted(sent), "each anomaly once")
        place = {headers_of(message).get("ce_id"): message.partition() for message in everything("anomalies")}
        diagnosis_schema = schema("diagnosis")
        for message in diagnoses:
            found, of = json.loads(message.value()), headers_of(message)
            diagnosis_schema.validate(found)
            HEADERS.validate(of)
            anomaly = sent[of["ce_causationid"]]
            self.assertEqual(of["ce_type"], "dev.kintsugi.diagnosis.made.v1")
            self.assertEqual((found["anomalies"], found["diagnosed_by"]), ([anomaly["anomaly"]], "python"))
            self.assertNotEqual(found["fault_type"], "unknown", anomaly["kind"])
            self.assertEqual(message.key().decode(), anomaly["agent"])
            self.assertEqual(message.partition(), place[of["ce_causationid"]])
            self.assertEqual((of["ce_correlationid"], of["ce_tenant"]), ("ticket-1", "acme"))
        (letter,) = everything("dead-letters")
        HEADERS.validate(headers_of(letter))
        schema("dead-letter").validate(json.loads(letter.value()))
        self.assertEqual(json.loads(letter.value())["original"], b"\xff no anomaly".hex())

    def wait_for(self, count: int) -> None:
        """Until there are `count` diagnoses; a killed one is missed for a session timeout."""
        end = time.monotonic() + 120
        while len(everything("diagnoses")) < count:
            self.assertLess(time.monotonic(), end, "diagnoses stay away")


if __name__ == "__main__":
    unittest.main(verbosity=2)
