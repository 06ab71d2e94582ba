"""Fits the polynomials of mod.rs and prints them as Rust constants: `python fit.py` (needs numpy and mpmath).

Each is a minimax fit: Lawson's reweighted least squares in 40 digits on Chebyshev nodes, then the coefficients are
rounded to float32 one by one, lowest power first, the others fitted anew each time so that they absorb the rounding.
"""

import mpmath
import numpy

mpmath.mp.dps = 40


def fit(target, weight, low, high, powers, nodes=400, sweeps=60):
    """Minimax float32 coefficients `c` of `target(x) ~ sum(c[i] * x**powers[i])`, error weighted by `weight(x)`."""
    mid, half = (low + high) / 2, (high - low) / 2
    x = [mid + half * mpmath.cos(mpmath.pi * (i + 0.5) / nodes) for i in range(nodes)]
    x = [v for v in x if abs(v) > 1e-6]
    y = numpy.array([target(v) for v in x])
    w = numpy.array([weight(v) for v in x])
    basis = numpy.array([[v**p for p in powers] for v in x])
    fixed = []
    while len(fixed) < len(powers):
        rest = y - sum((c * basis[:, i] for i, c in enumerate(fixed)), numpy.zeros(len(x)))
        open_basis = basis[:, len(fixed) :]
        lawson = numpy.array([mpmath.mpf(1)] * len(x))
        for _ in range(sweeps):
            root = numpy.array([mpmath.sqrt(v) for v in lawson]) * w
            a = mpmath.matrix((open_basis * root[:, None]).tolist())
            b = mpmath.matrix((rest * root).tolist())
            coefficients = mpmath.lu_solve(a.T * a, a.T * b)
            error = abs((open_basis @ numpy.array(list(coefficients)) - rest) * w)
            lawson = lawson * error
            lawson = lawson / sum(lawson)
            if max(error) < 1.02 * sum(lawson * error):
                break
        fixed.append(mpmath.mpf(float(numpy.float32(coefficients[0]))))
    error = abs((basis @ numpy.array(fixed) - y) * w)
    return [float(c) for c in fixed], float(max(error))


def show(name, coefficients, error):
    """Prints a Rust constant, highest power first, as Horner's scheme takes it, and the worst error in 2^-24."""
    digits = ", ".join(repr(float(numpy.float32(c))) for c in reversed(coefficients))
    shortest = ", ".join(str(numpy.float32(c)) for c in reversed(coefficients))
    assert [numpy.float32(c) for c in digits.split(", ")] == [numpy.float32(c) for c in shortest.split(", ")]
    print(f"const {name}: [f32; {len(coefficients)}] = [{shortest}];  // error {error * 2**24:.3f} ulp")


def main():
    """Prints every table."""
    bound = mpmath.log(2) / 2 * mpmath.mpf("1.0001")
    # e^r = 1 + (r + r^2 P(r)), the error relative to e^r - 1, so that it serves expm1 too.
    show("EXP", *fit(lambda r: mpmath.expm1(r) - r, lambda r: 1 / abs(mpmath.expm1(r)), -bound, bound, range(2, 7)))
    # log(1+f) = f - f^2/2 + f^3 P(f), relative to log(1+f).
    low, high = mpmath.sqrt(mpmath.mpf(1) / 2) - 1, mpmath.sqrt(2) - 1
    show(
        "LOG",
        *fit(lambda f: mpmath.log1p(f) - f + f * f / 2, lambda f: 1 / abs(mpmath.log1p(f)), low, high, range(3, 12)),
    )
    # erf(x) = x + x P(x^2) where |x| < EDGE, relative to erf(x).
    edge = mpmath.mpf("0.921875")
    even = range(1, 12, 2)
    show("ERF_NEAR", *fit(lambda x: mpmath.erf(x) - x, lambda x: 1 / mpmath.erf(x), mpmath.mpf(0), edge, even))
    # erf(x) = 1 - e^-(x + x Q(x)) up to 4, beyond which erf is 1 in float32. An error d of the exponent is one of
    # erfc(x) d in erf.
    show(
        "ERF_FAR",
        *fit(
            lambda x: -mpmath.log(mpmath.erfc(x)) - x,
            lambda x: mpmath.erfc(x),
            edge,
            mpmath.mpf(4),
            range(1, 8),
        ),
    )

    # erfc(x) = e^-x^2 t P(t), t = 3 / (3 + x), up to 10.1, beyond which it is 0 in float32; relative to erfc(x).
    def scaled(t):
        x = 3 / t - 3
        return mpmath.exp(x * x) * mpmath.erfc(x)

    least = 3 / (3 + mpmath.mpf("10.1"))
    show("ERFC", *fit(scaled, lambda t: 1 / scaled(t), least, mpmath.mpf(1), range(1, 11)))


main()
