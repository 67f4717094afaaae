"""ONNX Runtime sessions: made from bytes, set up for many small runs on one thread."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from streamrnn.backend import Fact
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

OPTIONS: Mapping[str, Mapping[str, str]] = {
    # 10 bits of mantissa in products, which is the default, are no float32; and the search for the fastest
    # convolution would begin anew with every other number of rows.
    "cuda": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
}


@dataclass(frozen=True)
class Opened:
    """A session, the provider it uses, and in words why those before it in the list are not used."""

    session: ort.InferenceSession
    provider: Provider
    passed_over: tuple[str, ...]

    @property
    def fact(self) -> Fact:
        """The provider, for a person."""
        return Fact("provider", self.provider, "", "; ".join(self.passed_over))


class Stoppable:
    """A session whose run another thread can make raise; all else is the session's own."""

    def __init__(self, session: ort.InferenceSession) -> None:
        import onnxruntime as ort

        self._session, self._options = session, ort.RunOptions()

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """Values of the graph by name."""
        return self._session.run(names, feeds, self._options)

    def run_with_iobinding(self, binding: Any) -> None:
        """From what is bound to what is bound."""
        self._session.run_with_iobinding(binding, self._options)

    def stop(self, is_wanted: bool) -> None:
        """Whether runs are to raise, the one under way too."""
        self._options.terminate = is_wanted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def version() -> str:
    """That of ONNX Runtime."""
    import onnxruntime as ort

    return str(ort.__version__)


def open_session(model: bytes, wanted: Sequence[Provider], threads: int) -> Opened:
    """A session on the first of the providers that works here.

    Raises `OptionError` if none does, and `ModelError` with what ONNX Runtime says of the model.
    """
    import onnxruntime as ort

    passed_over: list[str] = []
    there = ort.get_available_providers()
    for name in wanted:
        if PROVIDERS[name] not in there:
            passed_over.append(f"{name} is not in the installed onnxruntime {ort.__version__}")
            continue
        session = _session(model, name, threads)
        if PROVIDERS[name] in session.get_providers():
            return Opened(session, name, tuple(passed_over))
        passed_over.append(f"{name} is installed but finds no device, or not the libraries it was built for")
    known = ", ".join(name for name, full in PROVIDERS.items() if full in there)
    text = f"{'; '.join(passed_over)}; installed: {known}. Add one of these as a fallback"
    raise OptionError((("providers",), text))


def _session(model: bytes, provider: Provider, threads: int) -> ort.InferenceSession:
    import onnxruntime as ort

    # Kernels warn through the logger of the process, once each, of what is known here.
    ort.set_default_logger_severity(3)
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
    chosen: list[Any] = [(PROVIDERS[provider], OPTIONS.get(provider, {}))]
    if provider != "cpu":
        chosen.append(PROVIDERS["cpu"])
    if provider in ("cuda", "tensorrt"):
        _load_cuda()
    try:
        return ort.InferenceSession(model, options, providers=chosen)
    except Exception as error:
        raise ModelError(f"ONNX Runtime refuses the model: {one_line(error)}") from error


@cache
def _load_cuda() -> None:
    """Load what pip's packages of CUDA hold, which the system's loader does not find."""
    import onnxruntime as ort

    if hasattr(ort, "preload_dlls"):  # since 1.21
        with redirect_stdout(sys.stderr):  # it prints what it cannot load, and outputs may go to stdout
            ort.preload_dlls()


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, cut where it is long."""
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else text[:397] + "..."
