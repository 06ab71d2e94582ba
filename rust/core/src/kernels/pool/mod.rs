//! Pooling: what is made of the elements of each window of a plane.
//!
//! A window's elements are folded tap by tap, row by row, so that the inner loop runs along an output row. Taps outside the
//! plane add nothing. Adaptive pooling is the same over windows whose size changes from output to output.

use super::window::Window2;
use std::ops::Range;

/// Folds every window of a plane: `out[oy][ox] = fold(… fold(start, x₀) …, xₙ)`.
///
/// # Panics
/// Where `x` or `out` is shorter than the window says.
pub fn windows<T: Copy, A: Copy>(
    window: &Window2,
    x: &[T],
    start: A,
    fold: impl Fn(A, T) -> A,
    out: &mut [A],
) {
    let [oh, ow] = window.output();
    let (stride, width) = (window.stride[1], window.w);
    out[..oh * ow].fill(start);
    // The taps that some output sees inside the plane: a kernel may be much wider.
    let last = (width + window.pad[1]).div_ceil(window.dilation[1]);
    let first = window.pad[1].saturating_sub(ow.saturating_sub(1) * stride).div_ceil(window.dilation[1]);
    let columns = first..window.kernel[1].min(last);
    for oy in 0..oh {
        let row = &mut out[oy * ow..][..ow];
        let (taps, first) = window.taps_of_row(oy);
        for y in taps.enumerate().map(|(i, _)| first + i * window.dilation[0]) {
            for tx in columns.clone() {
                let seen = window.columns_of(tx);
                if seen.is_empty() {
                    continue;
                }
                let at = seen.start * stride + tx * window.dilation[1] - window.pad[1];
                let line = &x[y * width + at..(y + 1) * width];
                if stride == 1 {
                    for (acc, &value) in row[seen].iter_mut().zip(line) {
                        *acc = fold(*acc, value);
                    }
                } else {
                    for (acc, &value) in row[seen].iter_mut().zip(line.iter().step_by(stride)) {
                        *acc = fold(*acc, value);
                    }
                }
            }
        }
    }
}

/// Elements of the window of output `o` along one axis: those inside the input; with `padded`, also those in the padding
/// `[before, after]`.
pub fn count(
    input: usize,
    (kernel, stride): (usize, usize),
    padding: [usize; 2],
    padded: bool,
    o: usize,
) -> usize {
    let first = o * stride;
    let last = (first + kernel).min(input + padding[0] + padding[1]);
    if padded {
        last - first
    } else {
        let (low, high) = (padding[0], padding[0] + input);
        last.min(high).saturating_sub(first.max(low))
    }
}

/// The elements of output `i` of `n` in adaptive pooling: `⌊i·size/n⌋ .. ⌈(i+1)·size/n⌉`.
pub fn adaptive(size: usize, n: usize, i: usize) -> Range<usize> {
    i * size / n..((i + 1) * size).div_ceil(n)
}

/// Folds every adaptive window of a plane.
///
/// # Panics
/// Where `x` or `out` is shorter than the sizes say.
pub fn adaptive_windows<T: Copy, A: Copy>(
    [h, w]: [usize; 2],
    [oh, ow]: [usize; 2],
    x: &[T],
    start: A,
    fold: impl Fn(A, T) -> A,
    out: &mut [A],
) {
    for oy in 0..oh {
        for ox in 0..ow {
            let mut acc = start;
            for y in adaptive(h, oh, oy) {
                for &value in &x[y * w..][adaptive(w, ow, ox)] {
                    acc = fold(acc, value);
                }
            }
            out[oy * ow + ox] = acc;
        }
    }
}

/// The greater, a NaN being greatest.
pub fn greater(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    #[test]
    fn windows_agree_with_the_formula() {
        let mut rng = Rng::new(1);
        for (input, kernel, stride, dilation, pad, ceil) in [
            ([7, 9], [3, 3], [2, 2], [1, 1], [[1, 1], [1, 1]], false),
            ([8, 8], [2, 2], [2, 2], [1, 1], [[0, 0], [0, 0]], false),
            ([5, 6], [3, 2], [2, 3], [1, 2], [[1, 0], [0, 1]], true),
            ([1, 10], [1, 3], [1, 1], [1, 1], [[0, 0], [1, 1]], false),
        ] {
            let window = Window2::padded(input, kernel, stride, dilation, pad, ceil).unwrap();
            let x = rng.floats(input[0] * input[1]);
            let [oh, ow] = window.output();
            let mut got = vec![0.0; oh * ow];
            windows(&window, &x, f32::NEG_INFINITY, greater, &mut got);
            for oy in 0..oh {
                for ox in 0..ow {
                    let mut want = f32::NEG_INFINITY;
                    for ty in 0..kernel[0] {
                        for tx in 0..kernel[1] {
                            let y = (oy * stride[0] + ty * dilation[0]).wrapping_sub(pad[0][0]);
                            let xx = (ox * stride[1] + tx * dilation[1]).wrapping_sub(pad[1][0]);
                            if y < input[0] && xx < input[1] {
                                want = want.max(x[y * input[1] + xx]);
                            }
                        }
                    }
                    assert_eq!(got[oy * ow + ox], want);
                }
            }
        }
    }

    #[test]
    fn counts_are_torchs() {
        // avg_pool1d of five elements, kernel 3, stride 2, padding 1, ceil_mode.
        let counts = |input, outputs, padded| -> Vec<usize> {
            (0..outputs).map(|o| count(input, (3, 2), [1, 1], padded, o)).collect()
        };
        assert_eq!(counts(5, 3, true), [3, 3, 3]);
        assert_eq!(counts(5, 3, false), [2, 3, 2]);
        assert_eq!(counts(6, 4, true), [3, 3, 3, 2]);
    }

    #[test]
    fn adaptive_windows_cover_the_input() {
        for (size, n) in [(7, 3), (3, 7), (10, 10), (5, 1)] {
            assert_eq!(adaptive(size, n, 0).start, 0);
            assert_eq!(adaptive(size, n, n - 1).end, size);
            assert!((1..n).all(|i| adaptive(size, n, i).start <= adaptive(size, n, i - 1).end));
        }
        let mut out = [0.0; 4];
        adaptive_windows([3, 3], [2, 2], &[1., 2., 3., 4., 5., 6., 7., 8., 9.], 0.0, |a, b| a + b, &mut out);
        assert_eq!(out, [12.0, 16.0, 24.0, 28.0]);
    }
}
