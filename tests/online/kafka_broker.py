"""Run librdkafka's mock cluster, print its address, and end when stdin is closed."""

from __future__ import annotations

import sys

from confluent_kafka import Producer

cluster = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "", "log_level": 0})
# A topic that is asked for has 4 partitions.
brokers = cluster.list_topics(sys.argv[1], timeout=60).brokers.values()
print(",".join(f"{broker.host}:{broker.port}" for broker in brokers), flush=True)
sys.stdin.read()
