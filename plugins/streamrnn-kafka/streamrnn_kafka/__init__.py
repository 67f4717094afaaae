"""Kafka for streamrnn: topics on a broker, and the log files that brokers keep."""

from __future__ import annotations

from streamrnn.hookspecs import Component, hookimpl
from streamrnn_kafka.options import (
    KafkaLogSinkConfig,
    KafkaLogSourceConfig,
    KafkaSinkConfig,
    KafkaSourceConfig,
)

__all__ = [
    "KafkaLogSinkConfig",
    "KafkaLogSourceConfig",
    "KafkaSinkConfig",
    "KafkaSourceConfig",
    "streamrnn_components",
]


@hookimpl
def streamrnn_components() -> list[Component]:
    """Sources and sinks."""
    return [
        Component(
            "source",
            "kafka",
            config=KafkaSourceConfig,
            build="streamrnn_kafka.live_source:build",
            summary="events from a Kafka topic, alone or as a member of a group",
            example="{brokers: localhost:9092, topic: orders}",
        ),
        Component(
            "sink",
            "kafka",
            config=KafkaSinkConfig,
            build="streamrnn_kafka.live_sink:build",
            summary="outputs to a Kafka topic",
            example="{brokers: localhost:9092, topic: scores, delivery: at_least_once}",
        ),
        Component(
            "source",
            "kafka_log",
            config=KafkaLogSourceConfig,
            build="streamrnn_kafka.log_source:build",
            summary="events from the log files of a Kafka topic",
            example="{path: /var/lib/kafka, topic: orders}",
        ),
        Component(
            "sink",
            "kafka_log",
            config=KafkaLogSinkConfig,
            build="streamrnn_kafka.log_sink:build",
            summary="outputs to log files of a Kafka topic",
            example="{path: out, topic: scores}",
        ),
    ]
