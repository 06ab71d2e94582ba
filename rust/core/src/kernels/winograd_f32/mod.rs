//! `winograd_f32`: what turns a 3 x 3 convolution of stride one into 36 products, F(4 x 4, 3 x 3) of Lavin and Gray, "Fast
//! Algorithms for Convolutional Neural Networks" (2015), section 4.3.
//!
//! The output is cut into *tiles* of 4 x 4 pixels, counted row by row, each of which sees 6 x 6 inputs `d`. With
//!
//! ```text
//! U = G g Gᵀ        a filter's 36 points            [`points`], once
//! V = Bᵀ d B        a tile's, of one channel        [`Kernels::take`]
//! M = Σ_c U_c ⊙ V_c                                 36 products (m x c) · (c x tiles), by `gemm_f32`
//! y = Aᵀ M A        a tile's output                 [`Kernels::give`]
//! ```
//!
//! 144 multiplications a tile and channel become 36. It is not the same arithmetic: sums of numbers up to a hundred times
//! their difference are rounded, so the error is some ten times that of a direct convolution.

#![allow(unsafe_code, reason = "threads write points that interleave, through the pointers of a call")]

use super::simd::{Op, Simd, simd_table};
use super::window::Window2;
use super::{Impl, strip_i8::clamp};
use std::array::from_fn;

/// Points of a tile.
pub const POINTS: usize = 36;

/// Outputs of a tile along an axis.
const OUT: usize = 4;
/// Inputs that a tile sees along an axis.
const IN: usize = 6;
/// Tiles that are turned together.
const TOGETHER: usize = 16;

/// Tiles down and across an output; none where the window is not 3 x 3 with stride and dilation one.
pub fn tiles(window: &Window2) -> Option<[usize; 2]> {
    let fits = window.kernel == [3, 3] && window.stride == [1, 1] && window.dilation == [1, 1];
    fits.then(|| [window.oh.div_ceil(OUT), window.ow.div_ceil(OUT)])
}

/// The points of filters: row `r` of `(m, 9·c)` as rows `p·m + r` of `(36·m, c)`, rounded once.
pub fn points(filters: &[f32], m: usize, c: usize) -> Vec<f32> {
    const G: [[f64; 3]; IN] = [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];
    let mut points = vec![0.0; POINTS * m * c];
    for (rc, filter) in filters.chunks_exact(9).enumerate() {
        for (p, (down, across)) in G.iter().flat_map(|a| G.iter().map(move |b| (a, b))).enumerate() {
            let sum = |y: usize| (0..3).map(|x| across[x] * f64::from(filter[3 * y + x])).sum::<f64>();
            points[p * m * c + rc] = (0..3).map(|y| down[y] * sum(y)).sum::<f64>() as f32;
        }
    }
    points
}

/// One call of [`Kernels::take`]: one channel.
#[derive(Debug)]
pub struct Take<'a> {
    /// The window.
    pub window: &'a Window2,
    /// The channel's plane.
    pub x: &'a [f32],
    /// The tiles, `[start, end)`.
    pub tiles: (usize, usize),
    /// Point 0 of the first tile; a point's tiles lie side by side, in whole vectors of sixteen.
    pub points: *mut f32,
    /// Elements from one point to the next.
    pub apart: usize,
}

/// One call of [`Kernels::give`]: one channel.
#[derive(Debug)]
pub struct Give<'a> {
    /// The window.
    pub window: &'a Window2,
    /// Point 0 of the first tile's sums, laid out as [`Take`] does.
    pub points: *const f32,
    /// Elements from one point to the next.
    pub apart: usize,
    /// The tiles, `[start, end)`.
    pub tiles: (usize, usize),
    /// Added to every pixel.
    pub bias: f32,
    /// A plane to add, if any.
    pub residual: Option<&'a [f32]>,
    /// Bounds of the result; a NaN passes.
    pub clamp: [f32; 2],
    /// The channel's plane of the output.
    pub out: &'a mut [f32],
}

/// The kernels of a tier.
///
/// # Safety
/// Whoever calls one has it from [`TABLE`]; points are valid for all 36 and the tiles, up to whole vectors of sixteen, and
/// nobody writes to them meanwhile; tiles are of the window's, which [`tiles`] takes.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// Bᵀ d B.
    pub take: unsafe fn(&Take<'_>),
    /// Aᵀ M A, and what follows it.
    pub give: unsafe fn(&mut Give<'_>),
}

/// [`Kernels`] of the tier whose instances a [`simd_table`] entry names.
type Pair = fn() -> Kernels;

/// The implementations, best first.
pub static TABLE: &[Impl<Pair>] = simd_table!(Pair, pair);

fn pair<S: Simd>() -> Kernels {
    // SAFETY: a table holds `pair::<S>` only where the tier was detected; the rest is the caller's.
    Kernels { take: |call| unsafe { take::<S>(call) }, give: |call| unsafe { give::<S>(call) } }
}

unsafe fn take<S: Simd>(call: &Take<'_>) {
    // SAFETY: the table's.
    unsafe { S::assume() }.run(call);
}

unsafe fn give<S: Simd>(call: &mut Give<'_>) {
    // SAFETY: the table's.
    unsafe { S::assume() }.run(call);
}

/// Row and column of tile `t`, in tiles.
fn place(window: &Window2, t: usize) -> (usize, usize) {
    let across = window.ow.div_ceil(OUT);
    (t / across, t % across)
}

/// Bᵀ d of one column, or row.
#[inline(always)]
fn inputs<S: Simd>(s: S, d: [S::F; IN]) -> [S::F; IN] {
    let (two, four, five) = (s.splat(2.0), s.splat(4.0), s.splat(5.0));
    // x - 4 y and x - y.
    let less_four = |x, y| s.neg_mul_add(four, y, x);
    let (a, b) = (less_four(d[4], d[2]), less_four(d[3], d[1]));
    let (c, e) = (s.sub(d[4], d[2]), s.mul(two, s.sub(d[3], d[1])));
    let ends = |x, y, z| s.add(z, s.neg_mul_add(five, y, s.mul(four, x)));
    [ends(d[0], d[2], d[4]), s.add(a, b), s.sub(a, b), s.add(c, e), s.sub(c, e), ends(d[1], d[3], d[5])]
}

/// Aᵀ m of one column, or row.
#[inline(always)]
fn outputs<S: Simd>(s: S, m: [S::F; IN]) -> [S::F; OUT] {
    let (two, four, eight) = (s.splat(2.0), s.splat(4.0), s.splat(8.0));
    let (p, q) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    let (r, u) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    [
        s.add(s.add(m[0], p), r),
        s.mul_add(two, u, q),
        s.mul_add(four, r, p),
        s.add(s.mul_add(eight, u, q), m[5]),
    ]
}

impl Op for &Take<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Window2 { h, w, pad, .. } = *self.window;
        for first in (self.tiles.0..self.tiles.1).step_by(TOGETHER) {
            let mut seen = [[0f32; TOGETHER]; POINTS];
            for (lane, t) in (first..self.tiles.1.min(first + TOGETHER)).enumerate() {
                let (ty, tx) = place(self.window, t);
                let (y0, x0) = ((ty * OUT) as isize - pad[0] as isize, (tx * OUT) as isize - pad[1] as isize);
                let inside = |at: isize, size: usize| at >= 0 && at as usize + IN <= size;
                if inside(y0, h) && inside(x0, w) {
                    for i in 0..IN {
                        let row = &self.x[(y0 as usize + i) * w + x0 as usize..][..IN];
                        for j in 0..IN {
                            seen[i * IN + j][lane] = row[j];
                        }
                    }
                    continue;
                }
                for (p, point) in seen.iter_mut().enumerate() {
                    let (y, x) = (y0 + (p / IN) as isize, x0 + (p % IN) as isize);
                    let there = (0..h as isize).contains(&y) && (0..w as isize).contains(&x);
                    point[lane] = if there { self.x[y as usize * w + x as usize] } else { 0.0 };
                }
            }
            for v in (0..TOGETHER).step_by(S::LANES) {
                let mut down = [[s.splat(0.0); IN]; IN];
                for j in 0..IN {
                    // SAFETY: LANES divides TOGETHER.
                    let column = inputs(s, from_fn(|i| unsafe { s.load(seen[i * IN + j].as_ptr().add(v)) }));
                    for (row, value) in down.iter_mut().zip(column) {
                        row[j] = value;
                    }
                }
                for (i, row) in down.into_iter().enumerate() {
                    for (j, point) in inputs(s, row).into_iter().enumerate() {
                        let at = (i * IN + j) * self.apart + first - self.tiles.0 + v;
                        // SAFETY: the caller's: points are there in whole vectors of sixteen tiles.
                        unsafe { s.store(self.points.add(at), point) };
                    }
                }
            }
        }
    }
}

impl Op for &mut Give<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, s: S) {
        let Window2 { oh, ow, .. } = *self.window;
        let [lo, hi] = self.clamp;
        for first in (self.tiles.0..self.tiles.1).step_by(TOGETHER) {
            let mut pixels = [[0f32; TOGETHER]; OUT * OUT];
            for v in (0..TOGETHER).step_by(S::LANES) {
                let mut down = [[s.splat(0.0); IN]; OUT];
                for j in 0..IN {
                    let at = |i: usize| (i * IN + j) * self.apart + first - self.tiles.0 + v;
                    // SAFETY: the caller's: points are there in whole vectors of sixteen tiles.
                    let column = outputs(s, from_fn(|i| unsafe { s.load(self.points.add(at(i))) }));
                    for (row, value) in down.iter_mut().zip(column) {
                        row[j] = value;
                    }
                }
                for (i, row) in down.into_iter().enumerate() {
                    for (j, pixel) in outputs(s, row).into_iter().enumerate() {
                        let pixel = s.add(pixel, s.splat(self.bias));
                        // SAFETY: LANES divides TOGETHER.
                        unsafe { s.store(pixels[i * OUT + j].as_mut_ptr().add(v), pixel) };
                    }
                }
            }
            for (lane, t) in (first..self.tiles.1.min(first + TOGETHER)).enumerate() {
                let (ty, tx) = place(self.window, t);
                let (rows, columns) = ((oh - ty * OUT).min(OUT), (ow - tx * OUT).min(OUT));
                for i in 0..rows {
                    let at = (ty * OUT + i) * ow + tx * OUT;
                    let row = &mut self.out[at..at + columns];
                    match self.residual {
                        None => {
                            for (j, y) in row.iter_mut().enumerate() {
                                *y = clamp(pixels[i * OUT + j][lane], lo, hi);
                            }
                        }
                        Some(residual) => {
                            let residual = &residual[at..at + columns];
                            for (j, (y, add)) in row.iter_mut().zip(residual).enumerate() {
                                *y = clamp(pixels[i * OUT + j][lane] + add, lo, hi);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Aligned, Rng, for_each_impl};

    /// One channel through the three transforms and the product between, and directly, in f64.
    #[test]
    fn a_channel_is_convolved() {
        let mut rng = Rng::new(5);
        for (input, padding) in [
            ([1, 1], [[1, 1], [1, 1]]),
            ([3, 3], [[0, 0], [0, 0]]),
            ([6, 6], [[0, 0], [0, 0]]),
            ([7, 7], [[1, 1], [1, 1]]),
            ([9, 30], [[0, 2], [1, 0]]),
            ([13, 70], [[1, 1], [2, 2]]),
        ] {
            let window = Window2::padded(input, [3, 3], [1, 1], [1, 1], padding, false).unwrap();
            let [oh, ow] = window.output();
            let [down, across] = tiles(&window).unwrap();
            let (filter, x) = (rng.floats(9), rng.floats(input[0] * input[1]));
            let residual = rng.floats(oh * ow);
            let weights = points(&filter, 1, 1);
            let tile = |y: usize, x_: usize| -> f64 {
                let mut sum = 0.25 + f64::from(residual[y * ow + x_]);
                for (tap, weight) in filter.iter().enumerate() {
                    let (iy, ix) = (
                        (y + tap / 3).wrapping_sub(padding[0][0]),
                        (x_ + tap % 3).wrapping_sub(padding[1][0]),
                    );
                    if iy < input[0] && ix < input[1] {
                        sum += f64::from(*weight) * f64::from(x[iy * input[1] + ix]);
                    }
                }
                sum.clamp(-1.0, 1.5)
            };
            for_each_impl(TABLE, |tier, pair| {
                let kernels = pair();
                // In two parts, the first of which ends within a vector.
                let (all, cut) = (down * across, (down * across).div_ceil(2));
                let mut out = vec![f32::NAN; oh * ow];
                for part in [(0, cut), (cut, all)] {
                    let apart = (part.1 - part.0).next_multiple_of(TOGETHER).max(TOGETHER);
                    let mut v = Aligned::new(POINTS * apart, 0);
                    let take = Take { window: &window, x: &x, tiles: part, points: v.as_mut_ptr(), apart };
                    // SAFETY: the table gave the kernel; points are as many as said.
                    unsafe { (kernels.take)(&take) };
                    for (p, weight) in weights.iter().enumerate() {
                        v[p * apart..][..apart].iter_mut().for_each(|x| *x *= weight);
                    }
                    let mut give = Give {
                        window: &window,
                        points: v.as_ptr(),
                        apart,
                        tiles: part,
                        bias: 0.25,
                        residual: Some(&residual),
                        clamp: [-1.0, 1.5],
                        out: &mut out,
                    };
                    // SAFETY: as above.
                    unsafe { (kernels.give)(&mut give) };
                }
                for y in 0..oh {
                    for x_ in 0..ow {
                        let (got, want) = (f64::from(out[y * ow + x_]), tile(y, x_));
                        assert!(
                            (got - want).abs() < 2e-5,
                            "{tier} {input:?} ({y}, {x_}): {got}, expected {want}"
                        );
                    }
                }
            });
        }
    }

    #[test]
    fn other_windows_are_not_taken() {
        let one = [1, 1];
        for (kernel, stride, dilation) in [([3, 3], [2, 1], one), ([3, 3], one, [1, 2]), ([1, 3], one, one)] {
            let window = Window2::padded([9, 9], kernel, stride, dilation, [[0; 2]; 2], false).unwrap();
            assert_eq!(tiles(&window), None);
        }
    }
}
