"""Compares what the cost model expects of sparse layers with the clock, and pruned networks with their dense selves.

usage: python estimates.py [NET ...] [--zeros 50,60,70,80,90,95] [--rounds 8] [--json FILE]

For each network of models.py and share of zeros: the share of its sparse layers whose estimate is within 25 % of the
time measured, on one thread, and how long the network takes relative to the dense one, in turns. The constants of the
model (rust/core/src/kernels/spmm_f32/cost.rs) are those of one processor of each maker: on another the estimates are
off by a common factor, the choices hardly; the last line is without it. Nothing else should run on the machine
meanwhile.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import models
import torch
from rich.progress import track

import gossamer
from gossamer import runtime
from gossamer.text import table

NETS = ["mobilenetv2", "resnet50", "mlp_b64"]
NEAR = 0.25


def load(name, zeros, folder):
    """The network with that percentage of zeros, by gossamer's own path, and an input."""
    torch.manual_seed(0)
    make, make_input = models.cases()[name]
    x = make_input()
    module = models.enliven(make(), x)
    if zeros:
        models.prune(module, zeros / 100)
    path = Path(folder, f"{name}_{zeros}.goss")
    gossamer.convert(module, (x,), path)
    return runtime.load(path, threads=1), x.numpy()


def layers(net, x, rounds):
    """The steps for which there is an estimate, each with the median of its times."""
    profiles = [net.profile(x, repeat=2).steps for _ in range(rounds)]
    found = []
    for steps in zip(*profiles, strict=True):
        if steps[0]["estimate"] is not None:
            seconds = statistics.median(step["seconds"] for step in steps)
            keys = ("name", "op", "kernel", "shape", "estimate", "flops", "bytes")
            found.append({key: steps[0][key] for key in keys} | {"seconds": seconds})
    return found


def clock(net, x):
    """Seconds of a run, the caches its own."""
    net.run(x)
    start = time.perf_counter()
    net.run(x)
    net.run(x)
    return (time.perf_counter() - start) / 2


def near(ratios):
    """Per cent of the ratios of estimate and clock that are within 25 % of 1."""
    return 100 * sum(abs(ratio - 1) <= NEAR for ratio in ratios) / max(len(ratios), 1)


def measure(name, shares, rounds, folder):
    """One row a share of zeros."""
    nets = {}
    for zeros in track([0, *shares], f"{name}: converting"):
        nets[zeros] = load(name, zeros, folder)
    times = {zeros: [] for zeros in nets}
    for _ in track(range(rounds), f"{name}: measuring"):
        for zeros, (net, x) in nets.items():
            times[zeros].append(clock(net, x))
    rows = []
    for zeros in shares:
        found = layers(*nets[zeros], rounds)
        ratios = [layer["estimate"] / layer["seconds"] for layer in found]
        rows.append(
            {
                "net": name,
                "zeros": zeros,
                "layers": len(found),
                "near": near(ratios) / 100,
                "lowest": min(ratios, default=1.0),
                "highest": max(ratios, default=1.0),
                "sparse": sum("spmm" in layer["kernel"] for layer in found),
                "ms": 1e3 * statistics.median(times[zeros]),
                "of_dense": statistics.median(a / b for a, b in zip(times[zeros], times[0], strict=True)),
                "steps": found,
            }
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nets", nargs="*", default=NETS, metavar="NET", help=f"default: {' '.join(NETS)}")
    parser.add_argument("--zeros", default="50,60,70,80,90,95", help="percentages")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_intermixed_args()
    shares = [int(share) for share in args.zeros.split(",")]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.nets:
            rows += measure(name, shares, args.rounds, folder)
    shown = [
        {
            "net": row["net"],
            "zeros": f"{row['zeros']} %",
            "sparse": f"{row['sparse']} of {row['layers']}",
            "within 25 %": f"{100 * row['near']:.0f} %",
            "estimate / clock": f"{row['lowest']:.2f} to {row['highest']:.2f}",
            "ms": f"{row['ms']:.2f}",
            "of dense": f"{row['of_dense']:.3f}",
        }
        for row in rows
    ]
    print(table(shown, right=("zeros", "sparse", "within 25 %", "estimate / clock", "ms", "of dense")))
    every = [step["estimate"] / step["seconds"] for row in rows for step in row["steps"]]
    slowest = max(row["of_dense"] for row in rows)
    print(f"{near(every):.1f} % of {len(every)} layers within 25 %; at most {slowest:.3f} of the dense network's time")
    factor = statistics.median(every)
    print(f"divided by {factor:.2f}, the factor of this processor: {near([r / factor for r in every]):.1f} %")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
