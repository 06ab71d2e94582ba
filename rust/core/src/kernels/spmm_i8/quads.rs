//! The form of a sparse weight that x86 reads: fours of non-zeros of a row.
//!
//! A row's last four of a block is filled up with zeros, so that a kernel does one thing, a number of times that it can
//! foresee better than where the last non-zeros are a case of their own.

use crate::kernels::gemm_i8::FITS;
use crate::weight::{QUAD, SparseRows, TILE};
use std::ops::Range;

/// Four non-zeros of a row, or fewer and zeros.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Quad {
    pub(super) indices: [u8; QUAD],
    pub(super) values: [i8; QUAD],
}

impl Quad {
    /// One to four non-zeros; what fills them up has an index of theirs.
    fn new(some: &[(u8, i8)]) -> Quad {
        let at = |i: usize| some.get(i).copied().unwrap_or((some[0].0, 0));
        let four: [_; QUAD] = std::array::from_fn(at);
        Quad { indices: four.map(|one| one.0), values: four.map(|one| one.1) }
    }
}

/// A sparse weight in fours of non-zeros, ordered as [`SparseRows`] is but within rows.
#[derive(Clone, Debug)]
pub struct Quads {
    m: usize,
    block: usize,
    /// Fours of each row, `[blocks][m]`.
    counts: Vec<u8>,
    /// Where each tile of rows starts, `[blocks][tiles]`, and one past the last.
    starts: Vec<usize>,
    non_zeros: Vec<Quad>,
}

impl Quads {
    /// The non-zeros of `rows` in their order.
    pub fn in_turn(rows: &SparseRows<'_, i8>) -> Quads {
        Quads::new(rows, |row, quads| quads.extend(row.chunks(QUAD).map(Quad::new)))
    }

    /// The non-zeros of `rows` as `vpmaddubsw` takes them. The instruction adds two products of a byte and a signed byte in
    /// 16 bits, where their sum saturates: it is exact for two weights of different signs, and for two of one sign that add
    /// up to 128 at most. Those that fit are put side by side; one that finds no partner has a zero for it.
    pub fn in_pairs(rows: &SparseRows<'_, i8>) -> Quads {
        let (mut signs, mut left, mut pairs) = ([vec![], vec![]], vec![], vec![]);
        Quads::new(rows, |row, quads| {
            for &(index, value) in row {
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
            quads.extend(pairs.chunks(2).map(|two| Quad::new(two.as_flattened())));
            pairs.clear();
        })
    }

    /// What `order` makes of each row of a block, which it appends.
    fn new(rows: &SparseRows<'_, i8>, mut order: impl FnMut(&[(u8, i8)], &mut Vec<Quad>)) -> Quads {
        let (m, block) = (rows.m(), rows.block());
        let mut made = Quads { m, block, counts: vec![], starts: vec![], non_zeros: vec![] };
        made.counts.reserve_exact(m * rows.blocks());
        made.non_zeros.reserve(rows.nnz() / QUAD);
        let mut some = vec![];
        for block in (0..rows.blocks()).map(|b| rows.at(b)) {
            let mut at = block.starts[0] as usize;
            for (r, &count) in block.counts.iter().enumerate() {
                if r % TILE == 0 {
                    made.starts.push(made.non_zeros.len());
                }
                let row = at..at + usize::from(count);
                at = row.end;
                some.clear();
                let (indices, values) = (&block.indices[row.clone()], &block.values[row]);
                some.extend(indices.iter().copied().zip(values.iter().copied()));
                let before = made.non_zeros.len();
                order(&some, &mut made.non_zeros);
                made.counts.push((made.non_zeros.len() - before) as u8);
            }
        }
        made.starts.push(made.non_zeros.len());
        made.non_zeros.shrink_to_fit();
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

    /// How many blocks of columns there are, and the bytes of each in a panel whose rows are `stride` apart.
    pub(super) fn bytes_of_block(&self, stride: usize) -> (usize, usize) {
        (self.blocks(), self.block() * stride)
    }

    /// How many fours each row of a tile has in a block, and these; their indices are columns of the block.
    pub(super) fn rows(&self, block: Option<usize>, rows: Range<usize>) -> (&[u8], &[Quad]) {
        let Some(block) = block else { return (&[0; TILE][..rows.len()], &[]) };
        let tile = block * self.m.div_ceil(TILE) + rows.start / TILE;
        let counts = &self.counts[block * self.m..][rows];
        (counts, &self.non_zeros[self.starts[tile]..self.starts[tile + 1]])
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        self.counts.len() + size_of_val(&self.starts[..]) + size_of_val(&self.non_zeros[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::strip_i8::testing::Case;

    #[test]
    fn every_non_zero_is_in_a_four_of_its_row() {
        check(Quads::in_turn, |_| true, 0.7);
    }

    #[test]
    fn every_pair_fits() {
        let fits = |[a, b]: [i32; 2]| [a, b, a + b].iter().all(|&sum| i16::try_from(255 * sum).is_ok());
        check(
            Quads::in_pairs,
            |quad| quad.values.as_chunks().0.iter().all(|pair| fits(pair.map(i32::from))),
            0.6,
        );
    }

    /// Checks each four by `fits`, and that a share of all are non-zeros.
    fn check(made: impl Fn(&SparseRows<'_, i8>) -> Quads, fits: impl Fn(&Quad) -> bool, share: f64) {
        let (mut full, mut all) = (0, 0);
        for kind in 0..6 {
            for (m, k, zeros) in [(17, 300, 0.9), (5, 600, 0.3), (33, 64, 0.99), (16, 256, 0.0)] {
                let stored = Case::new((m, k, 1), kind, zeros).sparse(128);
                let rows = stored.rows();
                let quads = made(&rows);
                assert_eq!((quads.block(), quads.blocks()), (rows.block(), rows.blocks()));
                for b in 0..rows.blocks() {
                    let (block, mut at) = (rows.at(b), rows.at(b).starts[0] as usize);
                    for r0 in (0..m).step_by(TILE) {
                        let (counts, mut fours) = quads.rows(Some(b), r0..m.min(r0 + TILE));
                        for (r, &count) in (r0..).zip(counts) {
                            let (row, below) = fours.split_at(count.into());
                            fours = below;
                            let mut got = vec![];
                            for four in row {
                                assert!(fits(four), "{four:?}");
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
        assert!(full as f64 > share * all as f64, "{full} of {all} are non-zeros");
    }
}
