//! A sparse int8 weight times a few uint8 vectors.
//!
//! `out[i][r] = requantize(Σ_k W[r][k] · x[i][k])` as [`strip_i8`](super::strip_i8) defines it, over the non-zeros of `W`;
//! `x` is `(n, k)`, plain. Exact, hence equal, on every tier. A tier reads the weight as the file has it, or as [`Sell`],
//! which is made of it once.

use super::Impl;
use super::strip_i8::rows::RowsI8;
use crate::isa::Tier;
use crate::weight::{SparseRows, TILE};

#[cfg(target_arch = "x86_64")]
mod avx512vnni;
mod scalar;

/// A kernel of this family, by the form of the weight it reads.
///
/// # Safety
/// Whoever calls one holds the tier's token; the pointers of the [`RowsI8`] are valid for what it names; nothing else
/// touches that part of `out` meanwhile; and the weight and the slices of its `requant` have the rows.
#[derive(Clone, Copy, Debug)]
pub enum Kernel {
    /// The file's form.
    Rows(unsafe fn(&RowsI8<'_, SparseRows<'_, i8>>)),
    /// The form for table look-ups.
    Sell(unsafe fn(&RowsI8<'_, &Sell>)),
}

/// The implementations, best first.
pub static TABLE: &[Impl<Kernel>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512Vnni, get: avx512vnni::get },
    Impl { tier: Tier::Scalar, get: || Some(scalar::get()) },
];

/// Non-zeros of a row that a step takes.
const STEP: usize = 4;

/// Sixteen rows of four bytes: one register, one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([[u8; STEP]; TILE]);

/// A sparse weight in slices of sixteen rows (SELL): each step takes four non-zeros of every row of a tile.
///
/// A tile's blocks of at most 256 columns follow each other, a block's steps do; a step is a line of indices within the
/// block and one of values. A row with fewer non-zeros than the longest of its tile and block is padded with the value 0.
#[derive(Clone, Debug)]
pub struct Sell {
    m: usize,
    k: usize,
    block: usize,
    /// Steps of each tile and block, `[⌈m/16⌉][blocks]`.
    steps: Vec<u8>,
    /// Where each tile starts in `lines`.
    starts: Vec<usize>,
    /// Indices and values by turns.
    lines: Vec<[Line; 2]>,
}

impl Sell {
    /// The form of a weight.
    pub fn new(weight: &SparseRows<'_, i8>) -> Sell {
        let (m, k, blocks) = (weight.m(), weight.k(), weight.blocks());
        let mut made = Sell { m, k, block: weight.block(), steps: vec![], starts: vec![], lines: vec![] };
        for r0 in (0..m).step_by(TILE) {
            made.starts.push(made.lines.len());
            for block in (0..blocks).map(|b| weight.at(b)) {
                let counts = &block.counts[r0..m.min(r0 + TILE)];
                let longest = counts.iter().copied().max().unwrap_or(0);
                let steps = longest.div_ceil(STEP as u8);
                made.steps.push(steps);
                let first = made.lines.len();
                made.lines.resize(first + usize::from(steps), [Line([[0; STEP]; TILE]); 2]);
                let mut at = block.starts[r0 / TILE] as usize;
                for (lane, &count) in counts.iter().enumerate() {
                    for i in 0..usize::from(count) {
                        let [indices, values] = &mut made.lines[first + i / STEP];
                        indices.0[lane][i % STEP] = block.indices[at + i];
                        values.0[lane][i % STEP] = block.values[at + i] as u8;
                    }
                    at += usize::from(count);
                }
            }
        }
        made.lines.shrink_to_fit();
        made
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

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        self.steps.len() + self.starts.len() * size_of::<usize>() + self.lines.len() * size_of::<[Line; 2]>()
    }

    /// The steps of a tile, block by block.
    #[cfg(target_arch = "x86_64")]
    fn tile(&self, tile: usize) -> (&[u8], &[[Line; 2]]) {
        let blocks = self.k.div_ceil(self.block);
        (&self.steps[tile * blocks..][..blocks], &self.lines[self.starts[tile]..])
    }
}

#[cfg(test)]
#[allow(unsafe_code, reason = "calls kernels through their unsafe signature")]
mod tests {
    use super::*;
    use crate::kernels::strip_i8::rows::MAX_ROWS;
    use crate::kernels::strip_i8::testing::Case;
    use crate::testing::for_each_impl;
    use crate::weight::{sparse, sparse_starts};

    fn check(tier: Tier, kernel: Kernel, case: &Case, block: usize, rows: (usize, usize)) {
        let Case { m, k, n, .. } = *case;
        let (counts, indices, values) = sparse(m, k, block, &case.w).expect("few enough non-zeros");
        let starts = sparse_starts(m, k, block, &counts, &indices).unwrap();
        let weight = SparseRows::new(m, k, block, &counts, &indices, &starts, &values).unwrap();
        let got = match kernel {
            // SAFETY: the tier was detected; `rows` gives room for what a call may touch.
            Kernel::Rows(run) => case.rows(weight, rows, |s| unsafe { run(s) }),
            // SAFETY: the same.
            Kernel::Sell(run) => case.rows(&Sell::new(&weight), rows, |s| unsafe { run(s) }),
        };
        assert_eq!(
            got,
            case.expected(rows),
            "{tier}: {m} x {k}, {n} vectors in blocks of {block}, rows {rows:?}"
        );
    }

    #[test]
    fn equals_the_oracle_at_every_edge() {
        for_each_impl(TABLE, |tier, kernel| {
            let mut kind = 0;
            for (m, zeros) in [(1, 0.9), (15, 0.5), (16, 0.95), (17, 0.9), (33, 0.7), (65, 0.9), (5, 1.0)] {
                for k in [0, 1, 3, 63, 64, 65, 127, 128, 129, 191, 193, 255, 256, 300, 600] {
                    for n in 1..=MAX_ROWS {
                        let block = [256, 128, 7, 200][kind as usize % 4];
                        check(tier, kernel, &Case::new((m, k, n), kind, zeros), block, (0, m));
                        kind += 1;
                    }
                }
            }
        });
    }

    #[test]
    fn equals_the_oracle_in_every_kind_of_output() {
        for_each_impl(TABLE, |tier, kernel| {
            for kind in 0..Case::KINDS {
                check(tier, kernel, &Case::new((37, 530, 3), kind, 0.5), 256, (0, 37));
            }
        });
    }

    #[test]
    fn rounds_every_product_before_it_is_added() {
        for_each_impl(TABLE, |tier, kernel| {
            for kind in 0..Case::TIES {
                check(tier, kernel, &Case::ties((100, 40, 7), kind, 0.5), 256, (0, 100));
            }
        });
    }

    #[test]
    fn computes_the_rows_asked_for_and_no_other() {
        for_each_impl(TABLE, |tier, kernel| {
            for rows in [(0, 16), (16, 32), (16, 128), (32, 130), (128, 130), (16, 16)] {
                check(tier, kernel, &Case::new((130, 300, 7), 4, 0.8), 256, rows);
            }
        });
    }

    #[test]
    fn a_step_is_as_long_as_the_longest_row_needs() {
        // Row 0 has five non-zeros, row 1 one; row 16 is alone in its tile.
        let mut w = vec![0i8; 17 * 10];
        w[..5].fill(1);
        w[10] = -2;
        w[16 * 10 + 9] = 3;
        let (counts, indices, values) = sparse(17, 10, 256, &w).unwrap();
        let starts = sparse_starts(17, 10, 256, &counts, &indices).unwrap();
        let made = Sell::new(&SparseRows::new(17, 10, 256, &counts, &indices, &starts, &values).unwrap());
        assert_eq!(made.steps, [2, 1]);
        assert_eq!(made.starts, [0, 2]);
        assert_eq!(made.lines[1][0].0[0], [4, 0, 0, 0]);
        assert_eq!(made.lines[1][1].0[0], [1, 0, 0, 0]);
        assert_eq!(made.lines[0][1].0[1], [254, 0, 0, 0]);
        assert_eq!(made.lines[2][0].0[0], [9, 0, 0, 0]);
        assert_eq!(made.bytes(), 2 + 2 * size_of::<usize>() + 3 * 128);
    }
}
