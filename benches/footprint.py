"""What a compressed network takes: as a file, to load, to run a first time, in memory. Networks of models.py.

usage: python footprint.py [VGG16 ResNet50 MobileNetV2] [--json FILE]

Each is pruned to 90 % and stored in float16 or int8, or pruned and quantized, or quantized alone. Times and peak
memory are medians over five processes, each of which loads a file that is in the page cache and runs one image on one
thread; memory is counted beside that of a process which imports numpy alone.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import models
import torch

import gossamer
from gossamer import compress, machine

CODE = """
import json, sys, time
import numpy as np

def peak():
    # Not getrusage: a child's peak begins at what its parent held when it was forked.
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) * 1024

x = np.ones((1, 3, 224, 224), np.float32)
bare = peak()
clocks = [time.perf_counter()]
from gossamer import runtime
clocks.append(time.perf_counter())
if len(sys.argv) > 1:
    model = runtime.load(sys.argv[1], threads=1)
    clocks.append(time.perf_counter())
    model.run(x)
    clocks.append(time.perf_counter())
    for _ in range(2):
        model.run(x)
spans = [1e3 * (b - a) for a, b in zip(clocks, clocks[1:])]
print(json.dumps(dict(zip(["import_ms", "load_ms", "first_ms"], spans)) | {"peak_bytes": peak() - bare}))
"""
FORMS = ("pruned float16", "pruned int8", "pruned, quantized", "quantized")


def observe(*file: str) -> dict[str, float]:
    """Medians over processes that run a file, or none."""
    command = [sys.executable, "-c", CODE, *file]
    found = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(5)]
    return {key: statistics.median(one[key] for one in found) for key in found[0]}


@torch.no_grad()
def rows(name: str, x: torch.Tensor):
    """Converts and runs a network in the forms that compression leaves."""
    torch.manual_seed(0)
    dense = models.enliven(getattr(models, name)().eval(), x)
    pruned = compress.prune(dense, 0.9)
    for form in FORMS:
        module = pruned if "pruned" in form else dense
        if "quantized" in form:
            module = compress.quantize(module, [(x,)])
        weights = form.split()[1] if "quantized" not in form else "float32"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "net.goss"
            report = gossamer.convert(module, (x,), file, weights=weights)
            yield {"network": name, "form": form, "file_bytes": report.bytes_after, **observe(str(file))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=["VGG16", "ResNet50", "MobileNetV2"])
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_intermixed_args()
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    bare = observe()
    print(f"import beside numpy: {bare['import_ms']:.1f} ms, {bare['peak_bytes'] / 2**20:.1f} MiB")
    print(f"{'network':13}{'form':19}{'file MB':>9}{'load ms':>9}{'first ms':>10}{'peak MiB':>10}")
    found = []
    for name in args.networks:
        for row in rows(name, x):
            found.append(row)
            print(
                f"{name:13}{row['form']:19}{row['file_bytes'] / 1e6:9.2f}{row['load_ms']:9.1f}{row['first_ms']:10.1f}"
                f"{row['peak_bytes'] / 2**20:10.1f}",
                flush=True,
            )
    if args.json:
        command = " ".join(["benches/footprint.py", *sys.argv[1:]])
        record = {"date": date.today().isoformat(), "command": command, "machine": machine.describe()}
        args.json.write_text(json.dumps(record | {"import": bare, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
