"""Runs what make_cases.py wrote, on a machine that has gossamer and numpy and nothing else, on every tier it has.

usage: python run_cases.py DIR [TIER ...]        (the tiers it must have)
"""

import platform
import sys
from pathlib import Path

import numpy as np

from gossamer import _core, runtime


def wrong(name: str, case: dict[str, np.ndarray], got: np.ndarray) -> str | None:
    """What is wrong with an answer, if anything."""
    if not np.ptp(case["torch"], axis=0).max() > 0.01 * np.abs(case["torch"]).max():
        return "the answer does not depend on the input, so that comparing it says nothing"
    if case["exact"]:
        unequal = np.count_nonzero(got.view(np.int32) != case["gossamer"].view(np.int32))
        return f"{unequal} of {got.size} values are not the ones of the machine that made the file" if unequal else None
    off = np.abs(got - case["torch"]).max() / np.abs(case["torch"]).max()
    return None if off <= case["bound"] else f"differs from torch by {off:.1e}, more than {float(case['bound']):.1e}"


def main(folder: Path, required: list[str]) -> int:
    """Prints a line a failure and the count of both; the exit code says whether all passed."""
    tiers = _core.cpu()["tiers"]
    passed = failed = 0
    for tier in set(required) - set(tiers):
        failed += 1
        print(f"FAILED {tier}: this machine must have it, and has {' '.join(tiers)}")
    for path in sorted(folder.glob("*.npz")):
        case = dict(np.load(path))
        for tier in tiers:
            for threads in (1, 2):
                model = runtime.load(path.with_suffix(".goss"), isa=tier, threads=threads)
                problem = wrong(path.stem, case, model.run(case["x"]))
                passed += problem is None
                if problem:
                    failed += 1
                    print(f"FAILED {path.stem} on {tier}, threads {threads}: {problem}")
    heavy = {"torch", "rich"} & set(sys.modules)
    if heavy:
        failed += 1
        print(f"FAILED running a model imported {', '.join(sorted(heavy))}")
    print(f"{platform.machine()}, tiers {' '.join(tiers)}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
