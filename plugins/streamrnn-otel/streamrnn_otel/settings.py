"""The standard variables that the SDK leaves to whoever sets it up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from streamrnn.errors import PluginError

Signal = Literal["TRACES", "METRICS"]
_PROTOCOL = "http/protobuf"


def is_wanted(signal: Signal, env: Mapping[str, str]) -> bool:
    """Whether a signal is to be sent. Raises `PluginError` if it is to be sent in another way than this."""
    exporter = f"OTEL_{signal}_EXPORTER"
    if (asked := env.get(exporter, "otlp").strip().lower() or "otlp") == "none":
        return False
    if asked != "otlp":
        raise PluginError(f"{exporter}: expected otlp or none, found {asked}")
    for name in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := env.get(name, "").strip().lower():
            if protocol != _PROTOCOL:
                raise PluginError(f"{name}: expected {_PROTOCOL}, found {protocol}")
            break
    return True
