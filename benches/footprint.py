"""What a pruned network takes, as a file and in memory: benches/models.py at 90 %, each run in a process of its own.

    python benches/footprint.py [VGG16 ResNet50 MobileNetV2]

Peak memory is that of a process that loads the file and runs one image on one thread, beside one that imports numpy
alone.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import models
import torch

import gossamer
from gossamer import compress

CODE = """
import sys
import numpy as np

x = np.ones((1, 3, 224, 224), np.float32)
if len(sys.argv) > 1:
    from gossamer import runtime

    model = runtime.load(sys.argv[1], threads=1)
    for _ in range(3):
        model.run(x)
# Not getrusage: a child's peak begins at what its parent held when it was forked.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak(*file: str) -> int:
    """Peak memory of a process that runs a file, or none, in bytes."""
    command = [sys.executable, "-c", CODE, *file]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * 1024


@torch.no_grad()
def main() -> None:
    """Converts and runs each network in the forms that compression leaves."""
    names = sys.argv[1:] or ["VGG16", "ResNet50", "MobileNetV2"]
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    bare = peak()
    print(f"{'90 % pruned':14}{'stored':12}{'file MB':>9}{'peak MiB':>10}   (beside {bare / 2**20:.1f} MiB)")
    for name in names:
        torch.manual_seed(0)
        pruned = compress.prune(models.enliven(getattr(models, name)().eval(), x), 0.9)
        for stored in ("float16", "int8", "static int8"):
            module = compress.quantize(pruned, [(x,)]) if stored == "static int8" else pruned
            weights = "float32" if stored == "static int8" else stored
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "net.goss"
                report = gossamer.convert(module, (x,), file, weights=weights)
                more = (peak(str(file)) - bare) / 2**20
            print(f"{name:14}{stored:12}{report.bytes_after / 1e6:9.2f}{more:10.1f}", flush=True)


if __name__ == "__main__":
    main()
