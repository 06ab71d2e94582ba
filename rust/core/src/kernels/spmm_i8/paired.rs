//! The form of a sparse weight that `vpmaddubsw` reads.
//!
//! The instruction adds two products of a byte and a signed byte in 16 bits, where their sum saturates: it is exact for two
//! weights of different signs, and for two of one sign that add up to 128 at most. Nothing asks for an order of the
//! non-zeros of a row within a block, so they are put side by side in pairs that fit, and pairs in fours; one that finds no
//! partner has a zero for it.

use crate::kernels::gemm_i8::FITS;
use crate::weight::{QUAD, SparseRows, TILE};
use std::ops::Range;

/// Four non-zeros of a row, or fewer and zeros.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Four {
    pub(super) indices: [u8; QUAD],
    pub(super) values: [i8; QUAD],
}

/// A sparse weight in fours of non-zeros, ordered as [`SparseRows`] is but within rows.
#[derive(Clone, Debug)]
pub struct Paired {
    m: usize,
    block: usize,
    /// Fours of each row, `[blocks][m]`.
    counts: Vec<u8>,
    /// Where each tile of rows starts, `[blocks][tiles]`, and one past the last.
    starts: Vec<usize>,
    fours: Vec<Four>,
}

impl Paired {
    /// The non-zeros of `rows`.
    pub fn new(rows: &SparseRows<'_, i8>) -> Paired {
        let (m, block) = (rows.m(), rows.block());
        let mut made = Paired { m, block, counts: vec![], starts: vec![], fours: vec![] };
        made.counts.reserve_exact(m * rows.blocks());
        made.fours.reserve(rows.nnz() / QUAD);
        let (mut signs, mut left, mut pairs) = ([vec![], vec![]], vec![], vec![]);
        for b in 0..rows.blocks() {
            let block = rows.at(b);
            let mut at = block.starts[0] as usize;
            for (r, &count) in block.counts.iter().enumerate() {
                if r % TILE == 0 {
                    made.starts.push(made.fours.len());
                }
                let row = at..at + usize::from(count);
                at = row.end;
                for (&index, &value) in block.indices[row.clone()].iter().zip(&block.values[row]) {
                    signs[usize::from(value < 0)].push((index, value));
                }
                while let [Some(a), Some(b)] = signs.each_ref().map(|sign| sign.last().copied()) {
                    pairs.push([a, b]);
                    for sign in &mut signs {
                        sign.truncate(sign.len() - 1);
                    }
                }
                for one in signs.iter_mut().flat_map(|sign| sign.drain(..)) {
                    let fits = |other: &(u8, i8)| one.1.unsigned_abs() <= FITS - other.1.unsigned_abs();
                    match left.iter().position(fits) {
                        Some(found) => pairs.push([left.swap_remove(found), one]),
                        None => left.push(one),
                    }
                }
                pairs.extend(left.drain(..).map(|(index, value)| [(index, value), (index, 0)]));
                made.counts.push(pairs.len().div_ceil(2) as u8);
                for two in pairs.chunks(2) {
                    let [a, b] = two[0];
                    let [c, d] = two.get(1).copied().unwrap_or([(a.0, 0); 2]);
                    let four = [a, b, c, d];
                    made.fours.push(Four { indices: four.map(|one| one.0), values: four.map(|one| one.1) });
                }
                pairs.clear();
            }
        }
        made.starts.push(made.fours.len());
        made.fours.shrink_to_fit();
        made
    }

    /// Columns of a block.
    pub(super) fn block(&self) -> usize {
        self.block
    }

    /// Blocks of columns.
    pub(super) fn blocks(&self) -> usize {
        self.counts.len() / self.m.max(1)
    }

    /// How many fours each row of a tile has in a block, and these; their indices are columns of the block.
    pub(super) fn rows(&self, block: Option<usize>, rows: Range<usize>) -> (&[u8], &[Four]) {
        let Some(block) = block else { return (&[0; TILE][..rows.len()], &[]) };
        let tile = block * self.m.div_ceil(TILE) + rows.start / TILE;
        let counts = &self.counts[block * self.m..][rows];
        (counts, &self.fours[self.starts[tile]..self.starts[tile + 1]])
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        self.counts.len() + size_of_val(&self.starts[..]) + size_of_val(&self.fours[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::strip_i8::testing::Case;

    #[test]
    fn every_non_zero_is_in_a_four_of_its_row_in_a_pair_that_fits() {
        let (mut full, mut all) = (0, 0);
        for kind in 0..6 {
            for (m, k, zeros) in [(17, 300, 0.9), (5, 600, 0.3), (33, 64, 0.99), (16, 256, 0.0)] {
                let stored = Case::new((m, k, 1), kind, zeros).sparse(128);
                let rows = stored.rows();
                let paired = Paired::new(&rows);
                assert_eq!((paired.block(), paired.blocks()), (rows.block(), rows.blocks()));
                for b in 0..rows.blocks() {
                    let (block, mut at) = (rows.at(b), rows.at(b).starts[0] as usize);
                    for r0 in (0..m).step_by(TILE) {
                        let (counts, mut fours) = paired.rows(Some(b), r0..m.min(r0 + TILE));
                        for (r, &count) in (r0..).zip(counts) {
                            let (row, below) = fours.split_at(count.into());
                            fours = below;
                            let mut got = vec![];
                            for four in row {
                                for pair in four.values.as_chunks::<2>().0 {
                                    let [a, b] = pair.map(|value| 255 * i32::from(value));
                                    assert!([a, b, a + b].iter().all(|&sum| i16::try_from(sum).is_ok()));
                                }
                                let stored = four.indices.into_iter().zip(four.values);
                                got.extend(stored.filter(|(_, value)| *value != 0));
                            }
                            got.sort_unstable();
                            let of = at..at + usize::from(block.counts[r]);
                            let indices = block.indices[of.clone()].iter().copied();
                            let want: Vec<_> =
                                indices.zip(block.values[of.clone()].iter().copied()).collect();
                            (full, all) = (full + got.len(), all + QUAD * row.len());
                            assert_eq!(got, want, "row {r} of block {b}");
                            at = of.end;
                        }
                    }
                }
            }
        }
        assert!(full * 10 > all * 6, "{full} of {all} are non-zeros");
    }
}
