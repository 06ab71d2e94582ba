"""Makes modules small: `nn.Module` in, `nn.Module` out, to be judged in torch before anything is converted.

Steps compose: prune, then quantize; factorize, then quantize.
"""

from .factorize import factorize
from .prune import prune
from .quantize import quantize

__all__ = ["factorize", "prune", "quantize"]
