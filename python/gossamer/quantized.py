"""Modules that `torch.ao` quantized (eager and FX), made such that torch.export can follow them.

Such a module computes on quantized tensors with packed weights, and an exported program can hold neither. Run under
`unpacked`, it computes the same on `Quantized` values instead: torch hands every function of one to us, and what the
graph then says is what PT2E writes, float operators between dequantizing and quantizing, of which passes make integer
operators.
"""

from __future__ import annotations

import copy
import functools
import importlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ._core import UnsupportedOpError

# The least and the largest step of torch's types, and the type that holds them.
_STEPS = {torch.quint8: (0, 255, torch.uint8), torch.qint8: (-128, 127, torch.int8)}

# Functions of torch whose result on quantized tensors is quantized like the first of them.
# fmt: off
_LIKE = frozenset({
    "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clip", "threshold",
    "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean",
    "interpolate", "upsample", "upsample_nearest", "upsample_bilinear", "pad",
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "t", "squeeze", "unsqueeze",
    "expand", "expand_as", "view_as", "repeat", "contiguous", "clone", "detach", "dropout", "dropout_", "dropout2d",
    "cat", "concat", "concatenate", "stack", "chunk", "split", "split_with_sizes", "unbind", "narrow", "select",
    "index_select", "flip", "roll", "__getitem__", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "movedim",
})
# Those that take means, of whatever is around.
_AVERAGES = frozenset({
    "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean", "interpolate", "upsample",
    "upsample_bilinear",
})
# fmt: on

# Functions of torch whose result has a scale and a zero point of its own, of quint8.
_FIXED = {
    "sigmoid": (1 / 256, 0),
    "hardsigmoid": (1 / 256, 0),
    "tanh": (2 / 256, 128),
    "softmax": (1 / 256, 0),
}

# The smallest scale that fbgemm chooses (SMALL_SCALE_THRESHOLD).
_LEAST_SCALE = 6.1e-5

# What a quantized tensor tells of itself.
_FACTS = frozenset({"shape", "ndim", "device", "size", "dim", "numel", "nelement", "__len__"})


class Quantized:
    """A quantized tensor of torch as what it holds.

    Args:
        steps: uint8 or int8.
        scale: What a step is worth.
        zero_point: The step that stands for zero.
        dtype: torch's type of it.
    """

    def __init__(self, steps: Tensor, scale: float, zero_point: int, dtype: torch.dtype) -> None:
        self.steps, self.scale, self.zero_point, self.dtype = steps, scale, zero_point, dtype

    @classmethod
    def of(cls, real: Tensor, scale: float, zero_point: int, dtype: torch.dtype = torch.quint8) -> Quantized:
        """Quantizes float32."""
        if dtype not in _STEPS:
            raise UnsupportedOpError(f"the model quantizes activations to {dtype}: gossamer has those of 8 bits")
        grid = (float(scale), int(zero_point))
        return cls(torch.ops.quantized_decomposed.quantize_per_tensor(real, *grid, *_STEPS[dtype]), *grid, dtype)

    def like(self, real: Tensor) -> Quantized:
        """Quantizes float32 as this is."""
        return Quantized.of(real, self.scale, self.zero_point, self.dtype)

    def holding(self, steps: Tensor) -> Quantized:
        """Other steps that stand for what these do."""
        return Quantized(steps, self.scale, self.zero_point, self.dtype)

    def become(self, other: Quantized) -> Quantized:
        """What this holds from now on, as after a function of torch that works in place."""
        self.steps = other.steps
        return self

    @property
    def real(self) -> Tensor:
        """What the steps stand for."""
        grid = (self.scale, self.zero_point, *_STEPS[self.dtype])
        value: Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor(self.steps, *grid)
        return value

    def __getattr__(self, name: str) -> Any:
        if name == "is_quantized":
            return True
        if name in _FACTS:
            return getattr(self.steps, name)
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(name)
        return lambda *args, **kwargs: _call(name, (self, *args), kwargs)

    def __getitem__(self, index: Any) -> Any:
        return _call("__getitem__", (self, index), {})

    def __len__(self) -> int:
        return len(self.steps)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch calls instead of one of its functions."""
        if _is_quantized_op(function):
            return _op(function, args, kwargs or {})
        return _call(function.__name__, args, kwargs or {}, function)


def _call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], function: Any = None) -> Any:
    """A function of torch, of that name, where an argument is quantized."""
    if name == "dequantize":
        return args[0].real
    if name == "q_scale":
        return args[0].scale
    if name == "q_zero_point":
        return args[0].zero_point
    if name not in _LIKE and name not in _FIXED:
        raise UnsupportedOpError(
            f"{name}: gossamer does not know what it computes of a quantized tensor; call dequantize() before it"
        )
    in_place = bool(kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__"))
    kwargs = {key: False if key == "inplace" else value for key, value in kwargs.items()}
    first = next(leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Quantized))
    like = first
    if name in _AVERAGES:
        # A mean of steps is often halfway between two. torch rounds it, zero point and all, to the even one; in units
        # of a step, and from the first on, floats are exact and do so too.
        padded = name.startswith("avg_pool") and _pads(*args[1:], **kwargs)
        like = Quantized(first.steps, 1.0, first.zero_point if padded else 0, first.dtype)
    reals = pytree.tree_map_only(Quantized, lambda q: like.real if q is first else q.real, args)
    if in_place and name.endswith("_"):
        function = getattr(torch, name[:-1], None) or getattr(F, name[:-1])
    made = (function or getattr(Tensor, name))(*reals, **kwargs)
    if name in _FIXED:
        return Quantized.of(made, *_FIXED[name])
    made = pytree.tree_map_only(Tensor, lambda t: first.holding(like.like(t).steps), made)
    return first.become(made) if in_place else made


def _pads(kernel: Any, stride: Any = None, padding: Any = 0, *rest: Any, **kwargs: Any) -> bool:
    """Whether a pooling by those arguments averages zeros around its input too."""
    return bool(any(padding) if isinstance(padding, (tuple, list)) else padding)


# -- torch.ops.quantized ----------------------------------------------------------------------------------------------


class Packed(nn.Module):
    """The weight that torch packed for one of its engines, unpacked.

    Args:
        weight: qint8, with one scale or one for each output.
        bias: float32, or None.
        geometry: Of a convolution: stride, padding, dilation, groups.
    """

    weight: Tensor
    scale: Tensor
    shift: Tensor | None
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, geometry: tuple[Any, ...]) -> None:
        super().__init__()
        per_channel = weight.qscheme() in (torch.per_channel_affine, torch.per_channel_affine_float_qparams)
        rows = (-1,) + (1,) * (weight.dim() - 1)
        scale = weight.q_per_channel_scales() if per_channel else torch.full((len(weight),), weight.q_scale())
        shift = weight.q_per_channel_zero_points() if per_channel else torch.tensor([weight.q_zero_point()])
        self.register_buffer("weight", weight.int_repr())
        self.register_buffer("scale", scale.to(torch.float32).reshape(rows))
        self.register_buffer("shift", shift.to(torch.float32).reshape(rows) if bool(shift.any()) else None)
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.geometry = geometry

    @property
    def real(self) -> Tensor:
        """The weight in float32."""
        value = self.weight.to(torch.float32)
        return (value if self.shift is None else value - self.shift) * self.scale


def _linear(x: Tensor, packed: Packed) -> Tensor:
    return F.linear(x, packed.real, packed.bias)


def _convolution(function: Callable[..., Tensor]) -> Callable[[Tensor, Packed], Tensor]:
    rank = 1 if function is F.conv1d else 2

    def convolve(x: Tensor, packed: Packed) -> Tensor:
        stride, padding, dilation, groups = packed.geometry
        weight = packed.real
        if rank == 1 and weight.dim() == 4:
            # torch packs it as a plane of one row.
            weight = weight.squeeze(2)
        return function(x, weight, packed.bias, stride[-rank:], padding[-rank:], dilation[-rank:], groups)

    return convolve


def _dynamic_linear(x: Tensor, packed: Packed, reduce_range: bool = False) -> Tensor:
    """A linear layer whose input is quantized by the range that it has."""
    # The x86 engines take seven bits when told to; qnnpack does not listen.
    levels = 127 if reduce_range and torch.backends.quantized.engine != "qnnpack" else 255
    limits = (0, levels, torch.uint8)
    grid = torch.ops.quantized_decomposed.choose_qparams.tensor(x, *limits[:2], _LEAST_SCALE, torch.uint8)
    q = torch.ops.quantized_decomposed.quantize_per_tensor.tensor(x, *grid, *limits)
    return _linear(torch.ops.quantized_decomposed.dequantize_per_tensor.tensor(q, *grid, *limits), packed)


def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    return F.batch_norm(x, mean, var, weight, bias, eps=eps)


# What each computes in float32, before its result is quantized by the scale and zero point that come last.
_OPS: dict[str, Callable[..., Tensor]] = {
    "linear": _linear,
    "conv1d": _convolution(F.conv1d),
    "conv2d": _convolution(F.conv2d),
    "add": torch.add,
    "mul": torch.mul,
    "cat": torch.cat,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "softmax": torch.softmax,
    "prelu": F.prelu,
    "leaky_relu": lambda x, slope, inplace: F.leaky_relu(x, slope),
    "layer_norm": F.layer_norm,
    "group_norm": F.group_norm,
    "instance_norm": lambda x, weight, bias, eps: F.instance_norm(x, None, None, weight, bias, eps=eps),
    "batch_norm1d": _batch_norm,
    "batch_norm2d": _batch_norm,
}
for _name in ("linear", "conv1d", "conv2d", "add", "mul", "cat", "batch_norm2d"):
    _OPS[f"{_name}_relu"] = lambda *args, compute=_OPS[_name]: torch.relu(compute(*args))


def _is_quantized_op(function: Any) -> bool:
    """Whether a function is one of `torch.ops.quantized`."""
    return isinstance(function, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)) and _qualified(
        function
    ).startswith("quantized::")


def _qualified(function: Any) -> str:
    name = function.name() if isinstance(function, torch._ops.OpOverload) else function._qualified_op_name
    return str(name)


def _op(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One of `torch.ops.quantized`."""
    name = _qualified(function).removeprefix("quantized::").partition(".")[0]
    named = dict(kwargs)
    last = [named.pop(key) for key in ("scale", "output_scale", "zero_point", "output_zero_point") if key in named]
    given = [*args, *named.values(), *last]
    reals = pytree.tree_map_only(Quantized, lambda q: q.real, given)
    if name == "relu6":
        made = args[0].like(F.relu6(reals[0]))
        return args[0].become(made) if len(given) > 1 and given[1] else made
    if name == "elu":
        x, scale, zero_point, alpha = [*reals, 1.0][:4]
        return Quantized.of(F.elu(x, alpha), scale, zero_point)
    if name in ("linear_dynamic", "linear_relu_dynamic"):
        y = _dynamic_linear(*given)
        return torch.relu(y) if "relu" in name else y
    if name not in _OPS:
        raise UnsupportedOpError(
            f"torch.ops.quantized.{name}: gossamer has no such operation on quantized tensors; leave its module in"
            " float32 (qconfig = None) and quantize again"
        )
    *operands, scale, zero_point = reals
    return Quantized.of(_OPS[name](*operands), scale, zero_point)


class _Mode(TorchFunctionMode):
    """Hands us what makes quantized tensors of plain ones."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch calls instead of one of its functions."""
        kwargs = kwargs or {}
        if function is torch.quantize_per_tensor:
            return Quantized.of(*args, **kwargs)
        if _is_quantized_op(function):
            return _op(function, args, kwargs)
        return function(*args, **kwargs)


# -- making a module so -----------------------------------------------------------------------------------------------


def is_packed(module: nn.Module) -> bool:
    """Whether a module computes on quantized tensors."""
    return any(_is_quantized_module(m) or any(_packed_attributes(m)) for m in module.modules())


def _is_quantized_module(module: nn.Module) -> bool:
    return type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized"))


def _packed_attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if isinstance(value, torch.ScriptObject) and "PackedParams" in str(value._type()):
            yield name, value


def unpacked(module: nn.Module) -> nn.Module:
    """A copy that computes on `Quantized` values, and shares the module's other tensors.

    Raises:
        UnsupportedOpError: A packed weight is of a kind that gossamer does not know.
    """
    # Defines torch.ops.quantized_decomposed, and is slow to load.
    importlib.import_module("torch.ao.quantization.fx._decomposed")
    kept = [v for m in module.modules() for v in _shared(m)]
    module = copy.deepcopy(module, {id(v): v for v in kept})
    quantized = [m for m in module.modules() if _is_quantized_module(m) or isinstance(m, fx.GraphModule)]
    for path, m in list(module.named_modules()):
        for name, value in list(_packed_attributes(m)):
            setattr(m, name, _unpack(value, path.removesuffix("._packed_params")))
    for m in quantized:
        # Scales and zero points are numbers of the graph, not inputs of it.
        for name, value in list(m._buffers.items()):
            if value is not None and value.numel() == 1 and ("scale" in name or "zero_point" in name):
                del m._buffers[name]
                setattr(m, name, value.item())
    return _Unpacked(module).eval()


class _Unpacked(nn.Module):
    """A module, run under `_Mode`. No `fx.GraphModule`, of which torch.export would run the nodes without us."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for names in ("_parameters", "_buffers", "_modules"):
            self.__dict__[names] = getattr(module, names)

        @functools.wraps(module.forward)
        def forward(*args: Any, **kwargs: Any) -> Any:
            try:
                with _Mode():
                    made = module.forward(*args, **kwargs)
            except UnsupportedOpError as error:
                raise UnsupportedOpError(f"{_where(module, error)}: {error}") from None
            # What torch answers quantized, a file answers in numbers.
            return pytree.tree_map_only(Quantized, lambda q: q.real, made)

        self.forward = forward


def _where(module: nn.Module, error: Exception) -> str:
    """The path of the submodule in whose forward something was raised."""
    names = {id(m): name for name, m in module.named_modules()}
    found = ""
    frames = traceback.walk_tb(error.__traceback__)
    for frame, _ in frames:
        found = names.get(id(frame.f_locals.get("self")), found)
    return found or "(the model itself)"


def _shared(module: nn.Module) -> Iterator[Any]:
    """What a copy of a module shares with it."""
    for names in (module._parameters, module._buffers, vars(module)):
        yield from (v for v in names.values() if isinstance(v, (Tensor, torch.ScriptObject)))


def _unpack(packed: Any, path: str) -> Packed:
    kind = str(packed._type()).rpartition(".")[2]
    if kind not in ("LinearPackedParamsBase", "Conv2dPackedParamsBase") or (kind[0] == "C" and packed.transpose()):
        raise UnsupportedOpError(
            f"{path or '(the model itself)'}: {kind}: of torch's packed weights gossamer knows those of linear layers"
            " and of convolutions in one or two dimensions; leave that module in float32 (qconfig = None) and quantize"
            " again"
        )
    weight, bias = packed.unpack()
    geometry = () if kind[0] == "L" else (packed.stride(), packed.padding(), packed.dilation(), packed.groups())
    return Packed(weight, bias, geometry)
