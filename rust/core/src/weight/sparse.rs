//! Sparse weights as kernels read them: rows, or units of them, in blocks of columns.

use super::{QUAD, TILE};
use crate::error::{Result, ensure};

/// The most columns a sparse block can have: an index is one byte.
pub const BLOCK: usize = 256;

/// What an index of a sparse matrix names: so many rows by so many columns, whose values lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Rows, counted from the first: a *stack*.
    pub height: usize,
    /// Columns, counted from the first.
    pub width: usize,
}

impl Unit {
    /// A value.
    pub const ONE: Unit = Unit::stack(1);
    /// Four columns of a row, as a four-way dot product takes them.
    pub const FOUR: Unit = Unit { height: 1, width: QUAD };
    /// Those there are; stacks tallest first.
    pub const ALL: [Unit; 5] = [Unit::stack(16), Unit::stack(4), Unit::stack(2), Unit::FOUR, Unit::ONE];

    /// Rows of a column.
    pub const fn stack(height: usize) -> Unit {
        Unit { height, width: 1 }
    }

    /// Values.
    pub const fn size(self) -> usize {
        self.height * self.width
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

/// A sparse matrix `(m, k)`, its columns cut into blocks of at most 256 so that an index is one byte.
///
/// Where `T` is an array, it is a [`Unit`] of the weight: either a row is a stack of rows, and `m` counts stacks, or a column
/// is four columns, and `k` and `block` count fours. Blocks follow each other; within a block, rows do; within a row, non-zeros in ascending column order. `counts` is
/// `[blocks][m]`, `indices` (relative to the block's first column) and `values` have one entry a non-zero. A row of a
/// block holds at most 255 non-zeros.
#[derive(Clone, Debug)]
pub struct SparseRows<'a, T> {
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) block: usize,
    pub(super) counts: &'a [u8],
    pub(super) indices: &'a [u8],
    pub(super) values: &'a [T],
    pub(super) starts: &'a [u32],
}

/// Where each group of [`TILE`] rows of each block starts among the non-zeros: `[blocks][⌈m/16⌉ + 1]`.
///
/// This is the full check of a sparse matrix's index arrays; [`SparseRows::new`] takes its result as the proof.
///
/// # Errors
/// [`Error::Format`](crate::error::Error::Format) where counts do not add up, or an index is out of its block or not
/// above the one before.
pub fn sparse_starts(m: usize, k: usize, block: usize, counts: &[u8], indices: &[u8]) -> Result<Vec<u32>> {
    ensure!(
        (1..=BLOCK).contains(&block),
        Format,
        "sparse weight: a block of {block} columns is not in 1..={BLOCK}"
    );
    ensure!(i32::try_from(k).is_ok(), Format, "sparse weight: {k} columns do not fit in 31 bits");
    let blocks = k.div_ceil(block);
    ensure!(
        blocks.checked_mul(m) == Some(counts.len()),
        Format,
        "sparse weight of {m} x {k}: got {} counts, expected {blocks} blocks of {m} rows",
        counts.len()
    );
    ensure!(
        u32::try_from(indices.len()).is_ok(),
        Format,
        "sparse weight: {} non-zeros do not fit in 32 bits",
        indices.len()
    );
    let mut starts = Vec::with_capacity(blocks * (m.div_ceil(TILE) + 1));
    let mut at = 0usize;
    for b in 0..blocks {
        let width = block.min(k - b * block);
        for (r, &count) in counts[b * m..][..m].iter().enumerate() {
            if r % TILE == 0 {
                starts.push(at as u32);
            }
            let row = indices.get(at..at + usize::from(count));
            let sound = row.is_some_and(|row| {
                row.windows(2).all(|pair| pair[0] < pair[1])
                    && row.last().is_none_or(|&last| usize::from(last) < width)
            });
            ensure!(
                sound,
                Format,
                "sparse weight: row {r} of block {b} has indices that are missing, repeated or out of it"
            );
            at += usize::from(count);
        }
        starts.push(at as u32);
    }
    ensure!(
        at == indices.len(),
        Format,
        "sparse weight: counts add up to {at}, but there are {} indices",
        indices.len()
    );
    Ok(starts)
}

/// One block of columns of a sparse matrix.
#[derive(Clone, Copy, Debug)]
pub struct SparseBlock<'a, T> {
    /// First column.
    pub k0: usize,
    /// Non-zeros of each row.
    pub counts: &'a [u8],
    /// Where each group of sixteen rows starts in `indices` and `values`, and one past the last.
    pub starts: &'a [u32],
    /// Columns, relative to `k0`; of the whole matrix, addressed by `starts`.
    pub indices: &'a [u8],
    /// Values, parallel to `indices`.
    pub values: &'a [T],
}

impl<'a, T> SparseRows<'a, T> {
    /// A matrix over parts that [`sparse_starts`] has checked; `starts` is what it returned for them.
    ///
    /// # Errors
    /// [`Error::Format`](crate::error::Error::Format) where there is not one value an index.
    pub fn new(
        m: usize,
        k: usize,
        block: usize,
        counts: &'a [u8],
        indices: &'a [u8],
        starts: &'a [u32],
        values: &'a [T],
    ) -> Result<Self> {
        ensure!(
            values.len() == indices.len(),
            Format,
            "sparse weight: {} values for {} indices",
            values.len(),
            indices.len()
        );
        debug_assert_eq!(starts, sparse_starts(m, k, block, counts, indices)?);
        Ok(SparseRows { m, k, block, counts, indices, values, starts })
    }

    /// Rows.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of a block; the last may have fewer.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Non-zeros stored.
    pub fn nnz(&self) -> usize {
        self.indices.len()
    }

    /// Blocks of columns.
    pub fn blocks(&self) -> usize {
        self.k.div_ceil(self.block)
    }

    /// The block that starts at column `b * block()`.
    pub fn at(&self, b: usize) -> SparseBlock<'a, T> {
        let groups = self.m.div_ceil(TILE) + 1;
        SparseBlock {
            k0: b * self.block,
            counts: &self.counts[b * self.m..][..self.m],
            starts: &self.starts[b * groups..][..groups],
            indices: self.indices,
            values: self.values,
        }
    }
}

/// The non-zeros of a row-major `(m, k)` matrix as `(counts, indices, values)` of [`SparseRows`].
///
/// None where a row of a block has more non-zeros than a count can say: such a matrix is not sparse.
///
/// # Panics
/// Where `rows` is not of that size.
pub fn sparse<T: Copy + Default + PartialEq>(
    m: usize,
    k: usize,
    block: usize,
    rows: &[T],
) -> Option<(Vec<u8>, Vec<u8>, Vec<T>)> {
    units(m, k, (Unit::ONE, block), rows)
}

/// The same of units, those at the lower edge filled up with zeros: values are `[indices][height][width]`.
///
/// # Panics
/// Where `rows` is not of that size, or `k` or `block` is no multiple of a unit's width.
pub fn units<T: Copy + Default + PartialEq>(
    m: usize,
    k: usize,
    (unit, block): (Unit, usize),
    rows: &[T],
) -> Option<(Vec<u8>, Vec<u8>, Vec<T>)> {
    let Unit { height, width } = unit;
    assert_eq!(rows.len(), m * k, "a row-major matrix of {m} x {k}");
    assert!(k.is_multiple_of(width) && block.is_multiple_of(width), "columns are whole units of {unit}");
    let (mut counts, mut indices, mut values) = (vec![], vec![], vec![]);
    for k0 in (0..k).step_by(block) {
        let columns = block.min(k - k0);
        for r in (0..m).step_by(height) {
            let before = indices.len();
            for c in (0..columns).step_by(width) {
                let row = |r: usize| {
                    (c..c + width).map(move |c| if r < m { rows[r * k + k0 + c] } else { T::default() })
                };
                let there = (r..r + height).flat_map(row);
                if there.clone().any(|value| value != T::default()) {
                    indices.push((c / width) as u8);
                    values.extend(there);
                }
            }
            counts.push(u8::try_from(indices.len() - before).ok()?);
        }
    }
    Some((counts, indices, values))
}

/// Values that stacks of `height` rows of a row-major `(m, k)` matrix hold.
pub(super) fn stacked<T: Default + PartialEq>(m: usize, k: usize, height: usize, rows: &[T]) -> usize {
    let mut columns = 0;
    for stack in rows.chunks((height * k).max(1)).take(m.div_ceil(height)) {
        columns += (0..k).filter(|&c| stack[c..].iter().step_by(k).any(|v| *v != T::default())).count();
    }
    columns * height
}

/// Fours of columns of a row-major matrix in which there is a value; its rows are whole fours.
pub(super) fn fours<T: Default + PartialEq>(rows: &[T]) -> usize {
    rows.as_chunks::<QUAD>().0.iter().filter(|four| four.iter().any(|value| *value != T::default())).count()
}
