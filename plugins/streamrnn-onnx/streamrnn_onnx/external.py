"""Weights in files of their own: read by us from the model's folder, so that nobody else opens a file."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from streamrnn_onnx.limits import UnfitError, every_tensor, is_external

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

    from streamrnn.context import Context


def inline_external(model: ModelProto, folder: Path, context: Context, max_bytes: int) -> None:
    """Put the numbers of external tensors into the model itself. Raises `UnfitError`."""
    left = max_bytes
    for tensor in every_tensor(model):
        if is_external(tensor):
            data = _read(tensor, folder, context, left)
            left -= len(data)
            tensor.raw_data = data
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")


def _read(tensor: TensorProto, folder: Path, context: Context, most: int) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    where = f"the weights '{tensor.name}' in '{location}'"
    parts = PurePosixPath(location).parts
    if not location or "\\" in location or location.startswith("/") or ".." in parts or ":" in location:
        raise UnfitError(f"{where}: expected a path inside the model's folder")
    path = folder.joinpath(*parts)
    if any(folder.joinpath(*parts[: i + 1]).is_symlink() for i in range(len(parts))):
        raise UnfitError(f"{where}: expected a file, found a symbolic link")
    try:
        # What is not a regular file could keep the opening waiting for ever.
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UnfitError(f"{where}: expected a regular file")
        with context.fs.open_read(path) as file:
            status = context.fs.status_of(file)
            start, size = _span(entries, status.st_size, where)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise UnfitError(f"{where}: expected a file of one name, found {status.st_nlink} names")
            if size > most:
                raise UnfitError(f"{where}: {size} bytes are over max_bytes, with what was read before")
            data = context.fs.read_at(file, start, size)
    except OSError as error:
        raise UnfitError(f"{where}: {error.strerror or error}") from error
    if len(data) != size:
        raise UnfitError(f"{where}: expected {size} bytes, found {len(data)}")
    return data


def _span(entries: dict[str, str], total: int, where: str) -> tuple[int, int]:
    """Where the bytes begin and how many there are."""
    try:
        start = int(entries.get("offset") or 0)
        size = int(entries.get("length") or total - start)
    except ValueError as error:
        raise UnfitError(f"{where}: offset and length are no numbers") from error
    if start < 0 or size < 0 or start + size > total:
        raise UnfitError(f"{where}: bytes {start} to {start + size} of a file of {total}")
    return start, size
