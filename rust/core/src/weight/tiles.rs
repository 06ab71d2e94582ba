//! Dense weights as kernels read them: tiles of sixteen rows.

use crate::error::{Result, ensure};

/// Rows of a dense weight that are stored together, one value of each for every `k`.
pub const TILE: usize = 16;

/// A dense matrix `(m, k)` as tiles of sixteen rows, `[⌈m/16⌉][k][16]`, the last tile padded with zero rows.
#[derive(Clone, Copy, Debug)]
pub struct Tiles<'a, T> {
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) values: &'a [T],
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
///
/// # Panics
/// Where `rows` is not of that size.
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
#[derive(Clone, Copy, Debug)]
pub struct TilesI8<'a> {
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) values: &'a [i8],
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
