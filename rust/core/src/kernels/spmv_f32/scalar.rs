//! Portable: a row at a time, its non-zeros dealt to four sums.
#![allow(unsafe_code, reason = "loads through the call's pointers")]

use half::f16;

use super::{BATCH, Call, Kernel, Sums};
use crate::kernels::spmm_f32::widen;
use crate::weight::{Number, SparseRows, TILE};

/// Calls `dot` for each row and vector of a tile, a block of columns after the other, and finishes the sums. What an index
/// names is `W` columns, one or four.
///
/// # Safety
/// What [`Kernel`] asks; `dot(x, columns, values)` reads `x` at the columns only.
#[inline]
pub(super) unsafe fn walk<const W: usize, U>(
    call: &Call<'_, SparseRows<'_, U>>,
    dot: impl Fn(*const f32, &[u8], &[U]) -> f32,
) {
    let m = call.weight.m();
    debug_assert!((1..=BATCH).contains(&call.n));
    for t in call.tiles.0..call.tiles.1 {
        let rows = t * TILE..m.min((t + 1) * TILE);
        let mut sums: Sums = [[0.0; TILE]; BATCH];
        for b in 0..call.weight.blocks() {
            let block = call.weight.at(b);
            for (s, sums) in sums[..call.n].iter_mut().enumerate() {
                // SAFETY: a vector of the call, and a block within its `k` columns.
                let x = unsafe { call.vector(s).add(block.k0 * W) };
                let mut start = block.starts[t] as usize;
                for (&count, sum) in block.counts[rows.clone()].iter().zip(sums) {
                    let row = start..start + usize::from(count);
                    *sum += dot(x, &block.indices[row.clone()], &block.values[row]);
                    start += usize::from(count);
                }
            }
        }
        for (s, sums) in sums[..call.n].iter().enumerate() {
            for (r, &sum) in rows.clone().zip(sums) {
                // SAFETY: a row of the tile.
                unsafe { call.finish(s, r, sum) };
            }
        }
    }
}

/// # Safety
/// What [`Kernel`] asks.
#[inline]
unsafe fn run<T: Number>(call: &Call<'_, SparseRows<'_, T>>, widen: impl Fn(T) -> f32) {
    let dot = |x: *const f32, columns: &[u8], values: &[T]| {
        // SAFETY: `sparse_starts` has checked that a column is one of the block.
        let product = |column: u8, value: T| widen(value) * unsafe { *x.add(usize::from(column)) };
        let ((columns, more_columns), (values, more_values)) =
            (columns.as_chunks::<4>(), values.as_chunks::<4>());
        let mut sums = [0.0; 4];
        for (columns, values) in columns.iter().zip(values) {
            for i in 0..4 {
                sums[i] += product(columns[i], values[i]);
            }
        }
        for (i, (&column, &value)) in more_columns.iter().zip(more_values).enumerate() {
            sums[i] += product(column, value);
        }
        (sums[0] + sums[1]) + (sums[2] + sums[3])
    };
    // SAFETY: the caller's promise.
    unsafe { walk::<1, T>(call, dot) }
}

#[allow(clippy::unnecessary_wraps, reason = "the type of a table's entry")]
pub(super) fn get_f32() -> Option<Kernel<f32>> {
    // SAFETY: the caller's promise.
    Some(Kernel::Rows(|call| unsafe { run(call, |value| value) }))
}

#[allow(clippy::unnecessary_wraps, reason = "the type of a table's entry")]
pub(super) fn get_f16() -> Option<Kernel<f16>> {
    // SAFETY: the caller's promise.
    Some(Kernel::Rows(|call| unsafe { run(call, widen) }))
}

#[allow(clippy::unnecessary_wraps, reason = "the type of a table's entry")]
pub(super) fn get_i8() -> Option<Kernel<i8>> {
    // SAFETY: the caller's promise.
    Some(Kernel::Rows(|call| unsafe { run(call, f32::from) }))
}
