"""Kafka for streamrnn: topics on a broker, and the log files that brokers keep."""

from __future__ import annotations

from streamrnn.hookspecs import Component, hookimpl
from streamrnn_kafka.options import KafkaLogSinkConfig, KafkaLogSourceConfig

__all__ = ["KafkaLogSinkConfig", "KafkaLogSourceConfig", "streamrnn_components"]


@hookimpl
def streamrnn_components() -> list[Component]:
    """Sources and sinks."""
    return [
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
