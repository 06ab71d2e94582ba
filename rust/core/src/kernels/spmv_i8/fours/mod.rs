//! The same product for *fours*: four columns of a row, the first a multiple of four, side by side.
//!
//! An index names four bytes of `x` that lie together, what a four-way dot product takes. The contract is that of
//! [`spmv_i8`](super); `W` is `SparseRows` of `[i8; 4]`, whose columns are counted in fours, or [`Packed`].

#[cfg(target_arch = "x86_64")]
use super::GROUP;
use crate::isa::Tier;
use crate::kernels::Impl;
use crate::kernels::strip_i8::rows::{MAX_ROWS, RowsI8, store_tile};
use crate::weight::{SparseRows, TILE};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "aarch64")]
mod dotprod;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

pub use crate::kernels::packed::Packed;

/// Fours of columns of a window of [`Packed`]: four registers of sixteen.
const WINDOW: usize = 64;

/// The form for table look-ups. A lane that rests multiplies the first four of the window by zeros.
pub fn pack(weight: &SparseRows<'_, [i8; 4]>) -> Packed<[i8; 4]> {
    Packed::new(weight, (WINDOW, 0))
}

/// The code of a tier that reads packed weights.
pub type RunPacked = unsafe fn(&RowsI8<'_, &Packed<[i8; 4]>>);

/// A kernel, by the form of the weight it reads.
///
/// # Safety
/// As [`spmv_i8::Kernel`](super::Kernel).
#[derive(Clone, Copy, Debug)]
pub enum Kernel {
    /// The file's form.
    Rows(unsafe fn(&RowsI8<'_, SparseRows<'_, [i8; 4]>>)),
    /// What [`pack`] makes; rows change places within a [`GROUP`] of tiles, of which a call computes whole ones.
    Packed(RunPacked),
}

/// The implementations, best first.
pub static TABLE: &[Impl<Kernel>] = &[
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

/// Calls `dot` for each row and vector of a tile, a block of columns after the other, and stores what comes of the sums.
///
/// To be inlined into a function compiled for the tier, of which `dot` is a closure.
///
/// # Safety
/// What [`Kernel`] asks; `dot(x, columns, values)` reads `x` at the columns only, four bytes each.
#[inline(always)]
#[allow(unsafe_code, reason = "reads activations through their pointer")]
unsafe fn walk(
    s: &RowsI8<'_, SparseRows<'_, [i8; 4]>>,
    dot: impl Fn(*const [u8; 4], &[u8], &[[i8; 4]]) -> i32,
) {
    for (r0, i0) in s.rows().step_by(TILE).flat_map(|r0| (0..s.n).step_by(MAX_ROWS).map(move |i0| (r0, i0))) {
        let (rows, n) = (r0..s.rows.1.min(r0 + TILE), MAX_ROWS.min(s.n - i0));
        let mut sums = [[0; TILE]; MAX_ROWS];
        for block in (0..s.weight.blocks()).map(|b| s.weight.at(b)) {
            for (i, sums) in sums[..n].iter_mut().enumerate() {
                // SAFETY: a vector of the call, and a block within its columns.
                let x = unsafe { s.x.add((i0 + i) * s.x_stride).cast::<[u8; 4]>().add(block.k0) };
                let mut start = block.starts[r0 / TILE] as usize;
                for (&count, sum) in block.counts[rows.clone()].iter().zip(sums) {
                    let row = start..start + usize::from(count);
                    *sum += dot(x, &block.indices[row.clone()], &block.values[row]);
                    start += usize::from(count);
                }
            }
        }
        for (i, sums) in sums[..n].iter().enumerate() {
            // SAFETY: the caller's.
            unsafe { store_tile(s, i0 + i, r0, sums) };
        }
    }
}

/// Vectors `i..i + N` by a packed weight: `tile(t, x)` gives the sums of a tile, lane by lane, for vectors from each of which
/// any window of the weight can be read.
///
/// To be inlined into a function compiled for the tier, of which `tile` is a closure.
///
/// # Safety
/// As [`Kernel`]; there are so many vectors.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[allow(unsafe_code, reason = "reads activations through their pointer")]
unsafe fn vectors<const N: usize>(
    s: &RowsI8<'_, &Packed<[i8; 4]>>,
    i: usize,
    tile: impl Fn(usize, [*const u8; N]) -> [[i32; TILE]; N],
) {
    let mut short = [[0; WINDOW * 4]; N];
    // SAFETY: the call has the vectors.
    let mut x: [_; N] = std::array::from_fn(|j| unsafe { s.x.add((i + j) * s.x_stride) });
    let k = s.weight.k() * 4;
    if k < WINDOW * 4 {
        for (x, short) in x.iter_mut().zip(&mut short) {
            // SAFETY: a vector has `k` bytes.
            short[..k].copy_from_slice(unsafe { std::slice::from_raw_parts(*x, k) });
            *x = short.as_ptr();
        }
    }
    for r0 in s.rows().step_by(GROUP * TILE) {
        let mut sums = [[[0; TILE]; GROUP]; N];
        let end = s.rows.1.min(r0 + GROUP * TILE);
        for t in r0 / TILE..end.div_ceil(TILE) {
            for (sums, lanes) in sums.iter_mut().zip(tile(t, x)) {
                for (&r, sum) in s.weight.rows(t).iter().zip(lanes) {
                    sums.as_flattened_mut()[r as usize - r0] = sum;
                }
            }
        }
        for (j, sums) in sums.iter().enumerate() {
            for (r0, sums) in (r0..end).step_by(TILE).zip(sums) {
                // SAFETY: the caller's.
                unsafe { store_tile(s, i + j, r0, sums) };
            }
        }
    }
}

/// The product of a few fours with `x`.
///
/// # Safety
/// `x` has every column named.
#[inline(always)]
#[allow(unsafe_code, reason = "reads activations through their pointer")]
unsafe fn dot_each(x: *const [u8; 4], columns: &[u8], values: &[[i8; 4]]) -> i32 {
    let mut sum = 0;
    for (&column, w) in columns.iter().zip(values) {
        // SAFETY: the caller's.
        let x = unsafe { x.add(usize::from(column)).read() };
        sum += (0..4).map(|i| i32::from(w[i]) * i32::from(x[i])).sum::<i32>();
    }
    sum
}

#[cfg(test)]
#[allow(unsafe_code, reason = "calls kernels through their unsafe signature")]
mod tests {
    use super::*;
    use crate::kernels::strip_i8::testing::Case;
    use crate::testing::for_each_impl;

    fn check(tier: Tier, kernel: Kernel, case: &Case, block: usize, rows: (usize, usize)) {
        let Case { m, k, n, .. } = *case;
        let weight = case.fours(block);
        let got = match kernel {
            // SAFETY: the tier was detected; `rows` gives room for what a call may touch.
            Kernel::Rows(run) => case.rows(weight.rows(), rows, |s| unsafe { run(s) }),
            Kernel::Packed(run) => {
                let packed = pack(&weight.rows());
                // SAFETY: the same.
                case.rows(&packed, rows, |s| unsafe { run(s) })
            }
        };
        assert_eq!(got, case.expected(rows), "{tier}: {m} x {k}, {n} vectors, rows {rows:?}");
    }

    #[test]
    fn equals_the_oracle_at_every_edge() {
        for_each_impl(TABLE, |tier, kernel| {
            let mut kind = 0;
            for (m, zeros) in [(1, 0.9), (15, 0.5), (16, 0.95), (17, 0.0), (33, 0.7), (165, 0.9), (5, 1.0)] {
                for k in [0, 4, 8, 60, 64, 68, 124, 252, 256, 260, 300, 600] {
                    for n in (1..=MAX_ROWS).chain([9, 17]) {
                        let block = [256, 128, 8][kind as usize % 3];
                        check(tier, kernel, &Case::of_fours((m, k, n), kind, zeros), block, (0, m));
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
                check(tier, kernel, &Case::of_fours((37, 532, 3), kind, 0.5), 256, (0, 37));
            }
        });
    }

    #[test]
    fn rounds_every_product_before_it_is_added() {
        for_each_impl(TABLE, |tier, kernel| {
            for kind in 0..Case::TIES {
                check(tier, kernel, &Case::ties((100, 40, 7), kind, 0.5), 256, (0, 100));
            }
        });
    }

    #[test]
    fn computes_the_rows_asked_for_and_no_other() {
        for_each_impl(TABLE, |tier, kernel| {
            for rows in [(0, 128), (128, 256), (128, 300), (256, 300), (128, 128)] {
                check(tier, kernel, &Case::of_fours((300, 300, 7), 4, 0.8), 256, rows);
            }
        });
    }
}
