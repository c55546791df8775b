#!/usr/bin/env python3
"""Reads audit events: each once, by eventId, and every chain followed.

Usage: consumer.py BROKERS TOPIC [--stdin]   (--stdin reads records, one a line, instead of Kafka)
"""
import hashlib
import json
import re
import sys

# The member stands behind `epoch`, and the record is canonical: so the hash is over the text without it.
HASH = re.compile(
    r'("integrity":\{"alg":"sha256-jcs","chainId":"(?:[^"\\]|\\.)*","epoch":\d+),"hash":"([0-9a-f]{64})"(,"prevHash":"[0-9a-f]{64}","seq":\d+\})'
)


def intact(text):
    match = list(HASH.finditer(text))[-1]
    hashed = text[: match.start()] + match[1] + match[3] + text[match.end() :]
    return hashlib.sha256(hashed.encode()).hexdigest() == match[2]


class Follower:
    """Follows chains; a chain stays in one partition, in order, so that it can be followed as it is read."""

    def __init__(self):
        self.heads, self.seen, self.lost = {}, set(), {}

    def take(self, text):
        """Gives back the event, or None where it is no new event; prints what is wrong."""
        record = json.loads(text)
        link = record.get("integrity")
        if link:
            chain, seq = link["chainId"], link["seq"]
            # What another sink did not get, this one has.
            of_sink = (record.get("metadata") or {}).get("sink", "kafka") if record["kind"] != "Event" else None
            for gone in record.get("lost", []) if of_sink == "kafka" else []:
                self.lost.setdefault(gone["chainId"], []).append((gone["first"], gone["last"]))
            if not intact(text):
                print(f"{chain} {seq}: edited", file=sys.stderr)
            head = self.heads.get(chain)
            if head and seq <= head[0]:
                return None  # delivered again
            expected = head[0] + 1 if head else 0
            explained = any(first <= expected and seq - 1 <= last for first, last in self.lost.get(chain, []))
            if seq != expected and not explained:
                print(f"{chain}: {expected} to {seq - 1} are missing", file=sys.stderr)
            elif head and seq == expected and link["epoch"] == head[2] and link["prevHash"] != head[1]:
                print(f"{chain} {seq}: does not follow from the one before", file=sys.stderr)
            self.heads[chain] = (seq, link["hash"], link["epoch"])
        if record["kind"] != "Event":
            return None
        key = (record["tenantId"], record["eventId"])
        if key in self.seen:
            return None
        self.seen.add(key)  # a real consumer keeps these in its database, with a time to live
        return record


def records(brokers, topic):
    from confluent_kafka import Consumer

    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "audit-example", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    while True:
        message = consumer.poll(1.0)
        if message is not None and not message.error():
            yield message.value().decode()


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    source = (line.rstrip("\n") for line in sys.stdin) if "--stdin" in sys.argv else records(sys.argv[1], sys.argv[2])
    follower = Follower()
    for text in source:
        event = follower.take(text)
        if event:
            print(event["occurredAt"], event["actor"].get("id", "-"), event["action"], event["outcome"])


if __name__ == "__main__":
    main()
