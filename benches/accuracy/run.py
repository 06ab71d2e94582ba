"""What pruning costs in accuracy and gives in bytes and time, on a network that is trained for it.

    python benches/accuracy/run.py [--seeds 0 1 2] [--epochs N] [--data DIR] [--out DIR] [--smoke]

For each seed: trains a VGG-style network on Fashion-MNIST, prunes copies to 90 % in three patterns, trains each on,
converts all of them, and lets gossamer classify the 10,000 test images. One of the pruned networks is quantized too.
Every stage leaves its result in the folder of `--out`: a run that is killed goes on from its last epoch when it is
started again, and one that is complete only measures time anew.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import fashion
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from train import BATCH, Recipe, train, vgg

import gossamer
from gossamer import compress, runtime

SPARSITY = 0.9
PATTERNS = ("unstructured", "balanced", "4x1")
# Also quantized, after the training that follows pruning.
QUANTIZED = "unstructured"
FORMS = ("dense", "unstructured", "unstructured int8", "balanced", "4x1")
CALIBRATION = 512  # training images
ROUNDS, RUNS = 15, 40  # of timing


@dataclass(frozen=True)
class Settings:
    """What a folder's results depend on, beside the seed."""

    epochs: int = 5
    tuning: int = 2
    widths: tuple[int, ...] = (32, 64, 128)
    hidden: int = 256
    images: int | None = None
    narrow: bool = False


# Some hundred images and a network of a few channels: whether it all works, in seconds.
SMOKE = {"widths": (8, 16, 16), "hidden": 32, "images": 640, "epochs": 5, "tuning": 1}


@dataclass
class Row:
    """What one form of one seed's network is worth.

    Attributes:
        accuracy: The share of test images that gossamer puts in their class.
        differ: Test images that torch puts in another class than gossamer.
        zeros: The share of zeros in the weights of convolutions and linears.
        bytes: Of the file.
        ms: Median time of one image on one thread.
    """

    seed: int
    form: str
    accuracy: float
    differ: int
    zeros: float
    bytes: int
    ms: float = 0.0


def prepare(path: Path, settings: Settings) -> None:
    """Makes the folder, or refuses one whose results are of other settings.

    Raises:
        SystemExit: They are.
    """
    path.mkdir(parents=True, exist_ok=True)
    note = path / "settings.json"
    text = json.dumps(asdict(settings))
    if note.exists() and note.read_text() != text:
        sys.exit(f"{path} has results of other settings, {note.read_text()}: give another --out, or remove it")
    note.write_text(text)


def networks(
    seed: int, folder: Path, settings: Settings, images: fashion.Images, stages: "Stages"
) -> Iterator[tuple[str, nn.Module]]:
    """The forms of a seed's network, trained."""

    def trained(net: nn.Module, name: str, recipe: Recipe) -> nn.Module:
        with stages(f"seed {seed}: {name}", recipe.epochs, len(images) // BATCH) as step:
            train(net, images, recipe, seed, folder / f"{name}.pt", step)
        return net

    torch.manual_seed(seed)
    dense = trained(vgg(settings.widths, settings.hidden), "dense", Recipe(settings.epochs, 0.1, 0.3, settings.narrow))
    yield "dense", dense
    for pattern in PATTERNS:
        pruned = compress.prune(dense, SPARSITY, pattern=pattern)
        yield pattern, trained(pruned, pattern, Recipe(settings.tuning, 0.05, 0.1, settings.narrow))
        if pattern == QUANTIZED:
            batches = [(x,) for x in images.x[:CALIBRATION].split(64)]
            yield f"{pattern} int8", compress.quantize(pruned.eval(), batches)


def judge(net: nn.Module, path: Path, images: fashion.Images) -> tuple[float, int]:
    """The accuracy of a file, and how many images torch sees otherwise."""
    model = runtime.load(path, threads=1)
    with torch.inference_mode():
        ours = np.concatenate([model.run(x.numpy()).argmax(1) for x in images.x.split(250)])
        theirs = torch.cat([net(x).argmax(1) for x in images.x.split(250)]).numpy()
    return float((ours == images.y.numpy()).mean()), int((ours != theirs).sum())


def zeros(net: nn.Module) -> float:
    """The share of zeros in the weights of convolutions and linears."""
    weights = [layer.weight for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return sum(int((w == 0).sum()) for w in weights) / max(sum(w.numel() for w in weights), 1)


def seed_rows(
    seed: int,
    out: Path,
    settings: Settings,
    train_images: fashion.Images,
    test_images: fashion.Images,
    stages: "Stages",
) -> list[Row]:
    """Trains, converts and judges what is not done yet, and returns all of a seed."""
    folder = out / f"seed-{seed}"
    folder.mkdir(exist_ok=True)
    rows, share = [], 0.0
    for form, net in networks(seed, folder, settings, train_images, stages):
        stem = form.replace(" ", "-")
        file, note = folder / f"{stem}.goss", folder / f"{stem}.json"
        # A quantized network keeps its integers in modules of its own; its zeros are those it was made of.
        share = zeros(net) if "int8" not in form else share
        if not note.exists():
            gossamer.convert(net, (test_images.x[:2],), file)
            accuracy, differ = judge(net, file, test_images)
            row = Row(seed, form, accuracy, differ, share, file.stat().st_size)
            temporary = note.with_suffix(".new")
            temporary.write_text(json.dumps(asdict(row)))
            os.replace(temporary, note)
        rows.append(Row(**json.loads(note.read_text())))
    return rows


def time_rows(rows: list[Row], out: Path, x: np.ndarray) -> None:
    """Measures every file, all taking turns, so that a clock that drifts treats all alike."""
    models = [runtime.load(out / f"seed-{row.seed}" / f"{row.form.replace(' ', '-')}.goss", threads=1) for row in rows]
    times: list[list[float]] = [[] for _ in rows]
    for _ in range(ROUNDS):
        for model, found in zip(models, times, strict=True):
            for _ in range(RUNS):
                start = time.perf_counter()
                model.run(x)
                found.append((time.perf_counter() - start) * 1e3)
    for row, found in zip(rows, times, strict=True):
        row.ms = statistics.median(found)


def table(rows: list[Row]) -> str:
    """The results as a table of Markdown: means over the seeds, and the accuracy of the worst."""
    lines = [
        "| network | zeros | accuracy | worst seed | against dense | unlike torch | file KB | ms | dense / this |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    dense = {row.seed: row for row in rows if row.form == "dense"}
    for form in FORMS:
        found = [row for row in rows if row.form == form]
        mean = statistics.fmean
        lost = [100 * (row.accuracy - dense[row.seed].accuracy) for row in found]
        faster = mean(dense[row.seed].ms / row.ms for row in found)
        lines.append(
            f"| {form} | {mean(r.zeros for r in found):.1%} | {mean(r.accuracy for r in found):.2%}"
            f" | {min(r.accuracy for r in found):.2%} | {mean(lost):+.2f} (worst {min(lost):+.2f})"
            f" | {mean(r.differ for r in found):.1f} | {mean(r.bytes for r in found) / 1e3:.1f}"
            f" | {mean(r.ms for r in found):.3f} | {faster:.2f} |"
        )
    return "\n".join(lines)


class Stages:
    """Shows how far training is: a bar on a terminal, elsewhere a line an epoch."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)

    @contextmanager
    def __call__(self, title: str, epochs: int, steps: int) -> Iterator[Callable[[int, float], None]]:
        """Yields what to call after each of `steps` steps an epoch with the steps done so far and the loss."""
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=self.console, transient=True) as bar:
                task = bar.add_task(title, total=epochs * steps)
                yield lambda done, loss: bar.update(task, completed=done, description=f"{title}, loss {loss:.3f}")
            return

        losses: list[float] = []

        def line(done: int, loss: float) -> None:
            losses.append(loss)
            if done % steps == 0:
                mean = statistics.fmean(losses)
                print(f"{title}: epoch {done // steps} of {epochs}, loss {mean:.3f}", file=sys.stderr, flush=True)
                losses.clear()

        yield line


def main() -> None:
    """Runs the seeds that are asked for and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    parser.add_argument("--epochs", type=int, metavar="N", help=f"of the dense network (default {Settings().epochs})")
    parser.add_argument("--tuning", type=int, metavar="N", help=f"of each pruned one (default {Settings().tuning})")
    parser.add_argument("--data", type=Path, default=fashion.FOLDER, metavar="DIR", help="where the four IDX files are")
    parser.add_argument("--out", type=Path, default=Path("target/accuracy"), metavar="DIR", help="checkpoints, results")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of training (default 1)")
    parser.add_argument("--bfloat16", action="store_true", help="train in bfloat16 where that is faster (AMX)")
    parser.add_argument("--smoke", action="store_true", help="a few images and channels: does it work?")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    given = {"epochs": args.epochs, "tuning": args.tuning}
    chosen = (SMOKE if args.smoke else {}) | {key: value for key, value in given.items() if value}
    settings = Settings(**chosen, narrow=args.bfloat16)
    out = args.out / "smoke" if args.smoke else args.out
    try:
        train_images = fashion.load(args.data, "train").first(settings.images)
        test_images = fashion.load(args.data, "t10k").first(settings.images)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    prepare(out, settings)
    stages, rows = Stages(), []
    for seed in args.seeds:
        rows += seed_rows(seed, out, settings, train_images, test_images, stages)
    time_rows(rows, out, test_images.x[:1].numpy())
    (out / "results.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
