"""Compares gossamer with torch and, where their environments are given, with other engines, on the cases of models.py.

usage: python compare.py [CASE ...] [--peers DIR] [--threads 1,2] [--rounds 3] [--seconds 2] [--isa TIER] [--json FILE]

Engines take turns, each in a process of its own, so that a machine that drifts treats all alike; the median over rounds
of each round's median is printed. CASE_int8 is CASE quantized, by gossamer for gossamer and by onnxruntime for the
others; CASE_s90 has 90 % of its weights zero, and of CASE_f16 gossamer stores the weights in float16. `ov` computes in
bfloat16 where the CPU can, so only int8 cases name it. `--isa` holds gossamer and, by oneDNN's own variable, OpenVINO
and torch to a tier: what they would do on a CPU that has no more.
Nothing else should run on the machine meanwhile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import models
import numpy as np
import torch

import gossamer
from gossamer import compress, machine

HERE = Path(__file__).parent
FILES = HERE.parent / "target" / "bench"
FORMS = ["", "_s90", "_s90_f16", "_int8", "_s90_int8"]
DEFAULT = [net + form for net in ("mobilenetv2", "resnet50", "vgg16") for form in FORMS]
DEFAULT += ["mlp", "mlp_s90", "mlp_s90_f16", "mlp_s90_int8", "mlp_b64", "mlp_b64_s90", "mlp_b64_s90_f16"]
DEFAULT += ["efficientnetlite0", "efficientnetlite0_int8"]
DEFAULT += ["dense1000", "lowrank1000r100", "lowrank1000r100_b64"]

# What oneDNN calls the tiers; it is inside OpenVINO and torch.
ONEDNN = {"avx2": "AVX2", "avxvnni": "AVX2_VNNI", "avx512": "AVX512_CORE", "avx512vnni": "AVX512_CORE_VNNI"}


def convert(case):
    """Writes CASE.goss with gossamer's own API."""
    network, form = models.form(case)
    module, example = models.build(network)
    if form == "int8":
        if example.ndim == 4:
            torch.manual_seed(1)
            module = compress.quantize(module, [(models.image(),) for _ in range(8)])
        else:
            module = compress.quantize(module, mode="dynamic")
    weights = "float16" if form == "f16" else "float32"
    gossamer.convert(module, (example,), FILES / f"{case}.goss", weights=weights)


def engines(case, peers):
    """The engines of a case, by name, each with its Python."""
    found = {"gossamer": sys.executable}
    integer = models.form(case)[1] == "int8"
    if not integer:
        found["torch"] = sys.executable
    if peers:
        python = peers / "peers" / "bin" / "python"
        found |= {"ort": python, "ov" if integer else "ov32": python}
        if (peers / "deepsparse").is_dir():
            found["ds"] = peers / "deepsparse" / "bin" / "python"
    return found


def differs(got, expected):
    """The largest difference relative to the largest value, and the cosine of the two answers."""
    a, b = got.ravel().astype(np.float64), expected.ravel().astype(np.float64)
    return float(np.abs(a - b).max() / np.abs(b).max()), float(a @ b / np.sqrt((a @ a) * (b @ b)))


def compare(case, threads, args):
    """The rows of one case: one an engine, and one a failure."""
    rounds, answers, failed = {}, {}, {}
    pythons = engines(case, args.peers)
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(args.rounds):
            for engine, python in pythons.items():
                answer = Path(scratch, f"{engine}.npy")
                command = [python, HERE / "worker.py", engine, case, FILES, str(threads), str(args.seconds), answer]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    failed[engine] = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:200]
                    continue
                # OpenVINO and DeepSparse write banners before it.
                rounds.setdefault(engine, []).append(json.loads(done.stdout.splitlines()[-1]))
                answers[engine] = np.load(answer)
    rows = [{"case": case, "threads": threads, "engine": engine, "failed": why} for engine, why in failed.items()]
    reference = answers.get("torch", answers.get("ort"))
    for engine, found in rounds.items():
        row = {"case": case, "threads": threads, "engine": engine, **found[-1]}
        for key in ("median_ms", "load_ms", "first_ms"):
            row[key] = statistics.median(one[key] for one in found)
        if reference is not None:
            row["difference"], row["cosine"] = differs(answers[engine], reference)
        rows.append(row)
    return rows


def show(rows):
    """One line a case: what each engine took, and the best of the others as a multiple of gossamer."""
    found = {row["engine"]: row for row in rows if "failed" not in row}
    line = "  ".join(f"{engine} {row['median_ms']:.3f} ms" for engine, row in found.items())
    line += "".join(f"  {row['engine']} FAILED ({row['failed']})" for row in rows if "failed" in row)
    others = [row["median_ms"] for engine, row in found.items() if engine != "gossamer"]
    if others and "gossamer" in found:
        line += f"  best other / gossamer {min(others) / found['gossamer']['median_ms']:.2f}"
        if "difference" in found["gossamer"]:
            line += f"  differs {found['gossamer']['difference']:.1e}"
    print(f"{rows[0]['case']} threads={rows[0]['threads']}: {line}", flush=True)


def result_path():
    """`benches/results/<date>-<cpu>.json`."""
    cpu = "-".join("".join(c if c.isalnum() else " " for c in machine.cpu_name().lower()).split())
    return HERE / "results" / f"{date.today().isoformat()}-{cpu}.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="default: those of the README's table")
    parser.add_argument("--peers", type=Path, help="what peers.sh made; default: torch alone")
    parser.add_argument("--threads", default="1", metavar="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: benches/results/<date>-<cpu>.json")
    parser.add_argument("--isa", choices=ONEDNN, help="default: the best tier of this CPU")
    args = parser.parse_intermixed_args()
    if args.isa:
        os.environ |= {"GOSSAMER_ISA": args.isa, "ONEDNN_MAX_CPU_ISA": ONEDNN[args.isa]}
    FILES.mkdir(parents=True, exist_ok=True)
    cases = args.cases or DEFAULT
    if args.peers:
        subprocess.run([args.peers / "peers" / "bin" / "python", HERE / "export.py", FILES, *cases], check=True)
    rows = []
    for case in cases:
        convert(case)
        for threads in args.threads.split(","):
            rows += compare(case, int(threads), args)
            show([row for row in rows if row["case"] == case and row["threads"] == int(threads)])
    record = {
        "date": date.today().isoformat(),
        "command": " ".join(["benches/compare.py", *sys.argv[1:]]),
        "machine": machine.describe(),
        "file_bytes": {case: (FILES / f"{case}.goss").stat().st_size for case in cases},
        "rows": rows,
    }
    path = args.json or result_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {path}")
    sys.exit(any("failed" in row for row in rows))


if __name__ == "__main__":
    main()
