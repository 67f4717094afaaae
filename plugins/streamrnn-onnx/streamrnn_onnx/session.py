"""ONNX Runtime sessions: made from bytes, set up for many small runs on one thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from streamrnn.errors import ModelError, OptionError

if TYPE_CHECKING:
    import onnxruntime as ort  # type: ignore[import-untyped]

    from streamrnn_onnx.config import Provider

PROVIDERS: Mapping[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}


def choose_provider(wanted: Sequence[Provider]) -> Provider:
    """The first of those wanted that is installed. Raises `OptionError` if none is."""
    import onnxruntime as ort

    there = ort.get_available_providers()
    for name in wanted:
        if PROVIDERS[name] in there:
            return name
    known = [name for name, full in PROVIDERS.items() if full in there]
    text = f"none of {', '.join(wanted)} is in the installed onnxruntime {ort.__version__}, which has"
    raise OptionError((("providers",), f"{text} {', '.join(known)}; add one of these as a fallback"))


def open_session(model: bytes, provider: Provider, threads: int) -> ort.InferenceSession:
    """A session of a model's bytes. Raises `ModelError` with what ONNX Runtime says of it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Waiting threads that spin take the core from the pipeline's own thread.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # The number of rows changes from call to call; a pattern of memory would be made anew each time.
    options.enable_mem_pattern = False
    names = [PROVIDERS[provider]] + ([PROVIDERS["cpu"]] if provider != "cpu" else [])
    try:
        session = ort.InferenceSession(model, options, providers=names)
    except Exception as error:
        raise ModelError(f"ONNX Runtime refuses the model: {one_line(error)}") from error
    if PROVIDERS[provider] not in session.get_providers():
        raise ModelError(
            f"the provider {provider} is installed but cannot be used here; name it only where its device is"
        )
    return session


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, cut where it is long."""
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else text[:397] + "..."
