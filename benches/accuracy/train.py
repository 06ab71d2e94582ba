"""A VGG-style network, and training that goes on where it was killed."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fashion import CLASSES, Images
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 128


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train.

    Attributes:
        epochs: Passes over the images.
        rate: The highest learning rate, of a one-cycle schedule.
        warm: The share of the steps in which the rate rises.
        narrow: Whether matrix products of training are in bfloat16; weights and everything later are float32.
    """

    epochs: int
    rate: float
    warm: float
    narrow: bool


def vgg(widths: Sequence[int], hidden: int) -> nn.Sequential:
    """Images (n, 1, 28, 28) -> logits (n, 10): one, two and two convolutions with batch norm, pooled, two linears."""
    layers: list[nn.Module] = []
    cin = 1
    for stage, width in enumerate(widths):
        for _ in range(1 if stage == 0 else 2):
            layers += [nn.Conv2d(cin, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            cin = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(cin * 9, hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, CLASSES)]
    return nn.Sequential(*layers, *head)


def vary(x: Tensor) -> Tensor:
    """Half of a batch's images mirrored, all moved by up to two pixels."""
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x, x.flip(3))
    down, right = torch.randint(0, 5, (2,)).tolist()
    return F.pad(x, (2, 2, 2, 2), value=float(x.min()))[:, :, down : down + x.shape[2], right : right + x.shape[3]]


def keep(content: Any, path: Path) -> None:
    """Saves in one step, so that a kill leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    torch.save(content, temporary)
    os.replace(temporary, path)


def train(
    net: nn.Module, images: Images, recipe: Recipe, seed: int, path: Path, step: Callable[[int, float], None]
) -> None:
    """Trains a network in place; what is random depends on the seed and the epoch alone.

    Args:
        net: Left in eval mode.
        images: What to learn.
        recipe: How.
        seed: Of the order of images and their variations.
        path: The checkpoint, written after each epoch. One that is there is continued; one that is finished is loaded.
        step: Called after each step with the number of steps done, earlier runs' too, and the loss.
    """
    net.to(memory_format=torch.channels_last)
    steps = len(images) // BATCH
    optimizer = torch.optim.SGD(net.parameters(), recipe.rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=recipe.epochs * steps, pct_start=recipe.warm
    )
    done = 0
    if path.is_file():
        kept = torch.load(path, weights_only=True)
        done = kept["epochs"]
        net.load_state_dict(kept["net"])
        optimizer.load_state_dict(kept["optimizer"])
        schedule.load_state_dict(kept["schedule"])
    net.train()
    for epoch in range(done, recipe.epochs):
        torch.manual_seed(seed * 1000 + epoch)
        order = torch.randperm(len(images))[: steps * BATCH]
        for i, index in enumerate(order.split(BATCH), epoch * steps + 1):
            x = vary(images.x[index]).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.narrow):
                loss = F.cross_entropy(net(x).float(), images.y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step(i, loss.item())
        states = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        keep({"epochs": epoch + 1, **states}, path)
    net.to(memory_format=torch.contiguous_format).eval()
