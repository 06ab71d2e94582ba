//! Matrices: values in a structure, and the forms that kernels made of them.

use super::sparse::{fours, stacked};
use super::{
    BLOCK, Number, QUAD, SparseRows, TILE, Tiles, TilesI8, Unit, Values, sparse_starts, tile, tile_i8, units,
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
    unit: Unit,
    /// Values that are not zero; a unit may hold zeros.
    nnz: usize,
    block: usize,
    counts: Vec<u8>,
    indices: Vec<u8>,
    starts: Vec<u32>,
    values: Values,
}

impl Sparse {
    /// What an index names, one of [`Unit::ALL`].
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// Columns of a block.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Units of each row, or stack, of each block.
    pub fn counts(&self) -> &[u8] {
        &self.counts
    }

    /// Columns of the units, in widths of one.
    pub fn indices(&self) -> &[u8] {
        &self.indices
    }

    /// Values of the units, `[indices][height][width]`.
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
        (unit, block): (Unit, usize),
        counts: Vec<u8>,
        indices: Vec<u8>,
        values: Values,
        scales: Option<Vec<f32>>,
    ) -> Result<Matrix> {
        ensure!(
            Unit::ALL.contains(&unit),
            Format,
            "sparse weight of {m} x {k}: units of {unit}, expected one of 1x1, 2x1, 4x1, 16x1, 1x4"
        );
        let Unit { height, width } = unit;
        ensure!(
            k.is_multiple_of(width) && block.is_multiple_of(width) && block <= BLOCK,
            Format,
            "sparse weight of {m} x {k}: {k} columns in blocks of {block} are not whole units of {unit}"
        );
        let starts = sparse_starts(m.div_ceil(height), k / width, block / width, &counts, &indices)?;
        ensure!(
            indices.len().checked_mul(unit.size()) == Some(values.len()),
            Format,
            "sparse weight of {m} x {k}: {} values for {} indices of {unit}",
            values.len(),
            indices.len()
        );
        let nnz = if unit == Unit::ONE { indices.len() } else { values.non_zeros() };
        let parts = Sparse { unit, nnz, block, counts, indices, starts, values };
        Matrix::new(m, k, groups, Structure::Sparse(parts), scales)
    }

    /// The best form of a row-major matrix: sparse where that is smaller, dense otherwise; in stacks where those are nearly
    /// full, in fours of columns where that is smaller yet. Integers without scales, which integer kernels multiply, are
    /// never stacked.
    ///
    /// # Errors
    /// [`Error::Format`](crate::error::Error::Format) where rows are not whole groups.
    pub fn pack<T: Number>(
        (m, k, groups): (usize, usize, usize),
        rows: &[T],
        scales: Option<Vec<f32>>,
    ) -> Result<Matrix> {
        let fits = groups == 1 || (m / groups).is_multiple_of(TILE);
        if fits
            && m.min(k) > 1
            && let Some(unit) = best_unit(m, k, rows, scales.is_some())
        {
            // A row of 256 non-zeros does not fit a count: then blocks of half the width always do.
            let parts = [BLOCK, BLOCK / 2]
                .into_iter()
                .find_map(|block| Some((block, units(m, k, (unit, block), rows)?)));
            if let Some((block, (counts, indices, values))) = parts {
                let values = Values::copy(&values);
                return Matrix::sparse((m, k, groups), (unit, block), counts, indices, values, scales);
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

    /// What vectors are multiplied with one after the other: the right and the left factor of a low-rank matrix, the matrix
    /// itself otherwise.
    pub fn factors(self: &Arc<Self>) -> Vec<&Arc<Self>> {
        match &self.structure {
            Structure::LowRank { u, v } => vec![v, u],
            _ => vec![self],
        }
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
    /// Where the matrix is not sparse, its units are not single values, or `T` is not its values' type.
    pub fn rows<T: Number>(&self) -> SparseRows<'_, T> {
        self.over(Unit::ONE, |values| values.of())
    }

    /// The sparse stacks of `H` rows of all groups.
    ///
    /// # Panics
    /// Where the matrix is not sparse, its units are others, or `T` is not its values' type.
    pub fn stacks<T: Number, const H: usize>(&self) -> SparseRows<'_, [T; H]> {
        self.over(Unit::stack(H), |values| values.of::<T>().as_chunks::<H>().0)
    }

    /// The sparse rows of all groups, in fours of columns.
    ///
    /// # Panics
    /// Where the matrix is not sparse, its units are others, or `T` is not its values' type.
    pub fn fours<T: Number>(&self) -> SparseRows<'_, [T; QUAD]> {
        self.over(Unit::FOUR, |values| values.of::<T>().as_chunks::<QUAD>().0)
    }

    fn over<'a, V>(&'a self, unit: Unit, values: impl Fn(&'a Values) -> &'a [V]) -> SparseRows<'a, V> {
        let Structure::Sparse(sparse) = &self.structure else { panic!("a sparse matrix is read as rows") };
        assert_eq!(sparse.unit, unit, "units are read as what they are");
        SparseRows {
            m: self.m.div_ceil(unit.height),
            k: self.k / unit.width,
            block: sparse.block / unit.width,
            counts: &sparse.counts,
            indices: &sparse.indices,
            values: values(&sparse.values),
            starts: &sparse.starts,
        }
    }

    /// What an index names; a single value where the matrix is not sparse.
    pub fn unit(&self) -> Unit {
        if let Structure::Sparse(sparse) = &self.structure { sparse.unit } else { Unit::ONE }
    }

    /// The matrix with an index for each value, without the zeros that units hold; a copy where units are single values.
    ///
    /// # Panics
    /// Where the matrix is not sparse, or `T` is not its values' type.
    #[must_use]
    pub fn singles<T: Number>(&self) -> Matrix {
        let Structure::Sparse(sparse) = &self.structure else { panic!("a sparse matrix has units") };
        let (Unit { height, width }, stored) = (sparse.unit, sparse.values.of::<T>());
        // More values than a count can say are those of two blocks.
        let full = sparse.counts.iter().any(|&count| usize::from(count) * width > usize::from(u8::MAX));
        let parts = if full { 2 } else { 1 };
        let block = sparse.block / parts;
        let (mut counts, mut indices, mut values) = (vec![], vec![], vec![]);
        let mut start = 0;
        for (b, stacks) in sparse.counts.chunks(self.m.div_ceil(height).max(1)).enumerate() {
            let k0 = b * sparse.block;
            let mut end = start;
            for first in (0..parts).map(|part| part * block).take_while(|first| k0 + first < self.k) {
                end = start;
                for (stack, &count) in stacks.iter().enumerate() {
                    let places = end..end + usize::from(count);
                    for r in 0..height.min(self.m - stack * height) {
                        let before = indices.len();
                        for at in places.clone() {
                            let column = usize::from(sparse.indices[at]) * width;
                            let unit = &stored[at * sparse.unit.size()..][r * width..][..width];
                            for (c, &value) in (column..).zip(unit) {
                                if value != T::default() && (first..first + block).contains(&c) {
                                    indices.push((c - first) as u8);
                                    values.push(value);
                                }
                            }
                        }
                        counts.push((indices.len() - before) as u8);
                    }
                    end = places.end;
                }
            }
            start = end;
        }
        let (shape, scales) = ((self.m, self.k, self.groups), self.scales.clone());
        Matrix::sparse(shape, (Unit::ONE, block), counts, indices, Values::copy(&values), scales)
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
                let (Unit { height, width }, values) = (sparse.unit, sparse.values.of::<T>());
                let stacks = self.m.div_ceil(height);
                let mut places = sparse.indices.iter().zip(values.chunks_exact(sparse.unit.size()));
                for (i, &count) in sparse.counts.iter().enumerate() {
                    let (k0, first) = (i / stacks * sparse.block, i % stacks * height);
                    for (&index, unit) in places.by_ref().take(usize::from(count)) {
                        for (r, row) in (first..self.m).zip(unit.chunks_exact(width)) {
                            let at = r * self.k + k0 + usize::from(index) * width;
                            rows[at..at + width].copy_from_slice(row);
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
            Structure::Sparse(Sparse { unit: Unit::ONE, .. }) => "sparse".to_owned(),
            Structure::Sparse(sparse) => format!("sparse {}", sparse.unit),
            Structure::LowRank { .. } => "low-rank".to_owned(),
        };
        format!("{structure} {}", self.dtype())
    }
}

/// What the indices of a row-major matrix had best name; none where it is smaller dense. `scaled` integers stand for reals.
fn best_unit<T: Number>(m: usize, k: usize, rows: &[T], scaled: bool) -> Option<Unit> {
    let non_zeros = rows.iter().filter(|&&value| value != T::default()).count();
    let counts = k.div_ceil(BLOCK) * m;
    // Of the values, the indices and the counts.
    let bytes =
        |unit: Unit, stored: usize| stored * size_of::<T>() + stored / unit.size() + counts / unit.height;
    let mut best = (size_of_val(rows), None);
    if bytes(Unit::ONE, non_zeros) < best.0 {
        let single = T::DTYPE == DType::Int8 && !scaled;
        // Of what stacks store nine tenths have to be there, as in XNNPACK's choice of its blocks.
        let full = |unit: Unit| {
            let stored = (!single && m >= unit.height).then(|| stacked(m, k, unit.height, rows))?;
            (non_zeros * 10 >= stored * 9).then(|| (bytes(unit, stored), Some(unit)))
        };
        let stacks = Unit::ALL.into_iter().filter(|unit| unit.height > 1);
        best = stacks.into_iter().find_map(full).unwrap_or((bytes(Unit::ONE, non_zeros), Some(Unit::ONE)));
    }
    if k.is_multiple_of(QUAD) {
        let fours = bytes(Unit::FOUR, fours(rows) * QUAD);
        if fours < best.0 {
            best = (fours, Some(Unit::FOUR));
        }
    }
    best.1
}
