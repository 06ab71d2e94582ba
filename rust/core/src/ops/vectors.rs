//! Weights times vectors that lie one after the other: what `linear` does with a batch of up to eight and, where that is
//! faster, with more.
//!
//! Rows of the weight lie in the lanes, so vectors are read and written where they are; of few, the weight is read once,
//! at the speed of memory. The two factors of a low-rank weight are one step: the vectors between live in scratch.

#![allow(unsafe_code, reason = "parts of one output are written by several threads")]

use super::Frame;
use super::frame::Shared;
use crate::error::Result;
use crate::isa::Tier;
use crate::kernels::spmv_f32::{self, Call, Kernel, Packed};
use crate::kernels::strip::{Epilogue, TILE};
use crate::kernels::{Impl, gemv_f32, pick};
use crate::pool::{Ranges, split};
use crate::tensor::DType;
use crate::weight::{Matrix, Number, QUAD, Structure, Unit};
use half::f16;
use std::sync::Arc;

/// The most vectors by a weight of any kind: more fill the lanes.
const MOST: usize = 8;

/// The most vectors by a dense weight. With 32 registers of sixteen floats its blocks do as much work a load as those of
/// a strip kernel and need no transposing; of very many vectors, a strip's panel is nearer than the vectors are.
fn most_dense(tier: Tier) -> usize {
    match tier {
        Tier::Avx512 => 256,
        _ => MOST,
    }
}

/// Bytes of a weight that are worth a part of their own: fewer cost another thread more than they save.
const PART: usize = 128 * 1024;

/// How a factor is computed.
enum Form {
    DenseF32(gemv_f32::Run<f32>),
    DenseF16(gemv_f32::Run<f16>),
    SparseF32(Sparse<f32>),
    SparseF16(Sparse<f16>),
    SparseI8(Sparse<i8>),
}

/// A sparse factor: as stored, or packed.
enum Sparse<T> {
    /// With the rows, where the matrix is stacked.
    Rows(spmv_f32::RunRows<T>, Option<Arc<Matrix>>),
    Packed(spmv_f32::RunPacked<T>, Arc<Packed<T>>),
    Fours(spmv_f32::RunRows<[T; QUAD]>),
}

impl<T> Sparse<T> {
    /// The family, as `FAMILIES` has it but for the type of the values.
    fn family(&self) -> &'static str {
        if let Sparse::Fours(_) = self { "spmv_f32 1x4" } else { "spmv_f32" }
    }
}

struct Factor {
    matrix: Arc<Matrix>,
    form: Form,
    name: String,
    /// Bytes a call reads.
    bytes: usize,
    /// Ranges of its tiles of rows for the threads.
    rows: Ranges,
    /// Ranges of the vectors.
    vectors: Ranges,
}

fn sparse<T: Number>(
    matrix: &Arc<Matrix>,
    table: &[Impl<Kernel<T>>],
    fours: &[Impl<spmv_f32::RunRows<[T; QUAD]>>],
    allowed: Tier,
    name: &'static str,
) -> Result<(Tier, Sparse<T>, usize)> {
    let (tier, kernel) = pick(table, allowed);
    Ok(match kernel {
        Kernel::Rows(_) if matrix.unit() == Unit::FOUR => {
            let (tier, run) = pick(fours, allowed);
            (tier, Sparse::Fours(run), matrix.bytes())
        }
        Kernel::Rows(run) if matrix.unit() == Unit::ONE => (tier, Sparse::Rows(run, None), matrix.bytes()),
        // A vector gains nothing from stacks.
        Kernel::Rows(run) => {
            let rows = matrix.form("rows", |matrix| {
                let rows = matrix.singles::<T>();
                let bytes = rows.bytes();
                Ok((rows, bytes))
            })?;
            let bytes = rows.bytes();
            (tier, Sparse::Rows(run, Some(rows)), bytes)
        }
        Kernel::Packed { window, run } => {
            let packed = matrix.form(name, |matrix| {
                let packed = if matrix.unit() == Unit::ONE {
                    Packed::new(&matrix.rows::<T>(), window)
                } else {
                    Packed::new(&matrix.singles::<T>().rows::<T>(), window)
                };
                let bytes = packed.bytes();
                Ok((packed, bytes))
            })?;
            let bytes = packed.bytes();
            (tier, Sparse::Packed(run, packed), bytes)
        }
    })
}

impl Factor {
    /// Of a matrix that has kernels for vectors, as [`Vectors::suits`] says.
    fn new(matrix: &Arc<Matrix>, n: usize, tier: Tier, threads: usize) -> Result<Factor> {
        let dense = matches!(matrix.structure(), Structure::Dense(_));
        let (family, tier, form, bytes) = match (dense, matrix.dtype()) {
            (true, DType::Float32) => {
                let (tier, run) = pick(gemv_f32::TABLE_F32, tier);
                ("gemv_f32", tier, Form::DenseF32(run), matrix.bytes())
            }
            (true, DType::Float16) => {
                let (tier, run) = pick(gemv_f32::TABLE_F16, tier);
                ("gemv_f32", tier, Form::DenseF16(run), matrix.bytes())
            }
            (true, _) => unreachable!("dense int8 has no kernels for vectors"),
            (false, DType::Float16) => {
                let fours = spmv_f32::fours::TABLE_F16;
                let (tier, form, bytes) = sparse(matrix, spmv_f32::TABLE_F16, fours, tier, "spmv_f32")?;
                (form.family(), tier, Form::SparseF16(form), bytes)
            }
            (false, DType::Int8) => {
                let fours = spmv_f32::fours::TABLE_I8;
                let (tier, form, bytes) = sparse(matrix, spmv_f32::TABLE_I8, fours, tier, "spmv_f32")?;
                (form.family(), tier, Form::SparseI8(form), bytes)
            }
            (false, _) => {
                let fours = spmv_f32::fours::TABLE_F32;
                let (tier, form, bytes) = sparse(matrix, spmv_f32::TABLE_F32, fours, tier, "spmv_f32")?;
                (form.family(), tier, Form::SparseF32(form), bytes)
            }
        };
        // As many parts for each thread, and a few, so that one that is late does not keep the others waiting.
        let parts = (bytes.saturating_mul(n.div_ceil(MOST)) / PART).min(4 * threads);
        let parts = match threads {
            1 => 1,
            _ if parts < threads => parts.max(1),
            _ => parts.next_multiple_of(threads),
        };
        // Of many vectors the threads take some each where all of the weight is near, otherwise some rows.
        let (tiles, batches) = (matrix.m().div_ceil(TILE), n.div_ceil(gemv_f32::BATCH));
        let (rows, vectors) =
            if batches >= parts && bytes <= gemv_f32::NEAR { (1, parts) } else { (parts, 1) };
        let (rows, vectors) = (split(tiles, rows, 1), split(n, vectors, gemv_f32::BATCH));
        let name = format!("{family}/{tier}");
        Ok(Factor { matrix: Arc::clone(matrix), form, name, bytes, rows, vectors })
    }

    /// Computes the product of all vectors.
    fn run(
        &self,
        frame: &Frame<'_>,
        x: Shared<f32>,
        out: Shared<f32>,
        residual: Shared<f32>,
        epilogue: Epilogue<'_>,
    ) {
        let (m, k) = (self.matrix.m(), self.matrix.k());
        let epilogue = Epilogue { scale: self.matrix.scales(), ..epilogue };
        frame.pool.run(self.rows.len() * self.vectors.len(), &|item, _| {
            let (tiles, (first, last)) =
                (self.rows.at(item % self.rows.len()), self.vectors.at(item / self.rows.len()));
            let (rows, n) = ((tiles.0 * TILE, (tiles.1 * TILE).min(m)), last - first);
            let (x, out, add) = (
                x.get().wrapping_add(first * k).cast_const(),
                out.get().wrapping_add(first * m),
                residual.get(),
            );
            let residual = if add.is_null() { add } else { add.wrapping_add(first * m) }.cast_const();
            // SAFETY: `pick` found the tier's token; `x`, `out` and `residual` are `n` vectors of `k` and `m` elements; scale and
            // bias have `m`; each part has tiles, or vectors, of its own.
            unsafe {
                match &self.form {
                    Form::DenseF32(run) => self.dense(*run, (rows, n, x, out, residual), epilogue),
                    Form::DenseF16(run) => self.dense(*run, (rows, n, x, out, residual), epilogue),
                    Form::SparseF32(form) => self.sparse(form, (tiles, n, x, out, residual), epilogue),
                    Form::SparseF16(form) => self.sparse(form, (tiles, n, x, out, residual), epilogue),
                    Form::SparseI8(form) => self.sparse(form, (tiles, n, x, out, residual), epilogue),
                }
            }
        });
    }

    /// # Safety
    /// What [`gemv_f32::Run`] asks.
    unsafe fn dense<T: Number>(
        &self,
        run: gemv_f32::Run<T>,
        (rows, n, x, out, residual): ((usize, usize), usize, *const f32, *mut f32, *const f32),
        epilogue: Epilogue<'_>,
    ) {
        let (weight, x_stride, out_stride) = (self.matrix.tiles::<T>(0), self.matrix.k(), self.matrix.m());
        // SAFETY: the caller's.
        unsafe { run(&gemv_f32::Gemv { weight, rows, x, x_stride, n, out, out_stride, residual, epilogue }) };
    }

    /// # Safety
    /// What [`Kernel`] asks.
    unsafe fn sparse<T: Number>(
        &self,
        form: &Sparse<T>,
        (tiles, n, x, out, residual): ((usize, usize), usize, *const f32, *mut f32, *const f32),
        epilogue: Epilogue<'_>,
    ) {
        let (x_stride, out_stride) = (self.matrix.k(), self.matrix.m());
        match form {
            Sparse::Rows(run, rows) => {
                let weight = rows.as_ref().unwrap_or(&self.matrix).rows::<T>();
                // SAFETY: the caller's.
                unsafe { run(&Call { weight, tiles, n, x, x_stride, out, out_stride, residual, epilogue }) };
            }
            Sparse::Fours(run) => {
                let weight = self.matrix.fours::<T>();
                // SAFETY: the caller's.
                unsafe { run(&Call { weight, tiles, n, x, x_stride, out, out_stride, residual, epilogue }) };
            }
            Sparse::Packed(run, packed) => {
                let weight = &**packed;
                // SAFETY: the caller's.
                unsafe { run(&Call { weight, tiles, n, x, x_stride, out, out_stride, residual, epilogue }) };
            }
        }
    }
}

/// A weight ready for `n` vectors.
pub(super) struct Vectors {
    /// One factor, or the right and the left one of a low-rank weight.
    factors: Vec<Factor>,
    n: usize,
}

impl Vectors {
    /// Of a weight and number of vectors that suit each other.
    pub(super) fn new(matrix: &Arc<Matrix>, n: usize, tier: Tier, threads: usize) -> Result<Vectors> {
        let factors = matrix.factors().into_iter().map(|part| Factor::new(part, n, tier, threads));
        Ok(Vectors { factors: factors.collect::<Result<_>>()?, n })
    }

    /// Whether a weight is multiplied with that many vectors by these kernels: dense int8 has none.
    pub(super) fn suits(matrix: &Arc<Matrix>, n: usize, tier: Tier) -> bool {
        let mut dense = matrix.factors();
        let factors = dense.len();
        dense.retain(|part| matches!(part.structure(), Structure::Dense(_)));
        let all = dense.len() == factors;
        let most = if all { most_dense(pick(gemv_f32::TABLE_F32, tier).0) } else { MOST };
        (1..=most).contains(&n) && dense.iter().all(|part| part.dtype() != DType::Int8)
    }

    /// The kernels' names.
    pub(super) fn name(&self) -> String {
        match &*self.factors {
            [only] => only.name.clone(),
            factors => format!(
                "low_rank({})",
                factors.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ")
            ),
        }
    }

    /// Why these kernels, where there was a choice.
    pub(super) fn reason(&self) -> String {
        let sparse =
            self.factors.iter().find(|factor| matches!(factor.matrix.structure(), Structure::Sparse(_)));
        sparse.map_or_else(String::new, |factor| {
            let all = factor.matrix.m() * factor.matrix.k();
            let zeros = 100.0 * (1.0 - factor.matrix.nnz() as f64 / all.max(1) as f64);
            format!("{zeros:.0} % zeros: sparse, so that {} bytes are read for {} numbers", factor.bytes, all)
        })
    }

    /// Multiplications and additions.
    pub(super) fn flops(&self) -> f64 {
        let stored = |factor: &Factor| match factor.matrix.structure() {
            Structure::Sparse(_) => factor.matrix.nnz(),
            _ => factor.matrix.m() * factor.matrix.k(),
        };
        2.0 * (self.n * self.factors.iter().map(stored).sum::<usize>()) as f64
    }

    /// Bytes of weights that are read.
    pub(super) fn bytes(&self) -> usize {
        self.factors.iter().map(|factor| factor.bytes).sum()
    }

    /// Floats of scratch.
    pub(super) fn scratch(&self) -> usize {
        if self.factors.len() == 2 { self.n * self.factors[0].matrix.m() } else { 0 }
    }

    /// Computes `out = clamp(W x + bias + residual)`; operand 0 of the frame is `x`, output 0 is `out`.
    pub(super) fn run(
        &self,
        frame: &Frame<'_>,
        bias: Option<&[f32]>,
        residual: Option<&[f32]>,
        clamp: [f32; 2],
    ) {
        let x = Shared(frame.input::<f32>(0).as_ptr().cast_mut());
        let out = Shared(frame.output_ptr::<f32>(0));
        let residual = Shared(residual.map_or(std::ptr::null_mut(), |residual| residual.as_ptr().cast_mut()));
        let epilogue = Epilogue { scale: None, bias, clamp };
        match &*self.factors {
            [only] => only.run(frame, x, out, residual, epilogue),
            [v, u] => {
                let between = Shared(frame.scratch_ptr::<f32>(0));
                v.run(frame, x, between, Shared(std::ptr::null_mut()), Epilogue::NONE);
                u.run(frame, between, out, residual, epilogue);
            }
            _ => unreachable!("a weight has one factor or two"),
        }
    }
}
