"""What a model's file is by its first bytes, so that one of another format is refused by name."""

from __future__ import annotations

_MAGIC = (
    (
        b"PK\x03\x04",
        "a zip archive, as torch's checkpoints, TorchScript, .pt2 and .npz are; it may hold code",
    ),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x89HDF\r\n", "an HDF5 file, as Keras writes"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x1f\x8b", "a gzip file"),
)
_MAGIC_AT_4 = ((b"TFL3", "a TensorFlow Lite model"), (b"ORTM", "a model in ONNX Runtime's own format"))
_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
# Protocol 0 is text. A global is what a pickle that runs code begins with.
_TEXT_PICKLES = (b"(c", b"c", b"(i")


def foreign_format(first: bytes) -> str | None:
    """The name of a known format that is neither ONNX nor safetensors, by the first 64 bytes; or None."""
    # Safetensors: the length of a header of 640 bytes, for one, begins as a pickle does.
    if first[4:9] == b"\0\0\0\0{":
        return None
    for magic, name in _MAGIC:
        if first.startswith(magic):
            return name
    for magic, name in _MAGIC_AT_4:
        if first[4 : 4 + len(magic)] == magic:
            return name
    if first.startswith(_PICKLES):
        return "a pickle, which can run code when it is read"
    if first.startswith(_TEXT_PICKLES) and b"\n" in first[:64] and first[:8].isascii():
        return "a pickle, which can run code when it is read"
    return None
