//! Matrices: values in a structure, and the forms that kernels made of them.

use super::sparse::stacked;
use super::{
    BLOCK, HEIGHTS, Number, QUAD, SparseRows, TILE, Tiles, TilesI8, Values, sparse_starts, stacks, tile,
    tile_i8,
};
use crate::error::{Result, ensure};
use crate::tensor::{DType, elements};
use half::f16;
use std::any::Any;
use std::sync::{Arc, Mutex};

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
