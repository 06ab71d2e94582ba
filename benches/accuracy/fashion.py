"""Fashion-MNIST from the files it is distributed in: 60,000 + 10,000 grey images of 28 x 28 in ten classes."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# Where Debian's package `dataset-fashion-mnist` puts it.
FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = 10
# Of the training images' pixels, 0..1.
MEAN, DEVIATION = 0.2860, 0.3530


@dataclass(frozen=True)
class Images:
    """Images (n, 1, 28, 28), float32 of mean 0 and deviation 1, and their classes (n,), int64."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def first(self, count: int | None) -> "Images":
        """The first images, or all."""
        return Images(self.x[:count], self.y[:count])


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes from a gzipped IDX file.

    The format: two zero bytes, a byte for the type (8: unsigned bytes), a byte for the number of dimensions, each
    dimension in four bytes big-endian, the data.

    Raises:
        ValueError: It is another format, or its length is not what its dimensions say.
    """
    with gzip.open(path) as file:
        content = file.read()
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{path}: not an IDX file of unsigned bytes")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], ">u4").astype(np.int64)
    if len(content) - start != shape.prod():
        raise ValueError(f"{path}: {len(content) - start} bytes of data, expected {' x '.join(map(str, shape))}")
    return np.frombuffer(content[start:], np.uint8).reshape(shape)


def load(folder: Path, part: str) -> Images:
    """One part of the data, `train` or `t10k`.

    Raises:
        FileNotFoundError: The files are not in that folder.
        ValueError: They are not what they should be.
    """
    names = [folder / f"{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    for name in names:
        if not name.is_file():
            raise FileNotFoundError(f"{name} is not there: apt-get install dataset-fashion-mnist, or give --data DIR")
    images, labels = map(read_idx, names)
    if images.shape != (len(labels), 28, 28) or labels.max(initial=0) >= CLASSES:
        raise ValueError(f"{folder}: {part} has images of {images.shape} and labels of {labels.shape}")
    x = (torch.from_numpy(images.astype(np.float32)) / 255 - MEAN) / DEVIATION
    return Images(x[:, None], torch.from_numpy(labels.astype(np.int64)))
