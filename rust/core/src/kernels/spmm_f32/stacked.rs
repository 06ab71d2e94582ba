//! The same product for *stacks*: 2, 4 or 16 rows that have their non-zeros in the same columns.
//!
//! A stack is a row of a `SparseRows` whose values are arrays, `[T; H]`, so a matrix of `m` rows has `⌈m/H⌉` of them, the
//! last filled up with zeros. One vector of the panel then serves several rows: where single rows load as much as they
//! multiply, stacks come near the rate of a dense kernel.
//!
//! The contract is that of [`spmm_f32`](super), `rows` and the epilogue counting rows, not stacks. What is skipped is a
//! column of a stack: in a stored one a zero weight is multiplied.

use half::f16;

use super::Run;
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::scalar;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::isa::Tier;
use crate::kernels::Impl;
use crate::kernels::strip::StripKernel;

/// Kernels for stacks of 2 rows of float32 values.
pub static TABLE_2_F32: &[Impl<StripKernel<Run<[f32; 2]>>>] = super::table!(get_2_f32);
/// Kernels for stacks of 2 rows of float16 values.
pub static TABLE_2_F16: &[Impl<StripKernel<Run<[f16; 2]>>>] = super::table!(get_2_f16);
/// Kernels for stacks of 2 rows of int8 values.
pub static TABLE_2_I8: &[Impl<StripKernel<Run<[i8; 2]>>>] = super::table!(get_2_i8);
/// Kernels for stacks of 4 rows of float32 values.
pub static TABLE_4_F32: &[Impl<StripKernel<Run<[f32; 4]>>>] = super::table!(get_4_f32);
/// Kernels for stacks of 4 rows of float16 values.
pub static TABLE_4_F16: &[Impl<StripKernel<Run<[f16; 4]>>>] = super::table!(get_4_f16);
/// Kernels for stacks of 4 rows of int8 values.
pub static TABLE_4_I8: &[Impl<StripKernel<Run<[i8; 4]>>>] = super::table!(get_4_i8);
/// Kernels for stacks of 16 rows of float32 values.
pub static TABLE_16_F32: &[Impl<StripKernel<Run<[f32; 16]>>>] = super::table!(get_16_f32);
/// Kernels for stacks of 16 rows of float16 values.
pub static TABLE_16_F16: &[Impl<StripKernel<Run<[f16; 16]>>>] = super::table!(get_16_f16);
/// Kernels for stacks of 16 rows of int8 values.
pub static TABLE_16_I8: &[Impl<StripKernel<Run<[i8; 16]>>>] = super::table!(get_16_i8);

/// The stacked loops of a tier, over what [`strip_kernels`](super::strip_kernels) asks of it and `finish`, which it makes.
///
/// `pairs` and `fours` list the widths that two and four rows of a strip may have at once, so that their sums stay in
/// registers; sixteen rows are done four by four.
macro_rules! stacked_kernels {
    (token: $token:expr, pairs: $pairs:tt, fours: $fours:tt, kb: $kb:literal, $(#[$feature:meta])?) => {
        /// Some stacks, the first of which starts at row `rows.start`, over `V` vectors of columns, `R` rows at once.
        ///
        /// # Safety
        /// As for `group`: `index` has as many elements, and `value` `H` times as many, as `counts` adds up to.
        $(#[$feature])?
        #[inline]
        unsafe fn stacks<const V: usize, const H: usize, const R: usize, W>(
            s: &Strip<'_, W>,
            rows: Range<usize>,
            counts: &[u8],
            mut index: *const u8,
            mut value: *const f32,
        ) {
            for (first, &count) in rows.clone().step_by(H).zip(counts) {
                for part in (0..H).step_by(R) {
                    let live = R.min(rows.end.saturating_sub(first + part));
                    if live == 0 {
                        break;
                    }
                    let mut sums = [[zero(); V]; R];
                    if !s.first {
                        for (r, sums) in sums[..live].iter_mut().enumerate() {
                            for (v, sum) in sums.iter_mut().enumerate() {
                                let at = (first + part + r) * s.out_stride + v * LANES;
                                // SAFETY: a live row of `out`, which the first block has written.
                                *sum = unsafe { load(s.out.add(at)) };
                            }
                        }
                    }
                    for i in 0..usize::from(count) {
                        // SAFETY: the caller vouches for the index, the values and the panel's row that the index names.
                        unsafe {
                            let x = s.panel.add(usize::from(*index.add(i)) * s.panel_stride);
                            let x: [Vector; V] = std::array::from_fn(|v| load(x.add(v * LANES)));
                            for (r, sums) in sums.iter_mut().enumerate() {
                                let w = splat(*value.add(i * H + part + r));
                                for (sum, x) in sums.iter_mut().zip(x) {
                                    *sum = fma(w, x, *sum);
                                }
                            }
                        }
                    }
                    for (r, sums) in sums[..live].iter().enumerate() {
                        // SAFETY: a live row.
                        unsafe { finish(s, first + part + r, *sums) };
                    }
                }
                // SAFETY: at most one past the end.
                unsafe { (index, value) = (index.add(usize::from(count)), value.add(usize::from(count) * H)) };
            }
        }

        /// All rows of the strip, as `strip`.
        ///
        /// # Safety
        /// What [`StripKernel`] asks.
        $(#[$feature])?
        #[inline]
        unsafe fn stacked<const V: usize, const H: usize, const R: usize, T>(
            s: &Strip<'_, SparseRows<'_, [T; H]>>,
            widen: impl Fn(&[T], &mut Scratch) -> *const f32,
        ) {
            debug_assert!(s.rows.0.is_multiple_of(TILE) && s.n <= V * LANES);
            debug_assert!(s.rows.1 <= s.weight.m() * H);
            let mut scratch: Scratch = [const { MaybeUninit::uninit() }; 16 * 256];
            let block = (s.weight.k() > 0).then(|| s.weight.at(s.block.0 / s.weight.block()));
            // Non-zeros before the first stack of the strip.
            let mut start = block.as_ref().map_or(0, |block| {
                let (group, stack) = (s.rows.0 / H / TILE, s.rows.0 / H);
                let before = block.counts[group * TILE..stack].iter().map(|&count| usize::from(count));
                block.starts[group] as usize + before.sum::<usize>()
            });
            for r in s.rows().step_by(TILE) {
                let rows = r..s.rows.1.min(r + TILE);
                let stacks = r / H..rows.end.div_ceil(H);
                let Some(block) = &block else {
                    // SAFETY: the caller's promise; no non-zeros.
                    unsafe { self::stacks::<V, H, R, _>(s, rows, &[0; TILE], [].as_ptr(), [].as_ptr()) };
                    continue;
                };
                let counts = &block.counts[stacks];
                let end = start + counts.iter().map(|&count| usize::from(count)).sum::<usize>();
                let value = widen(block.values[start..end].as_flattened(), &mut scratch);
                // SAFETY: the caller's promise; `sparse_starts` has checked that indices are columns of the block.
                unsafe { self::stacks::<V, H, R, _>(s, rows, counts, block.indices[start..end].as_ptr(), value) };
                start = end;
            }
        }

        stacked_kernels!(@height 2, 2, [run_2_f32 run_2_f16 run_2_i8], [get_2_f32 get_2_f16 get_2_i8],
            $token, $pairs, $kb, $(#[$feature])?);
        stacked_kernels!(@height 4, 4, [run_4_f32 run_4_f16 run_4_i8], [get_4_f32 get_4_f16 get_4_i8],
            $token, $fours, $kb, $(#[$feature])?);
        stacked_kernels!(@height 16, 4, [run_16_f32 run_16_f16 run_16_i8], [get_16_f32 get_16_f16 get_16_i8],
            $token, $fours, $kb, $(#[$feature])?);
    };
    (@height $h:literal, $r:literal, [$run_f32:ident $run_f16:ident $run_i8:ident],
     [$get_f32:ident $get_f16:ident $get_i8:ident], $token:expr, $v:tt, $kb:literal, $(#[$feature:meta])?) => {
        stacked_kernels!(@entry $h, $r, f32, $run_f32, $get_f32, |values, _| values.as_ptr(),
            $token, $v, $kb, $(#[$feature])?);
        stacked_kernels!(@entry $h, $r, f16, $run_f16, $get_f16, |values, scratch| {
            widen_f16(values, scratch);
            scratch.as_ptr().cast()
        }, $token, $v, $kb, $(#[$feature])?);
        stacked_kernels!(@entry $h, $r, i8, $run_i8, $get_i8, |values, scratch| {
            widen_i8(values, scratch);
            scratch.as_ptr().cast()
        }, $token, $v, $kb, $(#[$feature])?);
    };
    (@entry $h:literal, $r:literal, $t:ty, $run:ident, $get:ident, $widen:expr, $token:expr, [$($v:literal)+],
     $kb:literal, $(#[$feature:meta])?) => {
        /// # Safety
        /// What [`StripKernel`] asks.
        $(#[$feature])?
        unsafe fn $run(s: &Strip<'_, SparseRows<'_, [$t; $h]>>) {
            // SAFETY: the caller's promise.
            unsafe {
                match s.n.div_ceil(LANES) {
                    $($v => stacked::<$v, $h, $r, $t>(s, $widen),)+
                    _ => unreachable!("a strip is at most the kernel's nr wide"),
                }
            }
        }

        pub(super) fn $get() -> Option<StripKernel<Run<[$t; $h]>>> {
            let widest = [$($v),+].len();
            $token.map(|_| StripKernel { run: $run as Run<[$t; $h]>, nr: widest * LANES, kb: $kb })
        }
    };
}
pub(super) use stacked_kernels;
