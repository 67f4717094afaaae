"""How brokers are reached: in plain text or by TLS, and as whom."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamrnn.errors import OptionError

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn_kafka.options import ClusterOptions, Sasl, Tls

_CLIENT_LOG = "aiokafka"


def access(config: ClusterOptions, context: Context) -> dict[str, Any]:
    """What every client of the library is told besides the brokers, from files read now.

    Raises `OptionError` with all that is wrong with the files.
    """
    problems: list[tuple[tuple[str, ...], str]] = []
    tls = _tls(config.tls, context, problems)
    password = _password(config.sasl, context, problems)
    if problems:
        raise OptionError(*problems)
    found: dict[str, Any] = {"bootstrap_servers": config.brokers, "client_id": "streamrnn"}
    if config.sasl is None:
        return found | ({"security_protocol": "SSL", "ssl_context": tls} if tls else {})
    return found | {
        "security_protocol": "SASL_SSL" if tls else "SASL_PLAINTEXT",
        "ssl_context": tls,
        "sasl_mechanism": config.sasl.mechanism,
        "sasl_plain_username": config.sasl.username,
        "sasl_plain_password": password,
    }


@contextmanager
def reasons() -> Iterator[list[str]]:
    """Why brokers could not be connected to meanwhile, which the library tells its log alone."""
    told = _Told()
    log = logging.getLogger(_CLIENT_LOG)
    log.addHandler(told)
    try:
        yield told.lines
    finally:
        log.removeHandler(told)


class _Told(logging.Handler):
    """Keeps what is said about connections."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if line not in self.lines:
            self.lines.append(line)


def _tls(
    options: Tls | None, context: Context, problems: list[tuple[tuple[str, ...], str]]
) -> ssl.SSLContext | None:
    """The files of `tls` read; adds what is wrong with them."""
    if options is None:
        return None
    paths = {option: context.path(name) for option, name in options.files().items()}
    known = len(problems)
    for option, path in paths.items():
        kind = "PRIVATE KEY" if option == "key" else "CERTIFICATE"
        data = _read(("tls", option), path, context, problems)
        if data is not None and f"{kind}-----".encode() not in data:
            problems.append((("tls", option), f"expected a {kind} in PEM in {path}, found none"))
    if len(problems) > known:
        return None
    made = ssl.create_default_context(cafile=paths.get("ca"))
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if "cert" in paths:
        try:
            made.load_cert_chain(paths["cert"], paths["key"], password=lambda: b"")  # nobody is asked for one
        except (ssl.SSLError, ValueError) as error:
            text = f"expected {paths['key']} to be the key, without a password, of {paths['cert']}: {error}"
            problems.append((("tls", "key"), text))
    return made


def _password(
    options: Sasl | None, context: Context, problems: list[tuple[tuple[str, ...], str]]
) -> str | None:
    if options is None:
        return None
    if options.password is not None:
        return options.password.get_secret_value()
    where, path = ("sasl", "password_file"), context.path(options.password_file or "")
    data = _read(where, path, context, problems)
    if data is None:
        return None
    lines = data.splitlines() or [b""]
    if len(lines) > 1 or not lines[0]:
        problems.append(
            (where, f"expected one line, the password, in {path}, found {len(data.splitlines())}")
        )
        return None
    try:
        return lines[0].decode()
    except UnicodeDecodeError:
        problems.append((where, f"expected UTF-8 in {path}"))
        return None


def _read(
    where: tuple[str, ...], path: Path, context: Context, problems: list[tuple[tuple[str, ...], str]]
) -> bytes | None:
    try:
        return context.fs.read_bytes(path)
    except OSError as error:
        problems.append((where, f"cannot read {path}: {error.strerror or error}"))
        return None
