"""Planes of another size, and planes sampled anywhere."""

from __future__ import annotations

from typing import Any

import torch

from ..program import shape_of
from . import Lowering, Token, Unsupported, lowers

_SIDES = ("1d", "2d")


@lowers(*(f"aten.{name}{n}.vec" for name in ("upsample_nearest", "_upsample_nearest_exact") for n in _SIDES))
def nearest_by(at: Lowering, x, output_size, scales) -> Token:
    return _nearest(at, x, scales)


@lowers(*(f"aten.{name}{n}.default" for name in ("upsample_nearest", "_upsample_nearest_exact") for n in _SIDES))
def nearest(at: Lowering, x, output_size, *scales: Any) -> Token:
    return _nearest(at, x, _given(scales))


def _nearest(at: Lowering, x, scales) -> Token:
    if x.meta["val"].dtype != torch.float32:
        return _repeated(at, x)
    kind = "nearest_exact" if "exact" in at.function() else "nearest"
    return resized(at, x, kind, False, scales)


@lowers("aten.upsample_linear1d.vec", "aten.upsample_bilinear2d.vec", "aten.upsample_bicubic2d.vec")
def between_by(at: Lowering, x, output_size, align_corners, scales) -> Token:
    return _between(at, x, align_corners, scales)


@lowers("aten.upsample_linear1d.default", "aten.upsample_bilinear2d.default", "aten.upsample_bicubic2d.default")
def between(at: Lowering, x, output_size, align_corners, *scales: Any) -> Token:
    return _between(at, x, align_corners, _given(scales))


def _between(at: Lowering, x, align_corners: bool, scales) -> Token:
    return resized(at, x, "cubic" if "cubic" in at.function() else "linear", align_corners, scales)


def _given(scales: tuple[Any, ...]) -> list[float] | None:
    known = [s for s in scales if s is not None]
    return known if len(known) == len(scales) else None


def resized(at: Lowering, x, kind: str, align_corners: bool, scales, dtype=torch.float32) -> Token:
    """Planes of the node's sizes, computed in `dtype`."""
    if scales is not None and not all(isinstance(s, (int, float)) for s in scales):
        raise Unsupported("a scale that is computed")
    attrs: dict[str, Any] = {"kind": kind, "output_size": at.sizes()[2:], "align_corners": align_corners}
    if scales is not None:
        attrs["scales"] = [float(s) for s in scales]
    return at.add("resize", [at.value(x, dtype)], **attrs)


def _repeated(at: Lowering, x) -> Token:
    """Elements of any type, each repeated a whole number of times."""
    before, after = at.sizes(x), at.sizes()
    small, large = ([s for s in sizes[2:] if isinstance(s, int)] for sizes in (before, after))
    whole = len(small) + 2 == len(before) and len(large) == len(small)
    if not whole or any(b % a for a, b in zip(small, large, strict=True)):
        raise Unsupported("resizing integers, not by a whole factor")
    factors = [b // a for a, b in zip(small, large, strict=True)]
    apart = [s for size in small for s in (size, 1)]
    wide = [s for size, factor in zip(small, factors, strict=True) for s in (size, factor)]
    y = at.add("reshape", [at.value(x)], shape=[*before[:2], *apart])
    y = at.add("expand", [y], shape=[*before[:2], *wide])
    return at.add("reshape", [y], shape=after)


@lowers("aten.grid_sampler_2d.default", "aten.grid_sampler.default")
def grid_sampler(at: Lowering, x, grid, interpolation, padding, align_corners) -> Token:
    if len(shape_of(x)) != 4:
        raise Unsupported("sampling volumes")
    return at.add(
        "grid_sample",
        [at.value(x), at.value(grid)],
        kind=("bilinear", "nearest", "bicubic")[interpolation],
        outside=("zeros", "border", "reflection")[padding],
        align_corners=align_corners,
    )
