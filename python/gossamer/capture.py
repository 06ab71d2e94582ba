"""`nn.Module` (or `ExportedProgram`) and an example to a `Program`.

The caller's module is never changed: what has to be (masks made permanent, sparse parameters made plain) is done on a
copy that shares its tensors.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.nn.modules import transformer
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils import _pytree as pytree

from . import quantized
from ._core import Error, UnsupportedOpError
from .program import Program, module_path, shape_of, size_of, source_line, submodule

# Kept whole: a kernel, or a lowering, sees more in them than in their parts. All else goes to torch's core ops.
# fmt: off
KEPT = frozenset({
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "linear", "matmul", "embedding",
    "relu6", "silu", "hardswish", "hardsigmoid", "hardtanh", "gelu", "elu", "selu", "celu", "leaky_relu", "mish",
    "softplus", "log_sigmoid", "hardshrink", "softshrink", "threshold", "clamp_min", "clamp_max", "softmax",
    "log_softmax", "prelu", "rms_norm", "layer_norm", "group_norm", "instance_norm", "batch_norm",
    "scaled_dot_product_attention", "std", "var", "var_mean",
    "bilinear", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d",
    "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "grid_sampler_2d", "im2col", "col2im",
    "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
})
# fmt: on


@functools.cache
def _table() -> dict[Any, Any]:
    table = torch.export.default_decompositions()
    for op in list(table):
        namespace, _, name = op.name().partition("::")
        if namespace == "aten" and name.partition(".")[0] in KEPT:
            table.pop(op)
    return dict(table)


def decompositions() -> dict[Any, Any]:
    """The one table of decompositions: torch's own, but for what is `KEPT`."""
    return dict(_table())  # torch takes entries out of the one it is given


def capture(model: nn.Module | ExportedProgram, example_inputs: Sequence[Any], dynamic_shapes: Any = None) -> Program:
    """Captures a model as a flat graph.

    Args:
        model: A module, taken in eval mode, or a program that torch.export made.
        example_inputs: What the model is called with, a tuple. Float32, on the CPU.
        dynamic_shapes: As torch.export takes it; by default axis 0 of every tensor is dynamic where the model allows.

    Returns:
        The program, not yet simplified.

    Raises:
        Error: The model cannot be exported, or an input is not what gossamer computes with.
        UnsupportedOpError: The model keeps state from one call to the next.
    """
    example = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    example = pytree.tree_map_only(Tensor, lambda t: t.detach(), example)
    for value in pytree.tree_leaves(example):
        if isinstance(value, Tensor) and value.device.type != "cpu":
            raise Error(f"an example input is on {value.device}: convert on the CPU, with module.cpu() and input.cpu()")
    with warnings.catch_warnings(), torch.no_grad(), _masks_as_given():
        # What torch deprecates inside its own export is not the caller's to act on.
        warnings.simplefilter("ignore")
        if isinstance(model, ExportedProgram):
            return _flatten(model, example)
        module, notes = _prepared(model)
        if not quantized.is_packed(module):
            return _capture(module, example, dynamic_shapes, notes)
        program = _capture(quantized.unpacked(module), example, dynamic_shapes, notes)
        program.expected = _answers(module, example, program)
        return program


def _capture(module: nn.Module, example: tuple, dynamic_shapes: Any, notes: list[str]) -> Program:
    """Captures a module that is prepared."""
    if dynamic_shapes is not None:
        exported = _export(module, example, dynamic_shapes)
        return _flatten(exported, example, _dim_names(exported, example, dynamic_shapes), notes)
    try:
        return _capture_any_batch(module, example, notes)
    except _Fixed as reason:
        exported = _export(module, example, None)
        notes = [*notes, f"every dimension is fixed to the example's, batch included: {_first_line(reason)}"]
        return _flatten(exported, example, notes=notes)


def _answers(module: nn.Module, example: tuple, program: Program) -> tuple[Tensor, ...]:
    """What torch's own integer kernels answer on a program's example."""
    tensors = iter(program.example)
    made = module(*pytree.tree_map_only(Tensor, lambda t: next(tensors), example))
    return tuple(t.dequantize() if t.is_quantized else t for t in pytree.tree_leaves(made) if isinstance(t, Tensor))


@contextmanager
def _masks_as_given() -> Iterator[None]:
    """Keeps torch's transformers from looking at the values of a mask, which no export can follow.

    They look whether it is the causal one, for which attention has a faster way; as a mask it computes the same.
    """
    detect = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: bool(is_causal)
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = detect


def _prepared(module: nn.Module) -> tuple[nn.Module, list[str]]:
    """The module in eval mode with plain weights: itself, or a copy that shares its tensors."""
    notes: list[str] = []
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        module = module.module
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    training = any(m.training for m in module.modules())
    if not (training or any(_hooked(m) for m in module.modules()) or any(_sparse(t) for t in _tensors(module))):
        return module, notes
    if any(m.training and isinstance(m, (_BatchNorm, _DropoutNd)) for m in module.modules()):
        notes.append("the module was in training mode; it is converted as it computes in eval mode")
    # Tensors are shared, not copied: a weight that a hook computed is no leaf, and no leaf can be deep-copied.
    module = copy.deepcopy(module, {id(t): t for t in _tensors(module)}).eval()
    for m in module.modules():
        for key, name, parts, compute in _hooked(m):
            m._forward_pre_hooks.pop(key)
            _make_permanent(m, name, compute(), parts)
        for names in (m._parameters, m._buffers):
            for name, value in list(names.items()):
                if value is not None and _sparse(value):
                    _make_permanent(m, name, value.to_dense())
        for name, value in list(vars(m).items()):
            if isinstance(value, Tensor) and _sparse(value):
                setattr(m, name, value.detach().to_dense())
    return module, notes


def _hooked(module: nn.Module) -> list[tuple[int, str, tuple[str, ...], Callable[[], Tensor]]]:
    """The pre-hooks of a module that compute one of its tensors: key, its name, its parts, and how."""
    found: list[tuple[int, str, tuple[str, ...], Callable[[], Tensor]]] = []
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, prune.BasePruningMethod):
            found.append((key, hook._tensor_name, ("_orig", "_mask"), functools.partial(hook.apply_mask, module)))
        elif isinstance(hook, WeightNorm):
            found.append((key, hook.name, ("_g", "_v"), functools.partial(hook.compute_weight, module)))
        elif isinstance(hook, SpectralNorm):
            weight = functools.partial(hook.compute_weight, module, do_power_iteration=False)
            found.append((key, hook.name, ("_orig", "_u", "_v"), weight))
    return found


def _make_permanent(module: nn.Module, name: str, value: Tensor, parts: tuple[str, ...] = ()) -> None:
    """Makes `name` a plain parameter of that value, in place of the parts it was computed from."""
    module.__dict__.pop(name, None)
    for suffix in ("", *parts):
        module._parameters.pop(name + suffix, None)
        module._buffers.pop(name + suffix, None)
    module.register_parameter(name, nn.Parameter(value.detach(), requires_grad=False))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    for m in module.modules():
        for names in (m._parameters, m._buffers, vars(m)):
            yield from (t for t in names.values() if isinstance(t, Tensor))


def _sparse(tensor: Tensor) -> bool:
    return tensor.layout not in (torch.strided, torch._mkldnn)  # type: ignore[attr-defined]


class _Fixed(Exception):
    """Why the batch of a model cannot be dynamic."""


def _export(module: nn.Module, example: tuple, dynamic_shapes: Any) -> ExportedProgram:
    try:
        return torch.export.export(module, example, dynamic_shapes=dynamic_shapes, strict=False)
    except UnsupportedOpError:
        raise
    except Exception as error:
        raise Error(f"torch.export could not capture the model: {error}") from error


def _capture_any_batch(module: nn.Module, example: tuple, notes: list[str]) -> Program:
    """Captures with axis 0 dynamic, for each input where the model allows it.

    Raises:
        _Fixed: It does so for none.
    """
    leaves, spec = pytree.tree_flatten(example)
    shaped = {i for i, t in enumerate(leaves) if isinstance(t, Tensor) and t.dim()}
    # torch.export takes a size of 1 for a constant, so a batch of one is shown twice. Where some inputs have a batch
    # and others have 1, the 1 is there to broadcast.
    moving = {i for i in shaped if leaves[i].shape[0] != 1} or set(shaped)
    while moving:
        wide = [torch.cat([t, t]) if i in moving and t.shape[0] == 1 else t for i, t in enumerate(leaves)]
        # One tensor given twice is two inputs.
        wide = pytree.tree_unflatten([t.view_as(t) if isinstance(t, Tensor) else t for t in wide], spec)
        axes = ShapesCollection()
        for i, tensor in enumerate(pytree.tree_leaves(wide)):
            if i in moving:
                axes[tensor] = {0: Dim.AUTO}
        try:
            shapes = axes.dynamic_shapes(module, wide)
            exported = torch.export.export(module, wide, dynamic_shapes=shapes, strict=False)
        except UnsupportedOpError:
            raise
        except Exception as error:
            raise _Fixed(_first_line(error)) from error
        inputs = _user_inputs(exported)
        stuck = {i for i in moving if not _dynamic(inputs[i])}
        if not stuck:
            fixed = [f"axis 0 of input {i} is fixed at {leaves[i].shape[0]}" for i in sorted(shaped - moving)]
            program = _flatten(exported, wide, notes=[*notes, *fixed])
            _check_one(program, module, wide, moving)
            return program
        moving -= stuck
    raise _Fixed("the model needs the example's sizes")


def _user_inputs(exported: ExportedProgram) -> list[Any]:
    """What the program knows of each flat input: a fake tensor, or the constant that it is."""
    values = {n.name: n.meta.get("val") for n in exported.graph.nodes if n.op == "placeholder"}
    specs = [s for s in exported.graph_signature.input_specs if s.kind == InputKind.USER_INPUT]
    return [values.get(getattr(s.arg, "name", None)) for s in specs]


def _check_one(program: Program, module: nn.Module, example: tuple, moving: set[int]) -> None:
    """Checks that a program holds for a batch of one, which torch.export never saw.

    Raises:
        _Fixed: It does not: a shape in the model then depends on whether the batch is 1.
    """
    leaves, spec = pytree.tree_flatten(example)
    single = [t[:1] if i in moving else t for i, t in enumerate(leaves)]
    try:
        want = [t for t in pytree.tree_leaves(module(*pytree.tree_unflatten(single, spec))) if t is not None]
    except Exception as error:
        raise _Fixed(f"the model refuses a batch of one: {_first_line(error)}") from error
    got = _AtOne(program.module).run(*(t for t in single if isinstance(t, Tensor)))
    for a, b in zip(got, want, strict=True):
        if a.shape != b.shape:
            raise _Fixed(f"for a batch of one the output's shape is {list(b.shape)}, not {list(a.shape)}")
        if not torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-4, equal_nan=True):
            raise _Fixed("for a batch of one the model computes something else")


class _AtOne(fx.Interpreter):
    """Runs a graph whose dynamic dimensions are all 1, and compares every shape with what the capture says of it."""

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = super().run_node(n)
        except Exception as error:
            raise _Fixed(f"captured for any batch, a batch of one fails at {n.name}: {_first_line(error)}") from error
        known = n.meta.get("val")
        if isinstance(value, Tensor) and isinstance(known, Tensor):
            sizes = shape_of(n)
            shape = [s if isinstance(s, int) else int(s.subs(dict.fromkeys(s.free_symbols, 1))) for s in sizes]
            if list(value.shape) != shape:
                raise _Fixed(f"for a batch of one, {n.name} has shape {list(value.shape)}, for any other {shape}")
        return value


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _dynamic(value: Any) -> bool:
    """Whether axis 0 of a fake tensor may change."""
    return isinstance(value, Tensor) and value.dim() > 0 and not isinstance(size_of(value.shape[0]), int)


def _dim_names(exported: ExportedProgram, example: tuple, dynamic_shapes: Any) -> dict[tuple[int, int], str]:
    """What the caller called the dimensions: (flat input, axis) -> name."""
    if isinstance(dynamic_shapes, dict):
        shapes = [
            dynamic_shapes.get(s.arg.name)
            for s in exported.graph_signature.input_specs
            if s.kind == InputKind.USER_INPUT
        ]
    else:
        shapes = list(dynamic_shapes)
    names = {}
    flat = [leaf for shape in shapes for leaf in pytree.tree_leaves(shape, is_leaf=_is_dims)]
    if len(flat) == len(pytree.tree_leaves(example)):
        for i, dims in enumerate(flat):
            for axis, dim in dims.items() if isinstance(dims, dict) else enumerate(dims or ()):
                name = getattr(dim, "__name__", None)
                if name and name.isidentifier():
                    names[i, axis] = name
    return names


def _is_dims(shape: Any) -> bool:
    """Whether a part of `dynamic_shapes` is about one tensor."""
    dims = list(shape.values()) if isinstance(shape, dict) and all(isinstance(k, int) for k in shape) else shape
    if isinstance(dims, (tuple, list)):
        return all(d is None or isinstance(d, int) or hasattr(d, "__name__") or not pytree.tree_leaves(d) for d in dims)
    return dims is None


def _flatten(
    exported: ExportedProgram,
    example: tuple,
    names: dict[tuple[int, int], str] | None = None,
    notes: list[str] | None = None,
) -> Program:
    """Decomposes a program; weights become attributes again, and its inputs and outputs tensors alone."""
    try:
        exported = exported.run_decompositions(decompositions())
    except Exception as error:
        raise Error(f"torch.export could not take the model apart: {_first_line(error)}") from error
    signature = exported.graph_signature
    specs = {spec.arg.name: spec for spec in signature.input_specs if hasattr(spec.arg, "name")}
    state = {**exported.state_dict, **exported.constants}
    graph, root = fx.Graph(), nn.Module()
    env: dict[fx.Node, fx.Node] = {}
    kept: list[tuple[int, fx.Node]] = []
    flat = pytree.tree_leaves(example)
    user = [s.arg.name for s in signature.input_specs if s.kind == InputKind.USER_INPUT and hasattr(s.arg, "name")]
    tail = None
    # Inputs first: where a tensor has the name of one, the input keeps it. In the code that fx writes an input is a
    # parameter, which a tensor of that name, read before it, would replace.
    for node in sorted(exported.graph.nodes, key=lambda node: node.name not in user):
        if node.op == "placeholder":
            spec = specs[node.name]
            if spec.kind == InputKind.USER_INPUT:
                if isinstance(spec.arg, TensorArgument):
                    env[node] = graph.node_copy(node)
                    kept.append((user.index(node.name), env[node]))
                elif node.users:
                    raise Error(f"input {node.name} is no tensor: pass tensors, or fix it in a wrapping module")
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                if node.users:
                    # The tensor itself, not a copy: layers that share one are recognised by its storage.
                    owner, _, name = spec.target.rpartition(".")
                    submodule(root, owner).register_buffer(name, state[spec.target].detach())
                    env[node] = graph.get_attr(spec.target)
                    env[node].meta.update(node.meta)
            elif node.users:
                raise Error(f"the model reads {spec.target!r}, which is no tensor: gossamer files hold tensors only")
        elif node.op == "output":
            tail = node
        elif node.op == "get_attr":
            setattr(root, node.target, getattr(exported.graph_module, node.target))
            env[node] = graph.node_copy(node)
        else:
            env[node] = graph.node_copy(node, lambda n: env[n])

    changed = [
        s for s in signature.output_specs if s.kind in (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION)
    ]
    if changed:
        what = ", ".join(f"`{s.target}`" for s in changed)
        raise UnsupportedOpError(f"the model changes {what} as it runs; a gossamer model keeps no state between calls")
    outputs = [s for s in signature.output_specs if s.kind == OutputKind.USER_OUTPUT]
    results, titles = [], []
    for spec, value, title in zip(outputs, tail.args[0][-len(outputs) :], _output_names(exported), strict=True):
        if isinstance(spec.arg, TensorArgument):
            results.append(env[value])
            titles.append(title)
        elif not (isinstance(spec.arg, ConstantArgument) and spec.arg.value is None):
            raise Error(f"output {title} is no tensor: return tensors only")
    graph.output(tuple(results))
    module = fx.GraphModule(root, graph, class_name="Program")
    tensors = tuple(flat[i] for i, _ in kept)
    try:
        expected = module(*tensors)
    except Exception as error:
        # torch checks as it runs what it took for granted of a shape that only the values tell.
        unknown = [n for n in graph.nodes if free_unbacked_symbols(n.meta.get("val"))]
        if not unknown:
            raise Error(f"the captured model does not run on the example: {_first_line(error)}") from error
        first = f"{module_path(unknown[0]) or '(the model itself)'}: {unknown[0].target}"
        raise UnsupportedOpError(
            f"{first}: the shape of its result depends on the values of the inputs: gossamer knows every shape before"
            f" it runs\n    {source_line(unknown[0])}"
        ) from error
    return Program(module, tensors, expected, titles, _symbols(kept, names or {}), notes or [])


def _output_names(exported: ExportedProgram) -> list[str]:
    """A name for each output: its key where the model returns a mapping, else its place."""
    spec = exported.call_spec.out_spec
    tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    paths, _ = pytree.tree_flatten_with_path(tree)
    if len(paths) == 1 and not any(isinstance(k, pytree.MappingKey) for k in paths[0][0]):
        return ["output"]
    names = []
    for path, _leaf in paths:
        parts = [str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", "")))) for k in path]
        label = "_".join(parts)
        names.append(label if label[:1].isalpha() else f"output_{label}")
    return names


def _symbols(kept: list[tuple[int, fx.Node]], names: dict[tuple[int, int], str]) -> dict[str, str]:
    """A name for each dynamic dimension: the caller's, `batch` for axis 0, else input and axis."""
    found: dict[str, str] = {}
    for flat, node in kept:
        for axis, size in enumerate(shape_of(node)):
            if isinstance(size, int) or str(size) in found or not size.is_symbol:
                continue
            name = names.get((flat, axis)) or ("batch" if axis == 0 else f"{node.name}_{axis}")
            found[str(size)] = f"{name}_{node.name}" if name in found.values() else name
    return found
