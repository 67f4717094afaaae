"""Certificates made on the spot, and a client that takes turns with the server in one thread."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

LONG_AGO = datetime.now(UTC) - timedelta(days=800)
YESTERDAY = datetime.now(UTC) - timedelta(days=1)
HOST = "127.0.0.1"


def certificates(folder: Path) -> dict[str, Path]:
    """Files by name: `ca`, `strangers_ca`, and of each certificate NAME its `NAME.key`."""
    ours, theirs = trustme.CA(), trustme.CA()
    made = {
        "good": ours.issue_cert(HOST, "localhost"),
        "expired": ours.issue_cert(HOST, not_before=LONG_AGO, not_after=YESTERDAY),
        "other_name": ours.issue_cert("elsewhere.example"),
        "stranger": theirs.issue_cert(HOST),
    }
    found = {"ca": folder / "ca.pem", "strangers_ca": folder / "strangers_ca.pem"}
    ours.cert_pem.write_to_path(found["ca"])
    theirs.cert_pem.write_to_path(found["strangers_ca"])
    for name, leaf in made.items():
        found[name], found[f"{name}.key"] = folder / f"{name}.pem", folder / f"{name}.key"
        leaf.private_key_pem.write_to_path(found[f"{name}.key"])
        for blob in leaf.cert_chain_pems:
            blob.write_to_path(found[name], append=True)
    return found


def options(files: dict[str, Path], shown: str = "good", client_ca: str | None = None) -> dict[str, str]:
    """What stands under `tls`."""
    named = {"cert": str(files[shown]), "key": str(files[f"{shown}.key"])}
    return named | ({"client_ca": str(files[client_ca])} if client_ca else {})


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


class TurnClient:
    """A client none of whose steps waits; `turn` is the server's."""

    def __init__(self, address, files, turn, shown=None, version=ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=files["ca"])
        context.minimum_version = context.maximum_version = version
        if shown is not None:
            context.load_cert_chain(files[shown], files[f"{shown}.key"])
        raw = socket.create_connection((HOST, port(address)))
        raw.setblocking(False)
        self.turn = turn
        self.socket = context.wrap_socket(
            raw, server_hostname=HOST, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )

    def shake(self):
        """The handshake, to its end. Raises `ssl.SSLError`."""
        self._until_done(self.socket.do_handshake)
        return self

    def send(self, data):
        left = memoryview(data)
        while left:
            left = left[self._until_done(lambda: self.socket.send(left)) :]  # noqa: B023

    def receive(self, size=1 << 16):
        """What comes next; b"" at a proper end. Raises `ssl.SSLEOFError` if the connection is cut."""
        try:
            return self._until_done(lambda: self.socket.recv(size))
        except ssl.SSLZeroReturnError:
            return b""

    def say_goodbye(self):
        """Send no more, and go on reading."""
        try:
            self.socket.unwrap()
        except ssl.SSLWantReadError:
            return

    def close(self):
        self.socket.close()

    def _until_done(self, step):
        for _ in range(10_000):
            try:
                return step()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                self.turn()
        raise AssertionError("nothing happened for 10,000 turns")


def quiet(caplog):
    """What was warned of so far, without the addresses, which differ from run to run."""
    found = [message.partition(": ")[2] for message in caplog.messages]
    caplog.clear()
    return found


__all__ = ["HOST", "TurnClient", "certificates", "options", "port", "quiet"]
