"""torch's own samples of its operators: each is computed as torch does, or refused by name."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import Call, judge, spread
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_utils import set_rng_seed
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils import _pytree as pytree

# What models for a board are made of. The operators of a line are converted together.
LINES = """
nn.functional.conv1d nn.functional.conv2d nn.functional.conv_transpose1d nn.functional.conv_transpose2d
nn.functional.linear nn.functional.bilinear nn.functional.unfold nn.functional.multi_head_attention_forward
matmul bmm mm mv dot inner outer addmm addmv addbmm addr baddbmm tensordot __rmatmul__ linalg.multi_dot kron einsum
nn.functional.scaled_dot_product_attention
nn.functional.embedding
nn.functional.layer_norm nn.functional.group_norm nn.functional.instance_norm nn.functional.rms_norm
nn.functional.local_response_norm nn.functional.normalize nn.functional.batch_norm
nn.functional.relu nn.functional.relu6 nn.functional.silu sigmoid tanh nn.functional.hardswish nn.functional.gelu
nn.functional.hardsigmoid nn.functional.hardtanh nn.functional.elu nn.functional.selu nn.functional.celu
nn.functional.leaky_relu nn.functional.mish nn.functional.softplus nn.functional.softsign nn.functional.logsigmoid
nn.functional.hardshrink nn.functional.softshrink nn.functional.tanhshrink nn.functional.threshold
nn.functional.prelu nn.functional.glu nn.functional.softmin softmax log_softmax logsumexp
nn.functional.rrelu nn.functional.dropout nn.functional.dropout2d nn.functional.alpha_dropout
nn.functional.max_pool1d nn.functional.max_pool2d nn.functional.avg_pool1d nn.functional.avg_pool2d
nn.functional.adaptive_avg_pool1d nn.functional.adaptive_avg_pool2d
nn.functional.adaptive_max_pool1d nn.functional.adaptive_max_pool2d
add sub rsub mul div true_divide floor_divide remainder fmod pow __rpow__ maximum minimum fmax fmin
atan2 hypot copysign addcmul addcdiv lerp heaviside logaddexp ldexp xlogy
eq ne lt le gt ge isclose isnan isinf isfinite isposinf isneginf signbit
logical_and logical_or logical_xor logical_not where clamp clamp_min clamp_max masked_fill nan_to_num
abs neg positive exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square reciprocal sign sgn ceil floor round trunc frac
sin cos tan asin acos atan sinh cosh asinh acosh atanh erf erfc logit sinc deg2rad rad2deg
nn.functional.cosine_similarity nn.functional.pairwise_distance
sum mean amax amin aminmax max min prod any all count_nonzero nansum nanmean argmax argmin
var std var_mean std_mean linalg.vector_norm norm
cumsum cumprod diff sort msort argsort topk
gather index_select take_along_dim scatter scatter_add scatter_reduce index_add index_copy index_fill
take
index_put
__getitem__
view view_as reshape reshape_as permute transpose t T mT movedim expand expand_as broadcast_to squeeze unsqueeze
flatten unflatten ravel cat hstack vstack dstack column_stack stack split split_with_sizes hsplit chunk unbind
slice select roll repeat tile flip fliplr flipud rot90 tril triu diagonal diag diag_embed trace unfold contiguous clone
meshgrid select_scatter slice_scatter block_diag float long int bool
full full_like zeros_like ones_like new_zeros new_full arange linspace
tensor_split
narrow
repeat_interleave
nn.functional.pad constant_pad_nd nn.functional.interpolate nn.functional.upsample_nearest
nn.functional.upsample_bilinear nn.functional.pixel_shuffle nn.functional.pixel_unshuffle
nn.functional.channel_shuffle nn.functional.grid_sample grid_sampler_2d
"""
GROUPS = {name: line.split() for line in LINES.splitlines() for name in line.split()}

# Operators whose tensors after the first are a model's weights as a rule; here they are computed, too.
LAYERS = (
    *("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear", "bilinear", "multi_head_attention_forward"),
    *("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"),
)

# Samples of each variant: some operators have hundreds. All are taken where GOSSAMER_SAMPLES=all.
MOST = 8

# Why a sample may be refused. Whatever is refused for another reason is missing.
REASONS = (
    "gossamer does not compute in float64",
    "as it runs; a gossamer model keeps no state between calls",
    "it draws random numbers",
    "attention with dropout",
    "depends on the values",
    "torch.export could not",  # go from a value to a shape, nor update statistics that are constant
)


def calls(name: str) -> list[Call]:
    """Samples of an operator and its variants in float32, but for those on volumes."""
    found: dict[str, Call] = {}
    for info in (info for info in op_db if info.name == name and torch.float32 in info.dtypes):
        samples = _samples(info)
        planes = [s for s in samples if not (isinstance(s.input, Tensor) and s.input.dim() == 5 and _resizes(name))]
        if info.variant_test_name in ("trilinear", "nuc"):
            continue  # of volumes; of singular values
        for i, sample in enumerate(spread(planes, MOST)):
            call = Call(f"{name} {info.variant_test_name} {i}", info.op, (sample.input, *sample.args), sample.kwargs)
            found[_described(call)] = call
            if name.removeprefix("nn.functional.") in LAYERS:
                weights = Call(f"{call.name} weights", call.function, call.args, call.kwargs, weights=True)
                found[_described(weights)] = weights
    assert found, f"torch has no samples of {name}"
    return list(found.values())


def _samples(info: OpInfo) -> list[SampleInput]:
    """What `info.sample_inputs` gives, which before each looks through the whole stack for a test of torch's own."""
    samples, found = iter(info.sample_inputs_func(info, "cpu", torch.float32, requires_grad=False)), []
    while True:
        set_rng_seed()
        sample = next(samples, None)
        if sample is None:
            return found
        found.append(sample)


def _resizes(name: str) -> bool:
    return "interpolate" in name or "grid_sample" in name


def _described(call: Call) -> str:
    def brief(value: Any) -> Any:
        return f"{str(value.dtype)[6:]}{list(value.shape)}" if isinstance(value, Tensor) else value

    args, kwargs = pytree.tree_map(brief, (call.args, call.kwargs))
    return f"{call.name}: {', '.join([*map(str, args), *(f'{k}={v}' for k, v in kwargs.items())])}"


def _is_outside(call: Call) -> bool:
    """Whether a sample is certain to be refused: it trains, or computes in float64."""
    random = call.kwargs.get("training") or call.kwargs.get("dropout_p") or call.kwargs.get("max_norm")
    values = pytree.tree_leaves((call.args, call.kwargs))
    wide = torch.float64 in values or any(isinstance(v, Tensor) and v.dtype == torch.float64 for v in values)
    return bool(random or wide)


@functools.cache
def judged(line: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """What became of each sample of some operators: by operator, then by sample."""
    with tempfile.TemporaryDirectory(prefix="gossamer-operators-") as folder:
        verdicts: dict[str, dict[str, str]] = {name: {} for name in line}
        inside, owners = [], []
        for name in line:
            samples = calls(name)
            for call in spread([call for call in samples if _is_outside(call)], 1):
                (verdicts[name][_described(call)],) = judge([call], Path(folder))
            inside += [call for call in samples if not _is_outside(call)]
            owners += [name] * (len(inside) - len(owners))
        for name, call, verdict in zip(owners, inside, judge(inside, Path(folder)), strict=True):
            verdicts[name][_described(call)] = verdict
        return verdicts


@pytest.mark.parametrize("name", GROUPS)
def test_an_operator_matches_or_is_refused(name):
    problems = {call: problem for call, problem in judged(tuple(GROUPS[name]))[name].items() if problem}
    for call, problem in problems.items():
        print(f"{call}\n  {problem}")
    missing = [call for call, why in problems.items() if not any(reason in why for reason in REASONS)]
    assert not missing, "\n".join(f"{call}\n  {problems[call]}" for call in missing)


def test_few_samples_are_refused():
    every = [problem for name in GROUPS for problem in judged(tuple(GROUPS[name]))[name].values()]
    refused = sum(map(bool, every))
    print(f"\n{len(every) - refused} of {len(every)} samples of {len(GROUPS)} operators match")
    assert refused <= 0.05 * len(every)
