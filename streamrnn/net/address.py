"""Addresses to listen at, as a pipeline file writes them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_UNIX = re.compile(r"unix:(?://(?=/))?((?!//).+)")
"""Many programs write unix:///tmp/x.sock for unix:/tmp/x.sock."""
_TCP = re.compile(r"tcp://(?:\[([^\]]+)\]|([^:/\[\]]+)):(\d{1,5})")


@dataclass(frozen=True)
class Address:
    """`tcp://host:port` or `unix:path`; of `host` and `path`, the one that does not apply is empty."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it. A name other than `localhost` counts as remote."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"


def parse(text: str) -> Address:
    """The address that a text means; raises `ValueError` with what was expected."""
    if match := _UNIX.fullmatch(text):
        return Address(path=match[1])
    if (match := _TCP.fullmatch(text)) and int(match[3]) < 1 << 16:
        return Address(match[1] or match[2], int(match[3]))
    raise ValueError(f"expected tcp://host:port, tcp://[ipv6]:port or unix:path, found {text!r}")
