//! `spmm_f32`: a sparse weight over a strip of float32 columns, the contract of [`strip`](super::strip).
//!
//! Columns lie in the SIMD lanes; a stored weight is broadcast and multiplied with one row of the panel, whatever
//! its place in the matrix, so arbitrary sparsity costs one index byte a non-zero and no padding. Values are float32,
//! float16 or int8; the narrow ones are widened a group of sixteen rows at a time, once a strip, and an int8 row's
//! factor is the epilogue's.
//!
//! - A [`Strip::block`] is one whole block of the [`SparseRows`]. The panel is either packed (`panel_stride` a multiple
//!   of 16) or the activation read in place; a stride of a large power of two makes the rows of a block share few cache
//!   sets, and is better packed.
//! - A sum takes its non-zeros in stored order, one block after the other: neither `n`, nor where a strip or a range of
//!   rows was cut, changes a bit of any element. Different tiers may round differently.
//! - A weight that is not stored is not multiplied: a NaN or an infinity of `x` reaches only the rows that have a
//!   non-zero in its column.
//! - What is stored may be [`fours`] of columns, or [`stacked`] rows, which have tables of their own.

use half::f16;

use super::Impl;
use super::strip::{Strip, StripKernel};
use crate::isa::Tier;
use crate::weight::SparseRows;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod cost;
pub mod fours;
mod scalar;
pub mod stacked;

pub(super) use scalar::widen;

/// The code of one tier, for values of one type.
pub type Run<T> = for<'a> unsafe fn(&Strip<'a, SparseRows<'a, T>>);

/// The table of what each tier's file gives by one name.
macro_rules! table {
    ($get:ident) => {
        &[
            #[cfg(target_arch = "x86_64")]
            Impl { tier: Tier::Avx512, get: avx512::$get },
            #[cfg(target_arch = "x86_64")]
            Impl { tier: Tier::Avx2, get: avx2::$get },
            #[cfg(target_arch = "aarch64")]
            Impl { tier: Tier::Neon, get: neon::$get },
            Impl { tier: Tier::Scalar, get: scalar::$get },
        ]
    };
}
use table;

/// Kernels for float32 values.
pub static TABLE_F32: &[Impl<StripKernel<Run<f32>>>] = table!(get_f32);

/// Kernels for float16 values.
pub static TABLE_F16: &[Impl<StripKernel<Run<f16>>>] = table!(get_f16);

/// Kernels for int8 values; the factor of a row is the epilogue's `scale`.
pub static TABLE_I8: &[Impl<StripKernel<Run<i8>>>] = table!(get_i8);

/// float32 elements of a cache line.
const LINE: usize = 16;

/// Room for the widened values of a group: sixteen rows of at most 256 values of a block.
type Scratch = [std::mem::MaybeUninit<f32>; 16 * 256];

/// The strip loop of a tier, written over what its file defines: the type `Vector` of `LANES` floats with `zero`,
/// `splat`, `load`, `store`, `fma`, `mul`, `add`, `clamp` and `fetch`, and `widen_f16` and `widen_i8` from a slice to as many
/// floats, which may write up to the next multiple of [`TILE`](super::strip::TILE).
///
/// `vectors` lists the widths a strip may have; the last is the kernel's `nr`. Non-zeros are dealt to `sums` independent
/// sums (a divisor of four), as many as keep the multiply-add units busy across their latency even in a narrow strip.
macro_rules! strip_kernels {
    (token: $token:expr, vectors: [$($v:literal)+], sums: $sums:literal, kb: $kb:literal, $(#[$feature:meta])?) => {
        /// Rows `rows` of one group over `V` vectors of columns; an index names `W` rows of the panel, one or four.
        ///
        /// # Safety
        /// The pointers of `s` are valid as [`StripKernel`] says; `index` has as many elements, and `value` `W` times as
        /// many, as `counts`, one for each of `rows`, adds up to, and every index names rows of the panel.
        $(#[$feature])?
        #[inline]
        unsafe fn group<const V: usize, const W: usize, U>(
            s: &Strip<'_, SparseRows<'_, U>>,
            rows: Range<usize>,
            counts: &[u8],
            mut index: *const u8,
            mut value: *const f32,
        ) {
            for (r, &count) in rows.zip(counts) {
                // SAFETY: `r` is a row of `out`; each of its vectors starts below `n`, so ends within the row.
                let out = unsafe { s.out.add(r * s.out_stride) };
                let mut sums = [[zero(); V]; $sums];
                let sums_of = sums.len();
                if s.first {
                    // A row of the strip is a few lines of a page of its own, which no prefetcher of the processor
                    // follows: the next strip's lines are asked for here, wherever they are.
                    for next in (V..2 * V).step_by(super::LINE / LANES) {
                        fetch(out.wrapping_add(next * LANES));
                        if !s.residual.is_null() {
                            fetch(s.residual.wrapping_add(r * s.out_stride + next * LANES));
                        }
                    }
                }
                if !s.first {
                    for (v, sum) in sums[0].iter_mut().enumerate() {
                        // SAFETY: as above; the first block has written them.
                        *sum = unsafe { load(out.add(v * LANES)) };
                    }
                }
                let count = usize::from(count) * W;
                for _ in 0..count / 4 {
                    // One load for the indices of four values: this loop is bound by its loads.
                    // SAFETY: the row has four more values, and their indices.
                    let columns: [usize; 4] = unsafe {
                        match W {
                            1 => index.cast::<[u8; 4]>().read().map(usize::from),
                            _ => std::array::from_fn(|i| usize::from(*index) * W + i),
                        }
                    };
                    for (i, column) in columns.into_iter().enumerate() {
                        // SAFETY: the caller vouches for the index, the value and the panel's row that the index names.
                        unsafe {
                            let x = s.panel.add(column * s.panel_stride);
                            let w = splat(*value.add(i));
                            for (v, sum) in sums[i % sums_of].iter_mut().enumerate() {
                                *sum = fma(w, load(x.add(v * LANES)), *sum);
                            }
                        }
                    }
                    // SAFETY: at most one past the end.
                    unsafe { (index, value) = (index.add(4 / W), value.add(4)) };
                }
                let rest = count % 4;
                for i in 0..3 {
                    if i < rest {
                        // SAFETY: as above.
                        unsafe {
                            let x = s.panel.add(usize::from(*index.add(i)) * s.panel_stride);
                            let w = splat(*value.add(i));
                            for (v, sum) in sums[i % sums_of].iter_mut().enumerate() {
                                *sum = fma(w, load(x.add(v * LANES)), *sum);
                            }
                        }
                    }
                }
                // SAFETY: at most one past the end.
                unsafe { (index, value) = (index.add(rest), value.add(rest)) };
                let [mut sum, more @ ..] = sums;
                for more in more {
                    for (sum, more) in sum.iter_mut().zip(more) {
                        *sum = add(*sum, more);
                    }
                }
                // SAFETY: as above.
                unsafe { finish(s, r, sum) };
            }
        }

        /// Stores the sums of a row, finished where this is the last block.
        ///
        /// # Safety
        /// The pointers of `s` are valid as [`StripKernel`] says, and `r` is one of its rows.
        $(#[$feature])?
        #[inline]
        unsafe fn finish<const V: usize, W>(s: &Strip<'_, W>, r: usize, mut sum: [Vector; V]) {
            if s.last {
                let e = &s.epilogue;
                if let Some(scale) = e.scale {
                    sum = sum.map(|y| mul(y, splat(scale[r])));
                }
                if let Some(bias) = e.bias {
                    sum = sum.map(|y| add(y, splat(bias[r])));
                }
                if !s.residual.is_null() {
                    for (v, sum) in sum.iter_mut().enumerate() {
                        // SAFETY: a residual is readable wherever `out` is.
                        *sum = add(*sum, unsafe { load(s.residual.add(r * s.out_stride + v * LANES)) });
                    }
                }
                sum = sum.map(|y| clamp(y, e.clamp));
            }
            for (v, sum) in sum.iter().enumerate() {
                // SAFETY: each vector starts below `n`, so ends within the row.
                unsafe { store(s.out.add(r * s.out_stride + v * LANES), *sum) };
            }
        }

        /// All rows of the strip; `widen` gives a group's values as floats, in the scratch or where they lie.
        ///
        /// # Safety
        /// What [`StripKernel`] asks.
        $(#[$feature])?
        #[inline]
        unsafe fn strip<const V: usize, const W: usize, U>(
            s: &Strip<'_, SparseRows<'_, U>>,
            widen: impl Fn(&[U], &mut Scratch) -> *const f32,
        ) {
            debug_assert!(s.rows.0.is_multiple_of(TILE) && s.n <= V * LANES);
            if s.weight.k() == 0 {
                for r in s.rows().step_by(TILE) {
                    let rows = r..s.rows.1.min(r + TILE);
                    // SAFETY: the caller's promise; no non-zeros.
                    unsafe { group::<V, W, U>(s, rows, &[0; TILE], std::ptr::null(), std::ptr::null()) };
                }
                return;
            }
            let block = s.weight.at(s.block.0 / W / s.weight.block());
            debug_assert_eq!(s.block.0, block.k0 * W);
            debug_assert_eq!(s.block.1, s.weight.k().min(block.k0 + s.weight.block()) * W);
            debug_assert!(s.weight.block() * W <= BLOCK);
            let mut scratch: Scratch = [const { MaybeUninit::uninit() }; 16 * 256];
            for r in s.rows().step_by(TILE) {
                let (start, end) = (block.starts[r / TILE] as usize, block.starts[r / TILE + 1] as usize);
                let index = block.indices[start..end].as_ptr();
                let value = widen(&block.values[start..end], &mut scratch);
                let rows = r..s.rows.1.min(r + TILE);
                // SAFETY: the caller's promise; `sparse_starts` has checked that the counts of a group add up to its
                // `end - start` and that indices are columns of the block.
                unsafe { group::<V, W, U>(s, rows.clone(), &block.counts[rows], index, value) };
            }
        }

        strip_kernels!(@entry f32, 1, run_f32, get_f32, |values, _| values.as_ptr(),
            $token, [$($v)+], $kb, $(#[$feature])?);
        strip_kernels!(@entry f16, 1, run_f16, get_f16, |values, scratch| {
            widen_f16(values, scratch);
            scratch.as_ptr().cast()
        }, $token, [$($v)+], $kb, $(#[$feature])?);
        strip_kernels!(@entry i8, 1, run_i8, get_i8, |values, scratch| {
            widen_i8(values, scratch);
            scratch.as_ptr().cast()
        }, $token, [$($v)+], $kb, $(#[$feature])?);
        strip_kernels!(@entry [f32; 4], 4, run_fours_f32, get_fours_f32, |values, _| values.as_ptr().cast(),
            $token, [$($v)+], $kb, $(#[$feature])?);
        strip_kernels!(@entry [f16; 4], 4, run_fours_f16, get_fours_f16, |values, scratch| {
            widen_f16(values.as_flattened(), scratch);
            scratch.as_ptr().cast()
        }, $token, [$($v)+], $kb, $(#[$feature])?);
        strip_kernels!(@entry [i8; 4], 4, run_fours_i8, get_fours_i8, |values, scratch| {
            widen_i8(values.as_flattened(), scratch);
            scratch.as_ptr().cast()
        }, $token, [$($v)+], $kb, $(#[$feature])?);
    };
    (@entry $u:ty, $w:literal, $run:ident, $get:ident, $widen:expr, $token:expr, [$($v:literal)+], $kb:literal,
     $(#[$feature:meta])?) => {
        /// # Safety
        /// What [`StripKernel`] asks.
        $(#[$feature])?
        unsafe fn $run(s: &Strip<'_, SparseRows<'_, $u>>) {
            // SAFETY: the caller's promise.
            unsafe {
                match s.n.div_ceil(LANES) {
                    $($v => strip::<$v, $w, $u>(s, $widen),)+
                    _ => unreachable!("a strip is at most the kernel's nr wide"),
                }
            }
        }

        pub(super) fn $get() -> Option<StripKernel<Run<$u>>> {
            let widest = [$($v),+].len();
            $token.map(|_| StripKernel { run: $run as Run<$u>, nr: widest * LANES, kb: $kb })
        }
    };
}
use strip_kernels;

#[cfg(test)]
mod tests;
