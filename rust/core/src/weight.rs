//! Weights: a structure (dense tiles, sparse rows, two factors) over values (float32, float16, int8).
//!
//! A [`Tensor`] is what a file holds: plain numbers, or a [`Matrix`] in one of its forms. The views ([`Tiles`],
//! [`SparseRows`]) are what kernels read. Each is made by a constructor that checks it in full, so a kernel may trust every
//! count and index without looking again.

use crate::error::{Result, ensure};
use crate::tensor::{DType, Shape, elements};
use half::f16;
use std::any::Any;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

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

/// Rows of a stack, tallest first: rows that have their non-zeros in the same columns share an index.
pub const HEIGHTS: [usize; 4] = [16, 4, 2, 1];

/// A sparse matrix `(m, k)`, its columns cut into blocks of at most 256 so that an index is one byte.
///
/// Where `T` is an array, a row is a *stack* of as many rows of the weight, and `m` counts stacks. Blocks follow each other; within a block, rows do; within a row, non-zeros in ascending column order. `counts` is
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
    stacks(m, k, (1, block), rows)
}

/// The same of stacks of `height` rows, the last filled up with zeros: values are `[indices][height]`.
///
/// # Panics
/// Where `rows` is not of that size.
pub fn stacks<T: Copy + Default + PartialEq>(
    m: usize,
    k: usize,
    (height, block): (usize, usize),
    rows: &[T],
) -> Option<(Vec<u8>, Vec<u8>, Vec<T>)> {
    assert_eq!(rows.len(), m * k, "a row-major matrix of {m} x {k}");
    let (mut counts, mut indices, mut values) = (vec![], vec![], vec![]);
    for k0 in (0..k).step_by(block) {
        let width = block.min(k - k0);
        for r in (0..m).step_by(height) {
            let before = indices.len();
            for c in 0..width {
                let column = (r..r + height).map(|r| if r < m { rows[r * k + k0 + c] } else { T::default() });
                if column.clone().any(|value| value != T::default()) {
                    indices.push(c as u8);
                    values.extend(column);
                }
            }
            counts.push(u8::try_from(indices.len() - before).ok()?);
        }
    }
    Some((counts, indices, values))
}

/// Values that stacks of `height` rows of a row-major `(m, k)` matrix hold.
fn stacked<T: Default + PartialEq>(m: usize, k: usize, height: usize, rows: &[T]) -> usize {
    let mut columns = 0;
    for stack in rows.chunks((height * k).max(1)).take(m.div_ceil(height)) {
        columns += (0..k).filter(|&c| stack[c..].iter().step_by(k).any(|v| *v != T::default())).count();
    }
    columns * height
}

/// What [`Bytes`] are parts of: a mapped file, or a buffer.
pub trait Owner: Send + Sync {
    /// All of it.
    fn bytes(&self) -> &[u8];

    /// Says that a part will hardly be read again, so that a map need not keep its pages in memory. It stays readable.
    fn release(&self, start: usize, len: usize) {
        let _ = (start, len);
    }
}

/// Bytes that somebody owns: a part of a mapped file, or of a buffer. Starts on a cache line.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn Owner>,
    start: usize,
    len: usize,
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.len)
    }
}

/// A cache line; a vector of these is a buffer that starts on one.
#[derive(Clone, Copy, Debug, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([u8; 64]);

struct Lines(Vec<Line>);

impl Owner for Lines {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Owner for Bytes {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn release(&self, start: usize, len: usize) {
        self.owner.release(self.start + start, len);
    }
}

impl Bytes {
    /// The range `start..start + len` of `owner`.
    ///
    /// # Errors
    /// [`Error::Format`](crate::error::Error::Format) where it is not all there, or not aligned to a cache line.
    pub fn part(owner: Arc<dyn Owner>, start: usize, len: usize) -> Result<Bytes> {
        let whole = owner.bytes();
        let part = start.checked_add(len).and_then(|end| whole.get(start..end));
        let aligned = part.is_some_and(|part| len == 0 || part.as_ptr().addr().is_multiple_of(64));
        ensure!(
            aligned,
            Format,
            "bytes {start}..+{len} are outside the {} there are, or misaligned",
            whole.len()
        );
        Ok(Bytes { owner, start, len })
    }

    /// A copy.
    pub fn copy(bytes: &[u8]) -> Bytes {
        let mut lines = vec![Line([0; 64]); bytes.len().div_ceil(64)];
        bytemuck::cast_slice_mut::<_, u8>(&mut lines)[..bytes.len()].copy_from_slice(bytes);
        Bytes { owner: Arc::new(Lines(lines)), start: 0, len: bytes.len() }
    }
}

impl Bytes {
    /// Lets go of the memory behind them, where they are mapped: what needs them again reads them from the file.
    pub fn release(&self) {
        self.owner.release(self.start, self.len);
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.owner.bytes()[self.start..][..self.len]
    }
}

/// A matrix's values: one number for each place of its structure.
#[derive(Clone, Debug)]
pub struct Values {
    dtype: DType,
    bytes: Bytes,
}

impl Values {
    /// Values of type float32, float16 or int8 over `bytes`.
    ///
    /// # Errors
    /// [`Error::Format`](crate::error::Error::Format) where the type is another or the bytes are not whole numbers of it.
    pub fn new(dtype: DType, bytes: Bytes) -> Result<Values> {
        ensure!(
            matches!(dtype, DType::Float32 | DType::Float16 | DType::Int8),
            Format,
            "weight values: {dtype} is not float32, float16 or int8"
        );
        ensure!(
            bytes.len().is_multiple_of(dtype.size()),
            Format,
            "weight values: {} bytes are not whole {dtype} numbers",
            bytes.len()
        );
        Ok(Values { dtype, bytes })
    }

    /// A copy of numbers.
    pub fn copy<T: Number>(values: &[T]) -> Values {
        Values { dtype: T::DTYPE, bytes: Bytes::copy(bytemuck::cast_slice(values)) }
    }

    /// Their type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many are not zero.
    fn non_zeros(&self) -> usize {
        match self.dtype {
            DType::Int8 => self.of::<i8>().iter().filter(|&&v| v != 0).count(),
            DType::Float16 => self.of::<f16>().iter().filter(|&&v| v != f16::ZERO).count(),
            _ => self.of::<f32>().iter().filter(|&&v| v != 0.0).count(),
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The numbers.
    ///
    /// # Panics
    /// Where `T` is not their type.
    pub fn of<T: Number>(&self) -> &[T] {
        assert_eq!(self.dtype, T::DTYPE, "values are read as what they are");
        bytemuck::cast_slice(&self.bytes)
    }
}

/// A type that weight values have.
pub trait Number: bytemuck::Pod + Default + PartialEq + Send + Sync {
    /// Its name.
    const DTYPE: DType;
}
impl Number for f32 {
    const DTYPE: DType = DType::Float32;
}
impl Number for f16 {
    const DTYPE: DType = DType::Float16;
}
impl Number for i8 {
    const DTYPE: DType = DType::Int8;
}

/// Plain numbers as torch lays them out: biases, tables, constants, depthwise filters.
#[derive(Clone, Debug)]
pub struct Plain {
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Shape,
    /// The elements, last dimension fastest.
    pub bytes: Bytes,
}

impl Plain {
    /// A tensor over `bytes`.
    ///
    /// # Errors
    /// [`Error::Format`](crate::error::Error::Format) where they are not those of the shape.
    pub fn new(dtype: DType, shape: Shape, bytes: Bytes) -> Result<Plain> {
        let want = elements(&shape).ok().and_then(|n| n.checked_mul(dtype.size()));
        ensure!(want == Some(bytes.len()), Format, "tensor {shape:?} of {dtype}: got {} bytes", bytes.len());
        Ok(Plain { dtype, shape, bytes })
    }

    /// The elements.
    ///
    /// # Panics
    /// Where `T` is not of the size of the tensor's type.
    pub fn of<T: bytemuck::Pod>(&self) -> &[T] {
        assert_eq!(size_of::<T>(), self.dtype.size(), "elements are read as what they are");
        bytemuck::cast_slice(&self.bytes)
    }
}

/// How a matrix's non-trivial values are arranged.
#[derive(Clone, Debug)]
pub enum Structure {
    /// Tiles of sixteen rows, for each group its own: [`Tiles`]; int8 values as `[⌈m/16⌉][⌈k/4⌉][16][4]`.
    Dense(Values),
    /// Non-zeros only: [`SparseRows`].
    Sparse(Sparse),
    /// The product `u · v` of an `(m, r)` and an `(r, k)` matrix.
    LowRank {
        /// The left factor.
        u: Arc<Matrix>,
        /// The right factor.
        v: Arc<Matrix>,
    },
}

/// The parts of [`SparseRows`], owned. Index arrays are copies: they were checked, and a mapped file can change.
#[derive(Clone, Debug)]
pub struct Sparse {
    height: usize,
    /// Values that are not zero; a stack may hold zeros.
    nnz: usize,
    block: usize,
    counts: Vec<u8>,
    indices: Vec<u8>,
    starts: Vec<u32>,
    values: Values,
}

impl Sparse {
    /// Rows of a stack, one of [`HEIGHTS`]; 1 where each row has indices of its own.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns of a block.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Non-zeros of each stack of each block.
    pub fn counts(&self) -> &[u8] {
        &self.counts
    }

    /// Columns of the non-zeros.
    pub fn indices(&self) -> &[u8] {
        &self.indices
    }

    /// Values of the non-zeros, those of a stack side by side: `[indices][height]`.
    pub fn values(&self) -> &Values {
        &self.values
    }
}

/// A weight matrix `(m, k)`, or `groups` of them below each other: `m` counts the rows of all.
#[derive(Debug)]
pub struct Matrix {
    m: usize,
    k: usize,
    groups: usize,
    structure: Structure,
    scales: Option<Vec<f32>>,
    forms: Mutex<Vec<Form>>,
}

/// A form that a kernel asked for, kept for its next plan.
#[derive(Clone, Debug)]
struct Form {
    name: &'static str,
    value: Arc<dyn Any + Send + Sync>,
    bytes: usize,
}

impl Matrix {
    /// A matrix of parts.
    ///
    /// # Errors
    /// [`Error::Format`](crate::error::Error::Format) where they do not fit each other.
    pub fn new(
        m: usize,
        k: usize,
        groups: usize,
        structure: Structure,
        scales: Option<Vec<f32>>,
    ) -> Result<Matrix> {
        ensure!(
            groups > 0 && m.is_multiple_of(groups),
            Format,
            "weight of {m} rows: cannot be {groups} groups"
        );
        let fits = elements(&[m, k, size_of::<f32>()]).is_ok();
        ensure!(fits, Format, "weight of {m} x {k} does not fit in memory");
        if let Some(scales) = &scales {
            ensure!(scales.len() == m, Format, "weight of {m} rows: got {} scales", scales.len());
        }
        match &structure {
            Structure::Dense(values) => {
                let depth = if values.dtype() == DType::Int8 { k.next_multiple_of(4) } else { k };
                let want = Tiles::<u8>::len_of(m / groups, depth).and_then(|n| n.checked_mul(groups));
                ensure!(
                    want == Some(values.len()),
                    Format,
                    "dense weight of {m} x {k} in {groups} groups: got {} values",
                    values.len()
                );
            }
            Structure::Sparse(sparse) => ensure!(
                groups == 1 || (m / groups).is_multiple_of(TILE),
                Format,
                "sparse weight of {m} rows in {groups} groups: a group's rows are no multiple of {TILE}, {} non-zeros",
                sparse.indices.len()
            ),
            Structure::LowRank { u, v } => ensure!(
                (u.m, v.k, u.k) == (m, k, v.m)
                    && (groups, u.groups, v.groups) == (1, 1, 1)
                    && ![u, v].iter().any(|part| matches!(part.structure, Structure::LowRank { .. }))
                    && scales.is_none(),
                Format,
                "low-rank weight of {m} x {k}: the factors are {} x {} and {} x {}, expected dense or sparse ones that fit",
                u.m,
                u.k,
                v.m,
                v.k
            ),
        }
        Ok(Matrix { m, k, groups, structure, scales, forms: Mutex::new(vec![]) })
    }

    /// A sparse matrix over parts of a file, checked in full.
    ///
    /// # Errors
    /// [`Error::Format`](crate::error::Error::Format) where index arrays are not those of such a matrix.
    pub fn sparse(
        (m, k, groups): (usize, usize, usize),
        (height, block): (usize, usize),
        counts: Vec<u8>,
        indices: Vec<u8>,
        values: Values,
        scales: Option<Vec<f32>>,
    ) -> Result<Matrix> {
        ensure!(
            HEIGHTS.contains(&height),
            Format,
            "sparse weight of {m} x {k}: stacks of {height} rows, expected one of {HEIGHTS:?}"
        );
        let starts = sparse_starts(m.div_ceil(height), k, block, &counts, &indices)?;
        ensure!(
            indices.len().checked_mul(height) == Some(values.len()),
            Format,
            "sparse weight of {m} x {k}: {} values for {} indices of {height} rows",
            values.len(),
            indices.len()
        );
        let nnz = if height == 1 { indices.len() } else { values.non_zeros() };
        let parts = Sparse { height, nnz, block, counts, indices, starts, values };
        Matrix::new(m, k, groups, Structure::Sparse(parts), scales)
    }

    /// The best form of a row-major matrix: sparse where that is smaller, dense otherwise; in stacks where those are nearly
    /// full. Integers without scales, which integer kernels multiply, are never stacked.
    ///
    /// # Errors
    /// [`Error::Format`](crate::error::Error::Format) where rows are not whole groups.
    pub fn pack<T: Number>(
        (m, k, groups): (usize, usize, usize),
        rows: &[T],
        scales: Option<Vec<f32>>,
    ) -> Result<Matrix> {
        let non_zeros = rows.iter().filter(|&&value| value != T::default()).count();
        let counts = k.div_ceil(BLOCK) * m;
        let smaller = non_zeros * (size_of::<T>() + 1) + counts < size_of_val(rows);
        let fits = groups == 1 || (m / groups).is_multiple_of(TILE);
        if smaller && fits && m.min(k) > 1 {
            let single = T::DTYPE == DType::Int8 && scales.is_none();
            // Of what stacks store nine tenths have to be there, as in XNNPACK's choice of its blocks.
            let full = |&height: &usize| {
                height == 1 || !single && m >= height && non_zeros * 10 >= stacked(m, k, height, rows) * 9
            };
            let height = HEIGHTS.into_iter().find(full).unwrap_or(1);
            // A row of 256 non-zeros does not fit a count: then blocks of half the width always do.
            let parts = [BLOCK, BLOCK / 2]
                .into_iter()
                .find_map(|block| Some((block, stacks(m, k, (height, block), rows)?)));
            if let Some((block, (counts, indices, values))) = parts {
                let values = Values::copy(&values);
                return Matrix::sparse((m, k, groups), (height, block), counts, indices, values, scales);
            }
        }
        Matrix::dense((m, k, groups), rows, scales)
    }

    /// The dense form of a row-major matrix.
    ///
    /// # Errors
    /// [`Error::Format`](crate::error::Error::Format) where rows are not whole groups.
    pub fn dense<T: Number>(
        (m, k, groups): (usize, usize, usize),
        rows: &[T],
        scales: Option<Vec<f32>>,
    ) -> Result<Matrix> {
        ensure!(
            groups > 0 && m.is_multiple_of(groups),
            Format,
            "weight of {m} rows: cannot be {groups} groups"
        );
        let mut tiles = Vec::new();
        for rows in rows.chunks_exact((m / groups * k).max(1)) {
            tiles.extend(match T::DTYPE {
                DType::Int8 => {
                    bytemuck::allocation::cast_vec(tile_i8(m / groups, k, bytemuck::cast_slice(rows)))
                }
                _ => tile(m / groups, k, rows),
            });
        }
        Matrix::new(m, k, groups, Structure::Dense(Values::copy(&tiles)), scales)
    }

    /// Rows, of all groups together.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Groups of rows, each with its own `k` inputs.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The arrangement of the values.
    pub fn structure(&self) -> &Structure {
        &self.structure
    }

    /// What each row's sum is multiplied by, where values are integers that stand for floats.
    pub fn scales(&self) -> Option<&[f32]> {
        self.scales.as_deref()
    }

    /// Type of the values; of a low-rank weight, of its left factor.
    pub fn dtype(&self) -> DType {
        match &self.structure {
            Structure::Dense(values) => values.dtype(),
            Structure::Sparse(sparse) => sparse.values.dtype(),
            Structure::LowRank { u, .. } => u.dtype(),
        }
    }

    /// The dense tiles of a group, of float32 or float16 values.
    ///
    /// # Panics
    /// Where the matrix is not dense, or `T` is not its values' type.
    pub fn tiles<T: Number>(&self, group: usize) -> Tiles<'_, T> {
        let Structure::Dense(values) = &self.structure else { panic!("a dense matrix is read as tiles") };
        let (m, k) = (self.m / self.groups, self.k);
        let len = m.next_multiple_of(TILE) * k;
        Tiles { m, k, values: &values.of::<T>()[group * len..][..len] }
    }

    /// The dense tiles of a group, of int8 values.
    ///
    /// # Panics
    /// Where the matrix is not dense or not int8.
    pub fn tiles_i8(&self, group: usize) -> TilesI8<'_> {
        let Structure::Dense(values) = &self.structure else { panic!("a dense matrix is read as tiles") };
        let (m, k) = (self.m / self.groups, self.k);
        let len = m.next_multiple_of(TILE) * k.next_multiple_of(QUAD);
        TilesI8 { m, k, values: &values.of::<i8>()[group * len..][..len] }
    }

    /// The sparse rows of all groups.
    ///
    /// # Panics
    /// Where the matrix is not sparse, its rows are stacked, or `T` is not its values' type.
    pub fn rows<T: Number>(&self) -> SparseRows<'_, T> {
        self.over(1, |values| values.of())
    }

    /// The sparse stacks of `H` rows of all groups.
    ///
    /// # Panics
    /// Where the matrix is not sparse, its stacks have another height, or `T` is not its values' type.
    pub fn stacks<T: Number, const H: usize>(&self) -> SparseRows<'_, [T; H]> {
        self.over(H, |values| values.of::<T>().as_chunks::<H>().0)
    }

    fn over<'a, V>(&'a self, height: usize, values: impl Fn(&'a Values) -> &'a [V]) -> SparseRows<'a, V> {
        let Structure::Sparse(sparse) = &self.structure else { panic!("a sparse matrix is read as rows") };
        assert_eq!(sparse.height, height, "stacks are read as what they are");
        SparseRows {
            m: self.m.div_ceil(height),
            k: self.k,
            block: sparse.block,
            counts: &sparse.counts,
            indices: &sparse.indices,
            values: values(&sparse.values),
            starts: &sparse.starts,
        }
    }

    /// Rows of a stack; 1 where the matrix is not sparse.
    pub fn height(&self) -> usize {
        if let Structure::Sparse(sparse) = &self.structure { sparse.height } else { 1 }
    }

    /// A stacked matrix with indices for each row, without the zeros that stacks hold; a copy of any other sparse one.
    ///
    /// # Panics
    /// Where the matrix is not sparse, or `T` is not its values' type.
    #[must_use]
    pub fn unstacked<T: Number>(&self) -> Matrix {
        let Structure::Sparse(sparse) = &self.structure else { panic!("a sparse matrix has stacks") };
        let (height, stored) = (sparse.height, sparse.values.of::<T>());
        let (mut counts, mut indices, mut values) = (vec![], vec![], vec![]);
        let stacks = self.m.div_ceil(height);
        let mut start = 0;
        for (i, &count) in sparse.counts.iter().enumerate() {
            let places = start..start + usize::from(count);
            for r in 0..height.min(self.m - i % stacks * height) {
                let before = indices.len();
                for at in places.clone() {
                    let value = stored[at * height + r];
                    if value != T::default() {
                        indices.push(sparse.indices[at]);
                        values.push(value);
                    }
                }
                counts.push((indices.len() - before) as u8);
            }
            start = places.end;
        }
        let (shape, scales) = ((self.m, self.k, self.groups), self.scales.clone());
        Matrix::sparse(shape, (1, sparse.block), counts, indices, Values::copy(&values), scales)
            .expect("rows of a checked matrix")
    }

    /// The values as a row-major matrix, zeros included; `u · v` of a low-rank one.
    ///
    /// # Panics
    /// Where `T` is not the values' type, or the matrix is low-rank.
    pub fn to_rows<T: Number>(&self) -> Vec<T> {
        let mut rows = vec![T::default(); self.m * self.k];
        match &self.structure {
            Structure::Dense(_) => {
                for r in 0..self.m {
                    let per_group = self.m / self.groups;
                    let (group, r_in) = (r / per_group, r % per_group);
                    let (tile, lane) = (r_in / TILE, r_in % TILE);
                    let row = &mut rows[r * self.k..][..self.k];
                    if T::DTYPE == DType::Int8 {
                        let tile = self.tiles_i8(group).tile(tile);
                        let row: &mut [i8] = bytemuck::cast_slice_mut(row);
                        row.iter_mut()
                            .enumerate()
                            .for_each(|(c, q)| *q = tile[(c / QUAD * TILE + lane) * QUAD + c % QUAD]);
                    } else {
                        let tile = self.tiles::<T>(group).tile(tile);
                        row.iter_mut()
                            .zip(tile[lane..].iter().step_by(TILE))
                            .for_each(|(value, &w)| *value = w);
                    }
                }
            }
            Structure::Sparse(sparse) => {
                let (height, values) = (sparse.height, sparse.values.of::<T>());
                let stacks = self.m.div_ceil(height);
                let mut places = sparse.indices.iter().zip(values.chunks_exact(height));
                for (i, &count) in sparse.counts.iter().enumerate() {
                    let (k0, first) = (i / stacks * sparse.block, i % stacks * height);
                    for (&index, column) in places.by_ref().take(usize::from(count)) {
                        for (r, &value) in (first..self.m).zip(column) {
                            rows[r * self.k + k0 + usize::from(index)] = value;
                        }
                    }
                }
            }
            Structure::LowRank { .. } => panic!("a low-rank matrix is read by its factors"),
        }
        rows
    }

    /// The dense matrix it stands for, zeros stored and factors multiplied out; none where it is dense already.
    ///
    /// # Errors
    /// As [`Matrix::dense`].
    pub fn expand(&self) -> Result<Option<Matrix>> {
        let shape = (self.m, self.k, self.groups);
        Ok(Some(match &self.structure {
            Structure::Dense(_) => return Ok(None),
            Structure::Sparse(sparse) => match sparse.values.dtype() {
                DType::Int8 => Matrix::dense(shape, &self.to_rows::<i8>(), self.scales.clone()),
                DType::Float16 => Matrix::dense(shape, &self.to_rows::<f16>(), self.scales.clone()),
                _ => Matrix::dense(shape, &self.to_rows::<f32>(), self.scales.clone()),
            }?,
            Structure::LowRank { u, v } => {
                let (left, right) = (u.to_reals(), v.to_reals());
                let mut rows = vec![0.0f32; self.m * self.k];
                for (row, left) in rows.chunks_exact_mut(self.k.max(1)).zip(left.chunks_exact(v.m.max(1))) {
                    for (&factor, right) in left.iter().zip(right.chunks_exact(self.k.max(1))) {
                        row.iter_mut().zip(right).for_each(|(sum, value)| *sum += factor * value);
                    }
                }
                Matrix::dense(shape, &rows, None)?
            }
        }))
    }

    /// The real numbers a matrix that is not low-rank stands for, row-major.
    fn to_reals(&self) -> Vec<f32> {
        let mut rows: Vec<f32> = match self.dtype() {
            DType::Int8 => self.to_rows::<i8>().into_iter().map(f32::from).collect(),
            DType::Float16 => self.to_rows::<f16>().into_iter().map(f32::from).collect(),
            _ => self.to_rows(),
        };
        if let Some(scales) = &self.scales {
            for (row, scale) in rows.chunks_exact_mut(self.k.max(1)).zip(scales) {
                for value in row {
                    *value *= scale;
                }
            }
        }
        rows
    }

    /// Non-zero values it holds, padding not counted; of a low-rank one, those of both factors.
    pub fn nnz(&self) -> usize {
        match &self.structure {
            Structure::Dense(values) => values.non_zeros(),
            Structure::Sparse(sparse) => sparse.nnz,
            Structure::LowRank { u, v } => u.nnz() + v.nnz(),
        }
    }

    /// The matrix in a form some kernel wants, made once: `make` gives it and the bytes it takes.
    ///
    /// The values it was made of are released: a matrix is held once, unless another plan reads them in place.
    ///
    /// Never waits: where another thread is at it (or was, when this process was forked), a form of its own is made.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn form<T: Any + Send + Sync>(
        &self,
        name: &'static str,
        make: impl FnOnce(&Matrix) -> Result<(T, usize)>,
    ) -> Result<Arc<T>> {
        let kept = |forms: &[Form]| {
            let found = forms.iter().find(|form| form.name == name)?;
            Arc::clone(&found.value).downcast::<T>().ok()
        };
        if let Ok(mut forms) = self.forms.try_lock() {
            if let Some(form) = kept(&forms) {
                return Ok(form);
            }
            let (form, bytes) = make(self)?;
            self.release();
            let form = Arc::new(form);
            forms.push(Form { name, value: Arc::clone(&form) as _, bytes });
            return Ok(form);
        }
        Ok(Arc::new(make(self)?.0))
    }

    fn release(&self) {
        match &self.structure {
            Structure::Dense(values) => values.bytes.release(),
            Structure::Sparse(sparse) => sparse.values.bytes.release(),
            Structure::LowRank { .. } => {}
        }
    }

    /// The matrix with its zeros written out, made once; itself where it is dense.
    ///
    /// # Errors
    /// [`Error::Format`](crate::error::Error::Format) where the dense form does not fit in memory.
    pub fn to_dense(self: &Arc<Matrix>) -> Result<Arc<Matrix>> {
        let shape = (self.m, self.k, self.groups);
        let scales = || self.scales.clone();
        match &self.structure {
            Structure::Sparse(sparse) => self.form("dense", |matrix| {
                let dense = match sparse.values.dtype() {
                    DType::Int8 => Matrix::dense(shape, &matrix.to_rows::<i8>(), scales()),
                    DType::Float16 => Matrix::dense(shape, &matrix.to_rows::<f16>(), scales()),
                    _ => Matrix::dense(shape, &matrix.to_rows::<f32>(), scales()),
                }?;
                let bytes = dense.bytes();
                Ok((dense, bytes))
            }),
            Structure::Dense(_) | Structure::LowRank { .. } => Ok(Arc::clone(self)),
        }
    }

    /// Bytes of the forms that were made of it.
    pub fn form_bytes(&self) -> usize {
        self.forms.try_lock().map_or(0, |forms| forms.iter().map(|form| form.bytes).sum())
    }

    /// Bytes it takes: values, indices, counts and scales.
    pub fn bytes(&self) -> usize {
        let own = match &self.structure {
            Structure::Dense(values) => values.bytes().len(),
            Structure::Sparse(s) => s.values.bytes().len() + s.counts.len() + s.indices.len(),
            Structure::LowRank { u, v } => u.bytes() + v.bytes(),
        };
        own + self.scales.as_ref().map_or(0, |scales| scales.len() * 4)
    }

    /// Bytes of values, which are used where the file has them.
    pub fn value_bytes(&self) -> usize {
        match &self.structure {
            Structure::Dense(values) => values.bytes().len(),
            Structure::Sparse(sparse) => sparse.values.bytes().len(),
            // The factors are tensors of their own.
            Structure::LowRank { .. } => 0,
        }
    }

    /// Bytes of what was copied out of the file: counts, indices, scales, and where rows start.
    pub fn copied_bytes(&self) -> usize {
        let index = match &self.structure {
            Structure::Sparse(s) => s.counts.len() + s.indices.len() + s.starts.len() * 4,
            Structure::Dense(_) | Structure::LowRank { .. } => 0,
        };
        index + self.scales.as_ref().map_or(0, |scales| scales.len() * 4)
    }

    /// The form in words: `dense float32`, `sparse int8`, `sparse 4x1 float16`, `low-rank float32`.
    pub fn format(&self) -> String {
        let structure = match &self.structure {
            Structure::Dense(_) => "dense".to_owned(),
            Structure::Sparse(Sparse { height: 1, .. }) => "sparse".to_owned(),
            Structure::Sparse(sparse) => format!("sparse {}x1", sparse.height),
            Structure::LowRank { .. } => "low-rank".to_owned(),
        };
        format!("{structure} {}", self.dtype())
    }
}

/// What a file holds under one name.
#[derive(Clone, Debug)]
pub enum Tensor {
    /// Plain numbers.
    Plain(Arc<Plain>),
    /// A weight matrix.
    Matrix(Arc<Matrix>),
}

impl Tensor {
    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Tensor::Plain(plain) => plain.bytes.len(),
            Tensor::Matrix(matrix) => matrix.bytes(),
        }
    }
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
    fn expanding_stores_the_zeros_and_multiplies_the_factors() {
        let rows: Vec<f32> = (0..20 * 300).map(|i| if i % 9 == 0 { i as f32 } else { 0.0 }).collect();
        let sparse = Matrix::pack((20, 300, 1), &rows, None).unwrap();
        assert!(matches!(sparse.structure(), Structure::Sparse(_)));
        let dense = sparse.expand().unwrap().unwrap();
        assert!(matches!(dense.structure(), Structure::Dense(_)));
        assert_eq!(dense.to_rows::<f32>(), rows);
        assert!(dense.expand().unwrap().is_none());

        // u holds 2·q with q = 1..=6, v the rows (1, 2, 3, 4) and (5, 6, 7, 8).
        let u = Matrix::dense((3, 2, 1), &[1i8, 2, 3, 4, 5, 6], Some(vec![2.0; 3])).unwrap();
        let v: Vec<f32> = (1..=8u8).map(f32::from).collect();
        let v = Matrix::dense((2, 4, 1), &v, None).unwrap();
        let factors = Structure::LowRank { u: Arc::new(u), v: Arc::new(v) };
        let product = Matrix::new(3, 4, 1, factors, None).unwrap().expand().unwrap().unwrap();
        assert_eq!(
            product.to_rows::<f32>(),
            [22.0, 28.0, 34.0, 40.0, 46.0, 60.0, 74.0, 88.0, 70.0, 92.0, 114.0, 136.0]
        );
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
    fn nearly_full_stacks_share_their_indices() {
        for (m, height) in [(32, 16), (39, 4), (36, 4), (35, 2), (34, 2)] {
            let k = 300;
            // Whole stacks but for one value in twenty.
            let there = |r: usize, c: usize| {
                (r / height * 7 + c * 3).is_multiple_of(10) && !(r * 13 + c).is_multiple_of(20)
            };
            let rows: Vec<f32> =
                (0..m * k).map(|i| if there(i / k, i % k) { i as f32 + 1.0 } else { 0.0 }).collect();
            let non_zeros = rows.iter().filter(|&&v| v != 0.0).count();
            let packed = Matrix::pack((m, k, 1), &rows, None).unwrap();
            assert_eq!(packed.height(), height, "{m} rows");
            assert_eq!(packed.format(), format!("sparse {height}x1 float32"));
            assert_eq!((packed.to_rows::<f32>(), packed.nnz()), (rows.clone(), non_zeros));
            let single = packed.unstacked::<f32>();
            assert_eq!(
                (single.height(), single.to_rows::<f32>(), single.nnz()),
                (1, rows.clone(), non_zeros)
            );
            let (counts, indices, values) = sparse(m, k, BLOCK, &rows).unwrap();
            let rows_alone =
                Matrix::sparse((m, k, 1), (1, BLOCK), counts, indices, Values::copy(&values), None).unwrap();
            let bytes = |m: &Matrix| {
                let Structure::Sparse(s) = m.structure() else { panic!() };
                (s.counts().to_vec(), s.indices().to_vec(), s.values().bytes().to_vec())
            };
            assert_eq!(bytes(&single), bytes(&rows_alone));
            assert!(packed.bytes() < rows_alone.bytes());
            // What integer kernels multiply is never stacked.
            let q: Vec<i8> = rows.iter().map(|&v| i8::from(v != 0.0)).collect();
            assert_eq!(Matrix::pack((m, k, 1), &q, None).unwrap().height(), 1);
            assert_eq!(Matrix::pack((m, k, 1), &q, Some(vec![1.0; m])).unwrap().height(), height);
        }
        let scattered: Vec<f32> = (0..64 * 300).map(|i| if i % 11 == 0 { 1.0 } else { 0.0 }).collect();
        assert_eq!(Matrix::pack((64, 300, 1), &scattered, None).unwrap().height(), 1);
    }

    #[test]
    fn stacks_that_are_none_are_refused() {
        let make = |height, counts: &[u8], indices: &[u8], values: &[f32]| {
            let values = Values::copy(values);
            Matrix::sparse((6, 10, 1), (height, 256), counts.to_vec(), indices.to_vec(), values, None)
        };
        assert!(make(4, &[1, 1], &[0, 3], &[1.0; 8]).is_ok());
        assert!(make(4, &[1, 1], &[0, 3], &[1.0; 6]).is_err(), "the last stack is whole too");
        assert!(make(4, &[1; 6], &[0; 6], &[1.0; 24]).is_err(), "a count a stack");
        assert!(make(3, &[1, 1], &[0, 3], &[1.0; 6]).is_err(), "no such height");
        assert!(make(0, &[], &[], &[]).is_err(), "no height");
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

    #[test]
    fn a_packed_matrix_gives_its_rows_back() {
        for (m, k, groups) in [(5, 7, 1), (32, 300, 1), (32, 9, 2), (6, 4, 3), (1, 1, 1), (17, 600, 1)] {
            for zeros in [0, 3, 9] {
                let rows: Vec<f32> =
                    (0..m * k).map(|i| if i * 7 % 10 < zeros { 0.0 } else { i as f32 + 1.0 }).collect();
                let packed = Matrix::pack((m, k, groups), &rows, None).unwrap();
                assert_eq!(packed.to_rows::<f32>(), rows);
                assert_eq!(packed.nnz(), rows.iter().filter(|&&v| v != 0.0).count());
                let bytes: Vec<i8> = rows.iter().map(|&v| (v as i32 % 127) as i8).collect();
                let packed = Matrix::dense((m, k, groups), &bytes, None).unwrap();
                assert_eq!(packed.to_rows::<i8>(), bytes);
            }
        }
    }
}
