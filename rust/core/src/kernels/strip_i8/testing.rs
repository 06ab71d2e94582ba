//! The oracle of the int8 strip kernels: products summed in i64 in the plainest loops, and every edge of the arithmetic.

use super::rows::RowsI8;
use super::{LANES, Output, Requant, Residual, StripI8};
use crate::testing::{Aligned, Rng};
use crate::weight::{QUAD, SparseRows, Unit, sparse_starts, units};

/// A product of an int8 matrix `(m, k)` and uint8 columns `(k, n)`, with all that is done to it.
#[derive(Debug)]
pub(in crate::kernels) struct Case {
    pub(in crate::kernels) m: usize,
    pub(in crate::kernels) k: usize,
    pub(in crate::kernels) n: usize,
    /// Row-major `(m, k)`.
    pub(in crate::kernels) w: Vec<i8>,
    /// Row-major `(k, n)`.
    pub(in crate::kernels) x: Vec<u8>,
    x_zero_point: u8,
    offset: Vec<i32>,
    scale: Vec<f32>,
    bias: Vec<f32>,
    /// `(m, n)`, where there is one.
    residual: Option<(Residual, Vec<u8>)>,
    output: Output,
}

/// What a case's output is compared as.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::kernels) enum Values {
    U8(Vec<u8>),
    /// Bits, so that equal means identical.
    F32(Vec<u32>),
}

/// The parts of [`SparseRows`], owned.
pub(in crate::kernels) struct Stored<U> {
    m: usize,
    k: usize,
    block: usize,
    counts: Vec<u8>,
    indices: Vec<u8>,
    starts: Vec<u32>,
    values: Vec<U>,
}

impl<U> Stored<U> {
    pub(in crate::kernels) fn rows(&self) -> SparseRows<'_, U> {
        let Stored { m, k, block, counts, indices, starts, values } = self;
        SparseRows::new(*m, *k, *block, counts, indices, starts, values).expect("parts that fit")
    }
}

impl Case {
    /// A case of that size; `kind` picks the values and the output, a share `zeros` of the weights is zero. Four rows by four
    /// have weights of another magnitude, from all that a byte holds down to a few bits of it.
    pub(in crate::kernels) fn new((m, k, n): (usize, usize, usize), kind: u64, zeros: f64) -> Case {
        let mut rng = Rng::new((m * 1_000_003 + k * 1009 + n) as u64 * 64 + kind);
        let weight = |rng: &mut Rng| match kind % 3 {
            0 => (rng.below(256) as i32 - 128) as i8,
            1 => [i8::MIN, i8::MAX][rng.below(2)],
            _ => i8::MIN,
        };
        let w: Vec<i8> = (0..m * k)
            .map(|i| {
                if (rng.below(1 << 20) as f64) < zeros * f64::from(1 << 20) {
                    return 0;
                }
                weight(&mut rng) >> [0, 1, 3, 5][(i / k / 4 + kind as usize) % 4]
            })
            .collect();
        let x = (0..k * n)
            .map(|_| match kind % 3 {
                0 => rng.below(256) as u8,
                1 => [0, 255][rng.below(2)],
                _ => 255,
            })
            .collect();
        let zero_points = [0, 255, 128, 3];
        let x_zero_point = zero_points[kind as usize % 4];
        let offset = (0..m)
            .map(|r| -i32::from(x_zero_point) * w[r * k..][..k].iter().map(|&w| i32::from(w)).sum::<i32>())
            .collect();
        // From what a layer has, over halves that show how ties are rounded, to scales beyond all sense.
        let magnitude = [1.0 / (40.0 * (k as f32 + 1.0).sqrt()), 0.5, 1e-30, 1e30][kind as usize / 2 % 4];
        let scale = (0..m).map(|_| if magnitude == 0.5 { 0.5 } else { magnitude * rng.float() }).collect();
        let bias = (0..m).map(|_| if magnitude == 0.5 { 0.0 } else { 100.0 * rng.float() }).collect();
        let residual = (kind % 5 < 2).then(|| {
            let meaning = Residual { scale: rng.float(), zero_point: zero_points[kind as usize / 3 % 4] };
            (meaning, (0..m * n).map(|_| rng.below(256) as u8).collect())
        });
        let output = match kind % 7 {
            0 | 5 => Output::U8 { zero_point: 255, lo: 0, hi: 255 },
            1 => Output::U8 { zero_point: 0, lo: 0, hi: 255 },
            2 => Output::U8 { zero_point: 77, lo: 77, hi: 200 },
            3 => Output::F32 { lo: f32::NEG_INFINITY, hi: f32::INFINITY },
            4 => Output::U8 { zero_point: 128, lo: 1, hi: 254 },
            _ => Output::F32 { lo: 0.0, hi: 6.0 },
        };
        Case { m, k, n, w, x, x_zero_point, offset, scale, bias, residual, output }
    }

    /// A case whose zeros fill whole fours of columns, a share `zeros` of them, and some weights of the others.
    pub(in crate::kernels) fn of_fours(size: (usize, usize, usize), kind: u64, zeros: f64) -> Case {
        let mut case = Case::new(size, kind, 0.05);
        let mut rng = Rng::new((case.m + case.k + case.n) as u64);
        for four in case.w.chunks_mut(QUAD) {
            if (rng.below(1 << 20) as f64) < zeros * f64::from(1 << 20) {
                four.fill(0);
            }
        }
        for (offset, row) in case.offset.iter_mut().zip(case.w.chunks(case.k.max(1))) {
            *offset = -i32::from(case.x_zero_point) * row.iter().map(|&w| i32::from(w)).sum::<i32>();
        }
        case
    }

    /// The weight's non-zeros, in blocks of so many columns.
    pub(in crate::kernels) fn sparse(&self, block: usize) -> Stored<i8> {
        self.stored(Unit::ONE, block, |values| values)
    }

    /// The weight's fours of columns in which there is a non-zero, in blocks of so many columns.
    pub(in crate::kernels) fn fours(&self, block: usize) -> Stored<[i8; QUAD]> {
        self.stored(Unit::FOUR, block, |values| values.as_chunks().0.to_vec())
    }

    fn stored<U>(&self, unit: Unit, block: usize, values_of: impl Fn(Vec<i8>) -> Vec<U>) -> Stored<U> {
        let (counts, indices, values) =
            units(self.m, self.k, (unit, block), &self.w).expect("few enough non-zeros");
        let (m, k, block) = (self.m, self.k / unit.width, block / unit.width);
        let starts = sparse_starts(m, k, block, &counts, &indices).expect("a sparse matrix");
        Stored { m, k, block, counts, indices, starts, values: values_of(values) }
    }

    /// A case whose every row has an output that one rounding too few would show: a product cancels against an addend to
    /// 100.5 exactly, which rounds down; unrounded, half of the products would leave more.
    ///
    /// The product is that of the scale or, where `kind` is odd, of the residual; outputs are bytes for kinds 0 and 1.
    pub(in crate::kernels) fn ties((m, k, n): (usize, usize, usize), kind: u64, zeros: f64) -> Case {
        let mut case = Case { residual: None, ..Case::new((m, k, n), 0, zeros) };
        let mut rng = Rng::new(kind);
        let in_residual = kind % 2 == 1;
        let meaning = Residual { scale: 9.37, zero_point: 3 };
        let q: Vec<u8> = (0..m * n).map(|_| 200 + rng.below(50) as u8).collect();
        for r in 0..m {
            let j = r % n;
            let products = (0..k).map(|i| i32::from(case.w[r * k + i]) * i32::from(case.x[i * n + j]));
            let sum = (products.sum::<i32>() + case.offset[r]) as f32;
            case.scale[r] = if in_residual { 0.0 } else { (1500.0 + 200.0 * rng.float()) / sum };
            let product = if in_residual {
                (f32::from(q[r * n + j]) - f32::from(meaning.zero_point)) * meaning.scale
            } else {
                sum * case.scale[r]
            };
            case.bias[r] = 100.5 - product;
        }
        case.residual = in_residual.then_some((meaning, q));
        case.output = match kind {
            0 | 1 => Output::U8 { zero_point: 0, lo: 0, hi: 255 },
            _ => Output::F32 { lo: f32::NEG_INFINITY, hi: f32::INFINITY },
        };
        case
    }

    /// Kinds that [`Case::ties`] tells apart.
    pub(in crate::kernels) const TIES: u64 = 4;

    /// Kinds that [`Case::new`] tells apart.
    pub(in crate::kernels) const KINDS: u64 = 3 * 5 * 7;

    pub(in crate::kernels) fn requant(&self) -> Requant<'_> {
        Requant {
            offset: &self.offset,
            scale: &self.scale,
            bias: &self.bias,
            residual: self.residual.as_ref().map(|(meaning, _)| *meaning),
            output: self.output,
        }
    }

    /// Whether the output is bytes.
    pub(in crate::kernels) fn is_bytes(&self) -> bool {
        matches!(self.output, Output::U8 { .. })
    }

    /// Output `(r, j)` as the specification has it, without its clamps, roundings and sums being the kernels'.
    fn expected_at(&self, r: usize, j: usize) -> Result<u8, u32> {
        let products = (0..self.k).map(|k| {
            i64::from(self.w[r * self.k + k])
                * (i64::from(self.x[k * self.n + j]) - i64::from(self.x_zero_point))
        });
        let mut y = products.sum::<i64>() as f32 * self.scale[r];
        y += self.bias[r];
        if let Some((meaning, q)) = &self.residual {
            let addend = (f32::from(q[r * self.n + j]) - f32::from(meaning.zero_point)) * meaning.scale;
            y += addend;
        }
        match self.output {
            Output::U8 { zero_point, lo, hi } => {
                let q = f64::from(y).round_ties_even() + f64::from(zero_point);
                Ok(q.clamp(f64::from(lo), f64::from(hi)) as u8)
            }
            Output::F32 { lo, hi } => Err(y.clamp(lo, hi).to_bits()),
        }
    }

    /// The whole output, `(m, n)`; rows outside `rows` as they were: 0xA5 in every byte.
    pub(in crate::kernels) fn expected(&self, rows: (usize, usize)) -> Values {
        let at = |i: usize| {
            let (r, j) = (i / self.n, i % self.n);
            if (rows.0..rows.1).contains(&r) { Some(self.expected_at(r, j)) } else { None }
        };
        let count = self.m * self.n;
        match self.output {
            Output::U8 { .. } => {
                Values::U8((0..count).map(|i| at(i).map_or(0xA5, |q| q.expect("bytes"))).collect())
            }
            Output::F32 { .. } => Values::F32(
                (0..count).map(|i| at(i).map_or(0xA5A5_A5A5, |y| y.expect_err("floats"))).collect(),
            ),
        }
    }

    /// What `run` makes of the strip; also checks that it wrote nothing beyond what a strip may.
    pub(in crate::kernels) fn strip<W>(
        &self,
        weight: W,
        rows: (usize, usize),
        (panel, panel_stride): (&[u8], usize),
        run: impl Fn(&StripI8<'_, W>),
    ) -> Values {
        let reach = self.n.next_multiple_of(LANES);
        let stride = reach + LANES;
        let size = if matches!(self.output, Output::U8 { .. }) { 1 } else { 4 };
        let mut out = Aligned::<u8>::new(self.m * stride * size, 0);
        out.fill(0xA5);
        let residual_stride = reach + 7;
        let mut residual = Aligned::<u8>::new(self.m * residual_stride, 1);
        if let Some((_, q)) = &self.residual {
            for (to, from) in residual.chunks_mut(residual_stride).zip(q.chunks(self.n)) {
                to[..self.n].copy_from_slice(from);
            }
        }
        run(&StripI8 {
            weight,
            rows,
            panel: panel.as_ptr(),
            panel_stride,
            n: self.n,
            out: out.as_mut_ptr(),
            out_stride: stride,
            residual: residual.as_ptr(),
            residual_stride,
            requant: self.requant(),
        });
        let beyond = |row: &[u8]| row[reach * size..].iter().all(|&byte| byte == 0xA5);
        assert!(out.chunks(stride * size).all(beyond), "wrote past the padding of a row");
        let kept = out.chunks(stride * size).flat_map(|row| &row[..self.n * size]).copied();
        self.values(kept.collect())
    }

    /// What `run` makes of the case as rows of activations, transposed back to `(m, n)`; also checks that it wrote
    /// nothing else.
    pub(in crate::kernels) fn rows<W>(
        &self,
        weight: W,
        rows: (usize, usize),
        run: impl Fn(&RowsI8<'_, W>),
    ) -> Values {
        let size = if matches!(self.output, Output::U8 { .. }) { 1 } else { 4 };
        let (x_stride, out_stride, residual_stride) = (self.k + 3, self.m + 5, self.m + 1);
        // Exactly as long as a kernel may read.
        let mut x = Aligned::<u8>::new((self.n - 1) * x_stride + self.k, 1);
        let mut out = Aligned::<u8>::new(self.n * out_stride * size, 0);
        out.fill(0xA5);
        let mut residual = Aligned::<u8>::new(self.n * residual_stride, 1);
        for i in 0..self.n {
            for k in 0..self.k {
                x[i * x_stride + k] = self.x[k * self.n + i];
            }
            if let Some((_, q)) = &self.residual {
                for r in 0..self.m {
                    residual[i * residual_stride + r] = q[r * self.n + i];
                }
            }
        }
        run(&RowsI8 {
            weight,
            rows,
            x: x.as_ptr(),
            x_stride,
            n: self.n,
            out: out.as_mut_ptr(),
            out_stride,
            residual: residual.as_ptr(),
            residual_stride,
            requant: self.requant(),
            each: None,
        });
        let beyond = |row: &[u8]| row[self.m * size..].iter().all(|&byte| byte == 0xA5);
        assert!(out.chunks(out_stride * size).all(beyond), "wrote past the end of a row");
        let element = |r: usize, i: usize| &out[(i * out_stride + r) * size..][..size];
        let transposed = (0..self.m).flat_map(|r| (0..self.n).flat_map(move |i| element(r, i)));
        self.values(transposed.copied().collect())
    }

    /// Bytes of an `(m, n)` output as what they are.
    pub(in crate::kernels) fn values(&self, bytes: Vec<u8>) -> Values {
        match self.output {
            Output::U8 { .. } => Values::U8(bytes),
            Output::F32 { .. } => {
                Values::F32(bytes.as_chunks().0.iter().map(|&word| u32::from_ne_bytes(word)).collect())
            }
        }
    }
}
