"""The `gossamer` command: each subcommand is a thin call of the Python API."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from gossamer import _core, bench, machine, runtime
from gossamer.factory import FactoryError, factory
from gossamer.text import size_text, table

if TYPE_CHECKING:
    from gossamer.runtime import Model

# A tier that computes something else is off by orders of magnitude; tiers that only round differently stay below this.
TIERS_AGREE = 1e-2
# What a .npy file begins with.
NPY = b"\x93NUMPY"


class CommandError(Exception):
    """What was asked cannot be done; the message says why. Printed without a traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit code: 0, or 1 after an error, which is told on stderr in a line.
    """
    args = _parser().parse_args(argv)
    try:
        code: int | None = args.command(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter must not find that out once more as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except (CommandError, FactoryError, bench.BenchError, _core.Error, OSError) as error:
        print(f"gossamer {args.name}: {error}", file=sys.stderr)
        return 1
    return code or 0


def _info(args: argparse.Namespace) -> None:
    model = _load(args.file, isa=args.isa)
    size = os.path.getsize(args.file)
    values = {"inputs": model.inputs, "outputs": model.outputs}
    if args.json:
        described = {kind: [asdict(value) for value in found] for kind, found in values.items()}
        record = {"file": args.file, "file_bytes": size, "tier": model.isa, **described}
        _print_json({**record, "memory": model.memory, "layers": model.layers})
        return
    print(f"{args.file}  {size_text(size)}")
    for kind, found in values.items():
        for value in found:
            print(f"{kind[:-1]:8}{value}")
    print(f"{'memory':8}{', '.join(f'{kind} {size_text(count)}' for kind, count in model.memory.items())}")
    print()
    print(table([_layer_row(layer) for layer in model.layers]))


def _run(args: argparse.Namespace) -> None:
    model = _load(args.file, threads=args.threads, isa=args.isa)
    outputs = model.run(*_load_arrays(args.input))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    if args.output.endswith(".npz"):
        np.savez(args.output, **{spec.name: array for spec, array in zip(model.outputs, outputs, strict=True)})
    elif len(outputs) == 1:
        # Through a file: numpy would add .npy to another name.
        with open(args.output, "wb") as file:
            np.save(file, outputs[0])
    else:
        names = ", ".join(spec.name for spec in model.outputs)
        raise CommandError(
            f"{args.output}: the model has {len(outputs)} outputs ({names}); give a name that ends in .npz"
        )
    for spec, array in zip(model.outputs, outputs, strict=True):
        print(f"{spec.name}  {array.dtype} {array.shape}  -> {args.output}")


def _bench(args: argparse.Namespace) -> None:
    contenders = []
    for threads in args.threads:
        contenders.append(bench.Contender("gossamer", args.file, threads, args.isa))
        for name, source in args.against:
            contenders.append(
                bench.Contender(name, source or args.file, threads, args.isa if name == "dense" else None)
            )
    model = _load(args.file, isa=args.isa)
    inputs = _load_arrays(args.input) if args.input else example_inputs(model, dict(args.dim))
    host = {**machine.describe(), "tier": model.isa}
    results = bench.measure(contenders, inputs, seconds=args.seconds, profile=args.profile)
    host["temperature_after_c"] = machine.temperature()
    if args.json:
        shapes = [{"shape": list(array.shape), "dtype": str(array.dtype)} for array in inputs]
        rows = [result.to_dict() for result in results]
        _print_json({"file": args.file, "machine": host, "inputs": shapes, "results": rows})
        return
    print(f"{host['cpu']}, {host['cores']} cores usable, tier {host['tier']}, {_conditions(host)}")
    given = ", ".join(f"{array.dtype} {array.shape}" for array in inputs)
    print(f"{args.file}, input {given}, {results[0].runs} runs")
    print()
    print(table([_bench_row(result) for result in results]))
    if host["temperature_after_c"] is not None:
        print(f"\n{host['temperature_after_c']:.0f} °C afterwards")
    for result in results:
        if result.profile:
            print(f"\n{result.engine}, threads {result.threads}\n{result.profile}")


def _verify(args: argparse.Namespace) -> int:
    # Loading validates all of the file, checksums included.
    model = _load(args.file, mmap=False)
    inputs = example_inputs(model, dict(args.dim))
    reference = _as_tuple(runtime.load(args.file, isa="scalar").run(*inputs))
    rows = []
    for tier in _core.cpu()["tiers"]:
        outputs = _as_tuple(runtime.load(args.file, isa=tier).run(*inputs))
        same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(outputs, reference, strict=True))
        off = bench.difference(outputs, reference)
        rows.append({"tier": tier, "identical": same, "difference": off, "agrees": same or off <= TIERS_AGREE})
    good = all(row["agrees"] for row in rows)
    if args.json:
        _print_json({"file": args.file, "valid": True, "agree": good, "tiers": rows})
    else:
        print(f"{args.file}: valid, {len(model.layers)} layers")
        for row in rows:
            verdict = "identical to scalar" if row["identical"] else f"differs from scalar by {row['difference']:.1e}"
            print(f"  {row['tier']:12}{verdict}{'' if row['agrees'] else '  WRONG'}")
    return 0 if good else 1


def _convert(args: argparse.Namespace) -> None:
    try:
        import gossamer

        convert = gossamer.convert
        module, example = factory(args.factory)
        report = convert(module, example, args.out, weights=args.weights)
    except ImportError as error:
        raise CommandError(f"{error}; converting needs torch: pip install 'gossamer[torch]'") from None
    print(report.to_json() if args.json else report)


def _cpu(args: argparse.Namespace) -> None:
    found = _core.cpu()
    if args.json:
        _print_json({**machine.describe(), **found})
        return
    print(f"{machine.cpu_name()}, {machine.cores()} cores usable, {_conditions(machine.describe())}")
    print(f"tiers   {' '.join(found['tiers'])}")
    print(f"chosen  {found['chosen']}")
    print()
    print(table([{"family": family, "kernel": kernel} for family, kernel in found["families"].items()]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gossamer",
        description="Runs compressed PyTorch models. A model is converted once, where torch is, into a .goss file; "
        "everything else here needs that file and numpy.",
        epilog="""a first tour:
  gossamer convert mymodels.nets:make net.goss       make() returns (module, example_inputs)
  gossamer info net.goss                             what is in the file
  gossamer bench net.goss --against dense            what compression has gained
  gossamer run net.goss --input x.npy --output y.npy

gossamer COMMAND --help tells more. The exit code is 0, 1 after an error, which stderr tells in a line, or 2 where the
command line is not understood.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gossamer {_core.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        run: Callable[[argparse.Namespace], int | None], summary: str, more: str = "", example: str = ""
    ) -> argparse.ArgumentParser:
        name = run.__name__.lstrip("_")
        told = f"{summary[0].upper()}{summary[1:]}. {more}".strip()
        sub = commands.add_parser(
            name, help=summary, description=told, epilog=f"Example: gossamer {name} {example}".strip()
        )
        sub.set_defaults(command=run, name=name)
        return sub

    def add_file(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("file", metavar="FILE", help="a .goss file")

    def add_isa(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--isa", metavar="TIER", help="highest instruction-set tier to use (`gossamer cpu` lists them)"
        )

    def add_json(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--json", action="store_true", help="print JSON")

    def add_dim(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--dim",
            action="append",
            type=_dimension,
            default=[],
            metavar="NAME=SIZE",
            help="size of a dynamic dimension (default: 1 for batch, else as converted)",
        )

    sub = command(
        _info,
        "show a file's inputs, outputs, memory and layers",
        "Layers show how each is stored, which kernel runs it here, and why that one where there was a choice.",
        example="net.goss",
    )
    add_file(sub)
    add_isa(sub)
    add_json(sub)

    sub = command(
        _run,
        "run a file once on arrays from disk",
        "Inputs are .npy files, as numpy.save writes them, of the dtype and shape that `gossamer info` shows.",
        example="net.goss --input x.npy --output y.npy",
    )
    add_file(sub)
    sub.add_argument(
        "--input", action="append", required=True, metavar="X.npy", help="an input; once per input, in order"
    )
    sub.add_argument(
        "--output", required=True, metavar="Y.npy", help="where to write; several outputs need a name in .npz"
    )
    sub.add_argument("--threads", type=_positive, metavar="N", help="threads (default: the cores this process may use)")
    add_isa(sub)

    sub = command(
        _bench,
        "measure latency, start-up and memory",
        "Prints the machine (CPU, cores, tier, governor and temperature where it tells them) and a row for each engine "
        "and thread count: size of the file, time to load it, the first run, percentiles of the runs after a warm-up, "
        "peak memory of the whole process, Python included, and how far the answer is from gossamer's. Every engine "
        "runs in a process of its own, in turns with the others.",
        example="net.goss --threads 1,2 --against dense,torch=mymodels.nets:make",
    )
    add_file(sub)
    sub.add_argument(
        "--threads", type=_thread_counts, default=[None], metavar="1,2", help="thread counts, each measured"
    )
    sub.add_argument("--seconds", type=_seconds, default=3.0, metavar="S", help="time for each row (default 3)")
    sub.add_argument("--profile", action="store_true", help="add the time of each layer")
    sub.add_argument(
        "--against",
        type=_against,
        default=[],
        metavar="LIST",
        help="also measure, separated by commas: dense (this file with every weight expanded), "
        "ort=NET.onnx (onnxruntime), torch=PACKAGE.MODULE:FACTORY (a function that returns (module, example_inputs))",
    )
    sub.add_argument(
        "--input", action="append", metavar="X.npy", help="a real input; once per input, in order (default: random)"
    )
    add_dim(sub)
    add_isa(sub)
    add_json(sub)

    sub = command(
        _verify,
        "check a file: that it is whole, and that every tier of this CPU computes the same from it",
        "Exits with 1 if not. Integer networks must agree to the bit, others up to rounding.",
        example="net.goss",
    )
    add_file(sub)
    add_dim(sub)
    add_json(sub)

    sub = command(
        _convert,
        "convert a PyTorch module",
        "Prints how each layer was stored and why, and the largest difference from torch on the example. A module that "
        "cannot be converted leaves no file, and all that is in the way is told at once.",
        example="mymodels.nets:make net.goss --weights float16",
    )
    sub.add_argument(
        "factory",
        metavar="PACKAGE.MODULE:FACTORY",
        help="a function that returns (module, example_inputs); looked up from the current folder too",
    )
    sub.add_argument("out", metavar="OUT", help="the .goss file to write")
    sub.add_argument(
        "--weights",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="storage of float weights (default float32)",
    )
    add_json(sub)

    sub = command(
        _cpu,
        "show this CPU's tiers and the kernel chosen per family",
        "A tier is a set of instructions that kernels are written for; GOSSAMER_ISA=TIER lowers the highest one used.",
    )
    add_json(sub)
    return parser


def _refuse(message: str) -> NoReturn:
    raise argparse.ArgumentTypeError(message)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        _refuse(f"{text!r} is not a whole number above 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        _refuse(f"{text!r} is not a number of seconds above 0")
    return value


def _thread_counts(text: str) -> list[int | None]:
    return [_positive(part) for part in text.split(",")]


def _dimension(text: str) -> tuple[str, int]:
    name, _, size = text.partition("=")
    if not name:
        _refuse(f"{text!r}: expected NAME=SIZE")
    return name, _positive(size)


def _against(text: str) -> list[tuple[str, str]]:
    pairs = []
    for part in text.split(","):
        name, _, source = part.partition("=")
        if name not in bench.ENGINES[1:]:
            _refuse(f"{name!r}: expected one of {', '.join(bench.ENGINES[1:])}")
        if (name == "dense") == bool(source):
            _refuse(
                f"{part!r}: dense takes no file, ort and torch need one (ort=NET.onnx, torch=PACKAGE.MODULE:FACTORY)"
            )
        pairs.append((name, source))
    return pairs


def _load(path: str, **options: Any) -> "Model":
    if os.path.isdir(path):
        raise CommandError(f"{path}: is a folder, expected a .goss file")
    return runtime.load(path, **options)


def _load_arrays(paths: Iterable[str]) -> list[np.ndarray]:
    arrays = []
    for path in paths:
        with open(path, "rb") as file:
            if file.read(len(NPY)) != NPY:
                raise CommandError(f"{path}: not a .npy file, which numpy.save writes")
            file.seek(0)
            try:
                arrays.append(np.load(file, allow_pickle=False))
            except (ValueError, EOFError) as error:
                raise CommandError(f"{path}: numpy cannot read it: {error}") from None
    return arrays


def example_inputs(model: "Model", sizes: dict[str, int]) -> list[np.ndarray]:
    """Random inputs for a model, the same every time.

    Args:
        model: What to make them for.
        sizes: Sizes of dynamic dimensions by name; without one, `batch` is 1 and others are as the model was converted.

    Returns:
        Normally distributed floats; integers 0 and 1, which are indices into anything.

    Raises:
        CommandError: `sizes` names a dimension the model does not have.
    """
    known: dict[str, int] = {}
    for spec, example in zip(model.inputs, model.examples, strict=True):
        known |= {name: size for name, size in zip(spec.shape, example, strict=True) if isinstance(name, str)}
    if unknown := sorted(set(sizes) - set(known)):
        have = ", ".join(sorted(known)) or "none"
        raise CommandError(f"--dim {unknown[0]}: the model has no such dynamic dimension; it has {have}")
    chosen = {**known, **{name: 1 for name in known if name == "batch"}, **sizes}
    rng = np.random.default_rng(0)
    arrays = []
    for spec in model.inputs:
        shape = [chosen[size] if isinstance(size, str) else size for size in spec.shape]
        dtype = np.dtype(spec.dtype)
        values = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        arrays.append(values.astype(dtype))
    return arrays


def _layer_row(layer: dict[str, Any]) -> dict[str, Any]:
    rows, columns = layer.get("weight_shape", (0, 0))
    return {
        "layer": layer["name"],
        "op": layer["op"],
        "weight": layer.get("format"),
        "zeros %": round(100 * (1 - layer["nnz"] / (rows * columns))) if rows * columns else None,
        "MB": layer["bytes"] / 1e6,
        "kernel": layer["kernel"],
        "why": layer["reason"] or None,
    }


def _bench_row(result: bench.Result) -> dict[str, Any]:
    return {
        "engine": result.engine,
        "threads": result.threads,
        "file MB": None if result.file_bytes is None else result.file_bytes / 1e6,
        "load ms": result.load_ms,
        "first ms": result.first_run_ms,
        "p50 ms": result.p50_ms,
        "p90 ms": result.p90_ms,
        "p99 ms": result.p99_ms,
        "peak RSS MB": result.peak_rss_bytes / 1e6,
        "differs": result.difference,
    }


def _conditions(host: dict[str, Any]) -> str:
    degrees = host["temperature_c"]
    return f"governor {host['governor'] or 'not told'}, " + (
        "temperature not told" if degrees is None else f"{degrees:.0f} °C"
    )


def _as_tuple(outputs: Any) -> tuple[np.ndarray, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


if __name__ == "__main__":
    sys.exit(main())
