"""`gossamer bench`: latency, start-up and memory of a file, alone or beside other engines.

Every contender lives in a process of its own, so that its peak memory is its own and nobody's thread pool disturbs
another's, and the contenders take turns, so that a machine that heats up or slows down treats all alike.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer import machine

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from gossamer.runtime import Profile

# Turns a contender takes within its time.
ROUNDS = 5
# A percentile of fewer runs than this says nothing.
FEWEST_RUNS = 10

Run = Callable[[], Any]


class BenchError(Exception):
    """A contender could not be measured; the message says which and why."""


@dataclass(frozen=True)
class Contender:
    """One engine with one thread count.

    Attributes:
        engine: `gossamer`, `dense` (the same file with every weight expanded), `ort` or `torch`.
        source: The `.goss` file, the `.onnx` file, or `package.module:factory`.
        threads: Threads to use; None leaves it to the engine.
        isa: Highest instruction-set tier, for gossamer and dense.
    """

    engine: str
    source: str
    threads: int | None = None
    isa: str | None = None

    @property
    def name(self) -> str:
        """How the table calls it."""
        return self.engine


@dataclass
class Result:
    """What was measured; times in milliseconds, sizes in bytes."""

    engine: str
    threads: int | None
    file_bytes: int | None
    load_ms: float
    first_run_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    runs: int
    peak_rss_bytes: int
    # Largest difference from gossamer's answer relative to its size; None for gossamer itself.
    difference: float | None = None
    profile: "Profile | None" = None

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        profile = self.profile and {"seconds": self.profile.seconds, "steps": self.profile.steps}
        return {**asdict(self), "profile": profile}


def measure(
    contenders: Sequence[Contender],
    inputs: Sequence[np.ndarray],
    *,
    seconds: float = 3.0,
    profile: bool = False,
) -> list[Result]:
    """Measures contenders on the same inputs, in turns.

    Args:
        contenders: The first one's answer is what the others are compared with.
        inputs: One array per model input.
        seconds: Time each contender runs, after a warm-up of a third of it.
        profile: Whether gossamer's results carry their profile.

    Returns:
        One result per contender, in order.

    Raises:
        BenchError: An engine is not installed, could not load its file, failed on the inputs, or has other outputs.
    """
    context = multiprocessing.get_context("spawn")
    seats = [_Seat(context, contender, inputs) for contender in contenders]
    try:
        ready = [seat.wait() for seat in seats]
        for seat in seats:
            seat.ask(("time", seconds / 3))
        times: list[list[float]] = [[] for _ in seats]
        for _ in range(ROUNDS):
            for seat, found in zip(seats, times, strict=True):
                found += seat.ask(("time", seconds / ROUNDS))
        last = [seat.ask(("end", profile)) for seat in seats]
    finally:
        for seat in seats:
            seat.close()
    reference = last[0]["outputs"]
    for contender, end in zip(contenders, last, strict=True):
        if len(end["outputs"]) != len(reference):
            raise BenchError(
                f"{contender.name}: {contender.source} has {len(end['outputs'])} outputs, "
                f"{contenders[0].source} has {len(reference)}"
            )
    results = []
    for contender, start, found, end in zip(contenders, ready, times, last, strict=True):
        p50, p90, p99 = np.percentile(found, [50, 90, 99]) * 1e3
        results.append(
            Result(
                engine=contender.name,
                threads=start["threads"],
                file_bytes=_file_bytes(contender),
                load_ms=start["load"] * 1e3,
                first_run_ms=start["first"] * 1e3,
                p50_ms=float(p50),
                p90_ms=float(p90),
                p99_ms=float(p99),
                min_ms=min(found) * 1e3,
                runs=len(found),
                peak_rss_bytes=end["peak_rss"],
                difference=None if end is last[0] else difference(end["outputs"], reference),
                profile=end["profile"],
            )
        )
    return results


def _file_bytes(contender: Contender) -> int | None:
    """The size of its file, where it has one: `dense` would have another, `torch` has none."""
    return os.path.getsize(contender.source) if contender.engine in ("gossamer", "ort") else None


def difference(got: Iterable[np.ndarray], expected: Iterable[np.ndarray]) -> float:
    """The largest difference of two answers, as a part of the largest value expected; infinite where shapes differ."""
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.size:
            a, b = a.astype(np.float64), b.astype(np.float64)
            scale = float(np.abs(b).max())
            worst = max(worst, float(np.abs(a - b).max()) / (scale or 1.0))
    return worst


class _Seat:
    """A contender's process and the pipe to it."""

    def __init__(self, context: Any, contender: Contender, inputs: Sequence[np.ndarray]) -> None:
        self._name = contender.name
        self._pipe, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, contender, list(inputs)), daemon=True
        )
        self._process.start()
        theirs.close()

    def wait(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise BenchError(f"{self._name}: its process ended with code {self._process.exitcode}") from None
        if kind == "error":
            raise BenchError(f"{self._name}: {value}")
        return value

    def ask(self, request: tuple[str, Any]) -> Any:
        self._pipe.send(request)
        return self.wait()

    def close(self) -> None:
        self._pipe.close()
        self._process.join(timeout=2)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _serve(pipe: Connection, contender: Contender, inputs: list[np.ndarray]) -> None:
    """The contender's side: loads, then answers requests until the other side hangs up."""
    # Who interrupts the command interrupts its parent, which hangs up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # What is timed is the loading of the file, not of the engine; that one is missing, the engine says itself.
        with contextlib.suppress(ImportError):
            for module in _MODULES[contender.engine]:
                importlib.import_module(module)
        start = time.perf_counter()
        run, threads, profiler = _ENGINES[contender.engine](contender, inputs)
        loaded = time.perf_counter()
        outputs = run()
        first = time.perf_counter()
        pipe.send(("ready", {"load": loaded - start, "first": first - loaded, "threads": threads}))
        while True:
            request, value = pipe.recv()
            if request == "time":
                pipe.send(("times", _time(run, value)))
            else:
                outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
                end = {
                    "outputs": [np.asarray(output) for output in outputs],
                    "peak_rss": machine.peak_rss(),
                    "profile": profiler() if value and profiler else None,
                }
                pipe.send(("end", end))
    except EOFError:
        pass
    except Exception as error:
        # In a line: engines tell of their own innards in many.
        pipe.send(("error", " ".join(str(error).split()) or type(error).__name__))


def _time(run: Run, seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < FEWEST_RUNS / ROUNDS or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


Engine = tuple[Run, int | None, "Callable[[], Profile] | None"]


def _gossamer(contender: Contender, inputs: list[np.ndarray], **options: Any) -> Engine:
    from gossamer import runtime

    model = runtime.Model(contender.source, {"threads": contender.threads, "isa": contender.isa, **options})
    return (lambda: model.run(*inputs)), model.threads, (lambda: model.profile(*inputs))


def _dense(contender: Contender, inputs: list[np.ndarray]) -> Engine:
    return _gossamer(contender, inputs, dense=True)


def _ort(contender: Contender, inputs: list[np.ndarray]) -> Engine:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise BenchError("onnxruntime is not installed here: pip install onnxruntime") from None
    if not os.path.isfile(contender.source):
        raise BenchError(f"{contender.source}: there is no such file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    if contender.threads:
        options.intra_op_num_threads = contender.threads
    session = onnxruntime.InferenceSession(contender.source, options, providers=["CPUExecutionProvider"])
    wanted = [spec.name for spec in session.get_inputs()]
    if len(wanted) != len(inputs):
        raise BenchError(
            f"{contender.source} has inputs {', '.join(wanted)}, expected {len(inputs)}, as the .goss file has"
        )
    feed = dict(zip(wanted, inputs, strict=True))
    return (lambda: session.run(None, feed)), contender.threads, None


def _torch(contender: Contender, inputs: list[np.ndarray]) -> Engine:
    try:
        import torch
    except ImportError:
        raise BenchError("torch is not installed here: pip install 'gossamer[torch]'") from None

    from gossamer.factory import factory

    module, _ = factory(contender.source)
    if contender.threads:
        torch.set_num_threads(contender.threads)
    tensors = [torch.from_numpy(array) for array in inputs]

    def run() -> Any:
        with torch.inference_mode():
            return module(*tensors)

    return run, torch.get_num_threads(), None


_ENGINES: dict[str, Callable[[Contender, list[np.ndarray]], Engine]] = {
    "gossamer": _gossamer,
    "dense": _dense,
    "ort": _ort,
    "torch": _torch,
}
ENGINES = tuple(_ENGINES)
_MODULES = {
    "gossamer": ("gossamer.runtime",),
    "dense": ("gossamer.runtime",),
    "ort": ("onnxruntime",),
    "torch": ("torch", "gossamer.factory"),
}
