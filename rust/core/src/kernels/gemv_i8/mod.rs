//! A dense int8 weight times uint8 vectors that lie one after the other.
//!
//! `out[i][r] = requantize(Σ_k W[r][k] · x[i][k])` as [`strip_i8`](super::strip_i8) defines it; `W` is [`TilesI8`],
//! `[⌈m/16⌉][⌈k/4⌉][16][4]`, whose sixteen rows fill the lanes; `x` is `(n, k)`, plain. Exact, hence equal, on every tier.

#![allow(unsafe_code, reason = "reads activations through their pointer")]

use super::Impl;
use super::strip_i8::rows::{RowsI8, store_tile};
use crate::isa::Tier;
use crate::weight::{QUAD, TILE, TilesI8};

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "aarch64")]
mod dotprod;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

/// Computes rows.
///
/// # Safety
/// Whoever calls one holds the tier's token; the pointers of the [`RowsI8`] are valid for what it names; nothing else
/// touches that part of `out` meanwhile; and the weight and the slices of its `requant` have the rows.
pub type Kernel = unsafe fn(&RowsI8<'_, TilesI8<'_>>);

/// The implementations, best first.
pub static TABLE: &[Impl<Kernel>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Amx, get: amx::get },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512Vnni, get: avx512vnni::get },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::DotProd, get: dotprod::get },
    #[cfg(target_arch = "aarch64")]
    Impl { tier: Tier::Neon, get: neon::get },
    Impl { tier: Tier::Scalar, get: || Some(scalar::get()) },
];

/// One tile of the weight, four depths after four, `[⌈k/4⌉][16][4]`.
type Tile<'a> = &'a [[[i8; QUAD]; TILE]];

/// Some rows of activations, to be read four bytes at a time.
#[derive(Clone, Copy)]
struct Quads<const N: usize> {
    rows: [*const u8; N],
    /// Groups of four that are whole.
    whole: usize,
    /// What is left of each row, padded with zeros.
    last: [[u8; QUAD]; N],
}

impl<const N: usize> Quads<N> {
    /// Rows `i..i + N` of the activations.
    ///
    /// # Safety
    /// They are readable.
    #[inline(always)]
    unsafe fn new(s: &RowsI8<'_, TilesI8<'_>>, i: usize) -> Self {
        let (whole, left) = (s.weight.k() / QUAD, s.weight.k() % QUAD);
        // SAFETY: the caller's.
        let rows: [_; N] = std::array::from_fn(|j| unsafe { s.x.add((i + j) * s.x_stride) });
        let last = rows.map(|row| {
            let mut last = [0; QUAD];
            // SAFETY: a row has `k` bytes.
            last[..left].copy_from_slice(unsafe { std::slice::from_raw_parts(row.add(whole * QUAD), left) });
            last
        });
        Quads { rows, whole, last }
    }

    /// Depths `4q..4q + 4` of row `j`, as 32 bits.
    #[inline(always)]
    fn at(&self, j: usize, q: usize) -> i32 {
        let quad = if q < self.whole {
            // SAFETY: a row has `whole` groups; bytes have no alignment.
            unsafe { self.rows[j].add(q * QUAD).cast::<[u8; QUAD]>().read() }
        } else {
            self.last[j]
        };
        bytemuck::cast(quad)
    }
}

/// The loop nest: hands `add` `T` tiles, or one where fewer are left, and `N` rows of activations, and stores the sums it
/// returns, `[tile][row]`.
///
/// To be inlined into a function compiled for the tier, of which `many` and `one` are closures.
///
/// # Safety
/// As [`Kernel`]; the activations have rows `i..i + N`.
#[inline(always)]
unsafe fn tiles<const T: usize, const N: usize>(
    s: &RowsI8<'_, TilesI8<'_>>,
    i: usize,
    many: impl Fn([Tile<'_>; T], &Quads<N>) -> [[[i32; TILE]; N]; T],
    one: impl Fn([Tile<'_>; 1], &Quads<N>) -> [[[i32; TILE]; N]; 1],
) {
    // SAFETY: the caller's.
    let x = unsafe { Quads::<N>::new(s, i) };
    let tile = |r0: usize| s.weight.tile(r0 / TILE).as_chunks().0.as_chunks().0;
    let store = |r0: usize, sums: &[[i32; TILE]; N]| {
        for (j, sums) in sums.iter().enumerate() {
            // SAFETY: the caller's.
            unsafe { store_tile(s, i + j, r0, sums) };
        }
    };
    let mut r0 = s.rows.0;
    while r0 + T * TILE <= s.rows.1.next_multiple_of(TILE) {
        let sums = many(std::array::from_fn(|t| tile(r0 + t * TILE)), &x);
        for (t, sums) in sums.iter().enumerate() {
            store(r0 + t * TILE, sums);
        }
        r0 += T * TILE;
    }
    for r0 in (r0..s.rows.1).step_by(TILE) {
        store(r0, &one([tile(r0)], &x)[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::strip_i8::rows::{Each, MAX_ROWS};
    use crate::kernels::strip_i8::testing::Case;
    use crate::kernels::strip_i8::{Output, Requant};
    use crate::testing::for_each_impl;
    use crate::weight::tile_i8;

    fn check(tier: Tier, kernel: Kernel, case: &Case, rows: (usize, usize)) {
        let Case { m, k, n, .. } = *case;
        let tiles = tile_i8(m, k, &case.w);
        let weight = TilesI8::new(m, k, &tiles).unwrap();
        // SAFETY: the tier was detected; `rows` gives room for what a call may touch.
        let got = case.rows(weight, rows, |s| unsafe { kernel(s) });
        assert_eq!(got, case.expected(rows), "{tier}: {m} x {k}, {n} vectors, rows {rows:?}");
    }

    #[test]
    fn equals_the_oracle_at_every_edge() {
        for_each_impl(TABLE, |tier, kernel| {
            let mut kind = 0;
            for m in [1, 15, 16, 17, 33, 64, 81] {
                for k in [0, 1, 3, 4, 5, 63, 64, 65, 300] {
                    for n in (1..=MAX_ROWS).chain([15, 16, 17, 31, 32, 33, 70]) {
                        check(tier, kernel, &Case::new((m, k, n), kind, 0.1), (0, m));
                        kind += 1;
                    }
                }
            }
        });
    }

    #[test]
    fn equals_the_oracle_in_every_kind_of_output() {
        for_each_impl(TABLE, |tier, kernel| {
            for kind in 0..Case::KINDS {
                check(tier, kernel, &Case::new((37, 530, 3), kind, 0.0), (0, 37));
                check(tier, kernel, &Case::new((37, 530, 33), kind, 0.0), (0, 37));
            }
        });
    }

    #[test]
    fn rounds_every_product_before_it_is_added() {
        for_each_impl(TABLE, |tier, kernel| {
            for kind in 0..Case::TIES {
                check(tier, kernel, &Case::ties((100, 40, 7), kind, 0.0), (0, 100));
                check(tier, kernel, &Case::ties((100, 40, 20), kind, 0.0), (0, 100));
            }
        });
    }

    #[test]
    fn computes_the_rows_asked_for_and_no_other() {
        for_each_impl(TABLE, |tier, kernel| {
            for rows in [(0, 16), (16, 32), (16, 128), (32, 130), (128, 130), (16, 16)] {
                check(tier, kernel, &Case::new((130, 70, 7), 4, 0.0), rows);
                check(tier, kernel, &Case::new((130, 70, 50), 4, 0.0), rows);
            }
        });
    }

    #[test]
    fn every_vector_may_have_a_range_of_its_own() {
        for_each_impl(TABLE, |tier, kernel| {
            for (m, k, n) in [(1, 1, 1), (17, 70, 8), (70, 192, 37), (33, 65, 16)] {
                let case = Case::new((m, k, n), 1, 0.0);
                let tiles = tile_i8(m, k, &case.w);
                let weight = TilesI8::new(m, k, &tiles).unwrap();
                let each = (0..n).map(|i| Each { zero_point: (i * 37 % 256) as i32, scale: 0.5 + i as f32 });
                let each: Vec<Each> = each.collect();
                let sums: Vec<i32> =
                    case.w.chunks(k).map(|row| row.iter().map(|&w| i32::from(w)).sum()).collect();
                let (offset, scale, bias): (Vec<i32>, Vec<f32>, Vec<f32>) = (
                    sums.iter().map(|sum| -sum).collect(),
                    (0..m).map(|r| 0.001 * (r + 1) as f32).collect(),
                    (0..m).map(|r| r as f32 - 3.5).collect(),
                );
                let x: Vec<u8> = (0..n * k).map(|i| case.x[i % k * n + i / k]).collect();
                let mut out = vec![0f32; n * m];
                let call = RowsI8 {
                    weight,
                    rows: (0, m),
                    x: x.as_ptr(),
                    x_stride: k,
                    n,
                    out: out.as_mut_ptr().cast(),
                    out_stride: m,
                    residual: std::ptr::null(),
                    residual_stride: 0,
                    requant: Requant {
                        offset: &offset,
                        scale: &scale,
                        bias: &bias,
                        residual: None,
                        output: Output::F32 { lo: f32::NEG_INFINITY, hi: f32::INFINITY },
                    },
                    each: Some(&each),
                };
                // SAFETY: the tier was detected; the arrays are as long as said.
                unsafe { kernel(&call) };
                for i in 0..n {
                    for r in 0..m {
                        let products = (0..k).map(|c| {
                            i64::from(case.w[r * k + c])
                                * (i64::from(x[i * k + c]) - i64::from(each[i].zero_point))
                        });
                        let sum = products.sum::<i64>() as f32;
                        let want = sum * (each[i].scale * scale[r]) + bias[r];
                        assert_eq!(out[i * m + r], want, "{tier}: {m} x {k}, vector {i} of {n}, row {r}");
                    }
                }
            }
        });
    }
}
