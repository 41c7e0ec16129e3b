"""How a Kafka cluster is reached: flags, else variables, the same for every client here."""

import argparse
import os
import sys

from confluent_kafka import KafkaException

USAGE, OUTSIDE = 2, 3
"""Exit statuses, as the command line of Kintsugi has them: wrong usage, and something outside is missing."""


def fail(status: int, message: str):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    env = os.environ.get
    group = parser.add_argument_group("cluster", "each of them may be a variable instead, such as KAFKA_BROKERS")
    group.add_argument("--brokers", default=env("KAFKA_BROKERS", "localhost:9092"), metavar="HOST:PORT,…")
    group.add_argument("--prefix", default=env("KAFKA_PREFIX", "kintsugi"), help="what the names of topics begin with")
    group.add_argument(
        "--security",
        default=env("KAFKA_SECURITY", "plaintext"),
        choices=["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"],
    )
    group.add_argument(
        "--sasl-mechanism",
        default=env("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512"),
        choices=["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
    )
    group.add_argument("--username", default=env("KAFKA_USERNAME"))
    group.add_argument("--password-file", default=env("KAFKA_PASSWORD_FILE"), help="or the variable KAFKA_PASSWORD")
    group.add_argument("--ca-file", default=env("KAFKA_CA_FILE"), help="who signed the brokers' certificates")
    group.add_argument("--certificate-file", default=env("KAFKA_CERTIFICATE_FILE"), help="this client's, with --key-file")
    group.add_argument("--key-file", default=env("KAFKA_KEY_FILE"))


def settings(arguments: argparse.Namespace) -> dict:
    """The settings of a client, without those that only a producer or only a consumer has."""
    found = {
        "bootstrap.servers": arguments.brokers,
        "security.protocol": arguments.security,
        "client.id": os.path.basename(sys.argv[0]),
        # What the library would print by itself, `check` tells in one line.
        "log_level": 2,
    }
    if arguments.security.startswith("sasl"):
        if not arguments.username:
            fail(USAGE, f"--security {arguments.security} needs --username")
        found["sasl.mechanism"] = arguments.sasl_mechanism
        found["sasl.username"] = arguments.username
        found["sasl.password"] = password(arguments)
    files = {
        "ssl.ca.location": arguments.ca_file,
        "ssl.certificate.location": arguments.certificate_file,
        "ssl.key.location": arguments.key_file,
    }
    for name, path in files.items():
        if path and not os.path.isfile(path):
            fail(USAGE, f"{path}: no such file (for {name})")
    found.update({name: path for name, path in files.items() if path})
    return found


def password(arguments: argparse.Namespace) -> str:
    if arguments.password_file:
        try:
            with open(arguments.password_file, encoding="utf-8") as file:
                return file.read().strip()
        except OSError as error:
            fail(USAGE, f"--password-file: {error}")
    if "KAFKA_PASSWORD" in os.environ:
        return os.environ["KAFKA_PASSWORD"]
    fail(USAGE, "there is no password: put it into the variable KAFKA_PASSWORD or into a file that --password-file names")


class Complaints:
    """The last thing that the library said was wrong; it goes on trying by itself."""

    def __init__(self):
        self.last = None

    def __call__(self, error):
        self.last = error


def check(client, arguments: argparse.Namespace, complaints: Complaints, topic: str) -> list:
    """The partitions of `topic`; ends the program where the cluster or the topic is not there."""
    name = f"{arguments.prefix}.{topic}"
    try:
        found = client.list_topics(name, timeout=10).topics[name]
    except KafkaException as error:
        # What went wrong underneath says more than that time ran out.
        client.poll(0)
        reason = complaints.last or error.args[0]
        fail(OUTSIDE, f"cannot reach {arguments.brokers}: {reason.str()}")
    if found.error or not found.partitions:
        fail(
            OUTSIDE,
            f"{arguments.brokers} has no topic {name}; make it with "
            f"`kintsugi topics create --log kafka://{arguments.brokers}`",
        )
    return sorted(found.partitions)
