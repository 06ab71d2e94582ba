//! Weights: a structure (dense tiles, sparse rows, two factors) over values (float32, float16, int8).
//!
//! The views here are what kernels read. Each is made by a constructor that checks it in full, so a kernel may trust
//! every count and index without looking again.

use crate::error::{Result, ensure};

/// Rows of a dense weight that are stored together, one value of each for every `k`.
pub const TILE: usize = 16;

/// The most columns a sparse block can have: an index is one byte.
pub const BLOCK: usize = 256;

/// A dense matrix `(m, k)` as tiles of sixteen rows, `[⌈m/16⌉][k][16]`, the last tile padded with zero rows.
#[derive(Clone, Copy, Debug)]
pub struct Tiles<'a, T> {
    m: usize,
    k: usize,
    values: &'a [T],
}

impl<'a, T> Tiles<'a, T> {
    /// Elements that tiles of an `(m, k)` matrix hold, padding included.
    pub fn len_of(m: usize, k: usize) -> Option<usize> {
        m.checked_next_multiple_of(TILE)?.checked_mul(k)
    }

    /// Tiles over `values`.
    ///
    /// # Errors
    /// [`Error::Format`](crate::error::Error::Format) where their number is not that of the padded matrix.
    pub fn new(m: usize, k: usize, values: &'a [T]) -> Result<Self> {
        ensure!(
            Self::len_of(m, k) == Some(values.len()),
            Format,
            "dense weight of {m} x {k}: got {} values, expected whole tiles of {TILE} rows",
            values.len()
        );
        Ok(Tiles { m, k, values })
    }

    /// Rows.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The values, `[⌈m/16⌉][k][16]`.
    pub fn values(&self) -> &'a [T] {
        self.values
    }

    /// The tile that starts at row `16 * tile`, `[k][16]`.
    pub fn tile(&self, tile: usize) -> &'a [T] {
        &self.values[tile * self.k * TILE..][..self.k * TILE]
    }
}

/// Puts a row-major `(m, k)` matrix into tiles.
pub fn tile<T: Copy + Default>(m: usize, k: usize, rows: &[T]) -> Vec<T> {
    assert_eq!(rows.len(), m * k, "a row-major matrix of {m} x {k}");
    let mut tiles = vec![T::default(); m.next_multiple_of(TILE) * k];
    for (r, row) in rows.chunks_exact(k.max(1)).enumerate() {
        let tile = &mut tiles[r / TILE * k * TILE..];
        for (c, &value) in row.iter().enumerate() {
            tile[c * TILE + r % TILE] = value;
        }
    }
    tiles
}

/// Columns of an int8 tile that are stored together, in the order a four-way dot product takes them.
pub const QUAD: usize = 4;

/// A dense int8 matrix `(m, k)` as tiles of sixteen rows by four columns, `[⌈m/16⌉][⌈k/4⌉][16][4]`, padded with zeros.
///
/// Values lie in `[-127, 127]`: kernels may compute a wrong number, nothing worse, from a value of -128.
#[derive(Clone, Copy, Debug)]
pub struct TilesI8<'a> {
    m: usize,
    k: usize,
    values: &'a [i8],
}

impl<'a> TilesI8<'a> {
    /// Bytes that tiles of an `(m, k)` matrix hold, padding included.
    pub fn len_of(m: usize, k: usize) -> Option<usize> {
        m.checked_next_multiple_of(TILE)?.checked_mul(k.checked_next_multiple_of(QUAD)?)
    }

    /// Tiles over `values`.
    ///
    /// # Errors
    /// [`Error::Format`](crate::error::Error::Format) where their number is not that of the padded matrix.
    pub fn new(m: usize, k: usize, values: &'a [i8]) -> Result<Self> {
        ensure!(
            Self::len_of(m, k) == Some(values.len()),
            Format,
            "dense int8 weight of {m} x {k}: got {} values, expected whole tiles of {TILE} rows by {QUAD} columns",
            values.len()
        );
        Ok(TilesI8 { m, k, values })
    }

    /// Rows.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Groups of four columns, the last padded.
    pub fn quads(&self) -> usize {
        self.k.div_ceil(QUAD)
    }

    /// The values, `[⌈m/16⌉][⌈k/4⌉][16][4]`.
    pub fn values(&self) -> &'a [i8] {
        self.values
    }

    /// The tile that starts at row `16 * tile`, `[⌈k/4⌉][16][4]`.
    pub fn tile(&self, tile: usize) -> &'a [i8] {
        let len = self.quads() * TILE * QUAD;
        &self.values[tile * len..][..len]
    }

    /// The sum of each row, which times minus a zero point is what the zero point adds to the row's dot products.
    pub fn row_sums(&self) -> Vec<i32> {
        let row = |r: usize| {
            let quads = self.tile(r / TILE).chunks_exact(TILE * QUAD);
            quads.flat_map(|quad| &quad[r % TILE * QUAD..][..QUAD]).map(|&w| i32::from(w)).sum()
        };
        (0..self.m).map(row).collect()
    }
}

/// Puts a row-major int8 `(m, k)` matrix into the tiles of [`TilesI8`].
///
/// # Panics
/// Where `rows` is not of that size.
pub fn tile_i8(m: usize, k: usize, rows: &[i8]) -> Vec<i8> {
    assert_eq!(rows.len(), m * k, "a row-major matrix of {m} x {k}");
    let quads = k.div_ceil(QUAD);
    let mut tiles = vec![0; m.next_multiple_of(TILE) * quads * QUAD];
    for (r, row) in rows.chunks_exact(k.max(1)).enumerate() {
        for (c, &value) in row.iter().enumerate() {
            tiles[((r / TILE * quads + c / QUAD) * TILE + r % TILE) * QUAD + c % QUAD] = value;
        }
    }
    tiles
}

/// A sparse matrix `(m, k)`, its columns cut into blocks of at most 256 so that an index is one byte.
///
/// Blocks follow each other; within a block, rows do; within a row, non-zeros in ascending column order. `counts` is
/// `[blocks][m]`, `indices` (relative to the block's first column) and `values` have one entry a non-zero. A row of a
/// block holds at most 255 non-zeros.
#[derive(Clone, Debug)]
pub struct SparseRows<'a, T> {
    m: usize,
    k: usize,
    block: usize,
    counts: &'a [u8],
    indices: &'a [u8],
    values: &'a [T],
    starts: &'a [u32],
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
pub fn sparse<T: Copy + Default + PartialEq>(
    m: usize,
    k: usize,
    block: usize,
    rows: &[T],
) -> Option<(Vec<u8>, Vec<u8>, Vec<T>)> {
    assert_eq!(rows.len(), m * k, "a row-major matrix of {m} x {k}");
    let (mut counts, mut indices, mut values) = (vec![], vec![], vec![]);
    for k0 in (0..k).step_by(block) {
        let width = block.min(k - k0);
        for r in 0..m {
            let before = values.len();
            for (c, &value) in rows[r * k + k0..][..width].iter().enumerate() {
                if value != T::default() {
                    indices.push(c as u8);
                    values.push(value);
                }
            }
            counts.push(u8::try_from(values.len() - before).ok()?);
        }
    }
    Some((counts, indices, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_hold_every_row_once() {
        let rows: Vec<i32> = (1..=17 * 3).collect();
        let tiles = tile(17, 3, &rows);
        let view = Tiles::new(17, 3, &tiles).unwrap();
        for r in 0..17 {
            for c in 0..3 {
                assert_eq!(view.tile(r / TILE)[c * TILE + r % TILE], rows[r * 3 + c]);
            }
        }
        assert_eq!(tiles.iter().filter(|&&v| v != 0).count(), rows.len());
        assert!(Tiles::new(33, 3, &tiles).is_err());
    }

    #[test]
    fn int8_tiles_hold_every_value_once() {
        let rows: Vec<i8> = (0..17 * 7).map(|i| (i % 127) as i8 + 1).collect();
        let tiles = tile_i8(17, 7, &rows);
        let view = TilesI8::new(17, 7, &tiles).unwrap();
        for r in 0..17 {
            for c in 0..7 {
                let at = (c / QUAD * TILE + r % TILE) * QUAD + c % QUAD;
                assert_eq!(view.tile(r / TILE)[at], rows[r * 7 + c]);
            }
        }
        assert_eq!(tiles.iter().filter(|&&v| v != 0).count(), rows.len());
        let sums: Vec<i32> = rows.chunks(7).map(|row| row.iter().map(|&w| i32::from(w)).sum()).collect();
        assert_eq!(view.row_sums(), sums);
        assert!(TilesI8::new(33, 7, &tiles).is_err());
        assert_eq!(TilesI8::len_of(usize::MAX, 4), None);
    }

    #[test]
    fn sparse_keeps_the_non_zeros() {
        let rows: Vec<f32> = (0..5 * 300).map(|i| if i % 7 == 0 { i as f32 + 1.0 } else { 0.0 }).collect();
        let (counts, indices, values) = sparse(5, 300, 256, &rows).unwrap();
        let starts = sparse_starts(5, 300, 256, &counts, &indices).unwrap();
        let view = SparseRows::new(5, 300, 256, &counts, &indices, &starts, &values).unwrap();
        let mut back = vec![0.0; rows.len()];
        for b in 0..view.blocks() {
            let block = view.at(b);
            let mut at = block.starts[0] as usize;
            for r in 0..5 {
                for _ in 0..block.counts[r] {
                    back[r * 300 + block.k0 + usize::from(indices[at])] = values[at];
                    at += 1;
                }
            }
        }
        assert_eq!(back, rows);
    }

    #[test]
    fn hostile_index_arrays_are_refused() {
        let refused = |counts: &[u8], indices: &[u8]| sparse_starts(2, 10, 256, counts, indices).is_err();
        assert!(!refused(&[1, 2], &[0, 3, 9]));
        assert!(refused(&[1, 2], &[0, 3]), "fewer indices than counted");
        assert!(refused(&[1, 2], &[0, 3, 9, 9]), "more indices than counted");
        assert!(refused(&[1, 2], &[10, 3, 9]), "index beyond the last column");
        assert!(refused(&[1, 2], &[0, 9, 3]), "descending");
        assert!(refused(&[1, 2], &[0, 3, 3]), "repeated");
        assert!(refused(&[1], &[0]), "a count missing");
        assert!(sparse_starts(2, 10, 0, &[], &[]).is_err(), "a block of no columns");
    }
}
