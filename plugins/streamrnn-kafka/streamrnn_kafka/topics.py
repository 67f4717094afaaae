"""What a cluster says of a topic."""

from __future__ import annotations

from aiokafka.admin import AIOKafkaAdminClient


async def partitions_of(admin: AIOKafkaAdminClient, topic: str) -> list[int]:
    """The numbers of a topic's partitions; none if there is no such topic, which asking does not create."""
    if topic not in await admin.list_topics():
        return []
    (found,) = await admin.describe_topics([topic])
    return sorted(each["partition"] for each in found["partitions"])
