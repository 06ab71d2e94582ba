//! The order of a row's non-zeros in which `vpmaddubsw` may multiply them.
//!
//! The instruction adds two products of a byte and a signed byte in 16 bits, where their sum saturates: it is exact for two
//! weights of different signs, and for two of one sign that add up to 128 at most. Nothing asks for an order of the
//! non-zeros of a row within a block, so they are put side by side in pairs that fit, and pairs in fours; those that find no
//! partner follow.

use crate::kernels::gemm_i8::FITS;
use crate::weight::{QUAD, SparseRows, TILE};

/// A sparse weight's non-zeros in that order.
#[derive(Clone, Debug)]
pub struct Paired {
    indices: Vec<u8>,
    values: Vec<i8>,
    /// For each row of each block, the fours at its beginning whose pairs fit.
    fits: Vec<u8>,
}

/// The rows of a weight with its non-zeros in the order of [`Paired`].
#[derive(Clone, Debug)]
pub struct PairedRows<'a> {
    pub(super) rows: SparseRows<'a, i8>,
    fits: &'a [u8],
}

impl Paired {
    /// The non-zeros of `rows`.
    pub fn new(rows: &SparseRows<'_, i8>) -> Paired {
        let mut made = Paired {
            indices: Vec::with_capacity(rows.nnz()),
            values: Vec::with_capacity(rows.nnz()),
            fits: Vec::with_capacity(rows.m() * rows.blocks()),
        };
        let (mut signs, mut left) = ([vec![], vec![]], vec![]);
        for b in 0..rows.blocks() {
            let block = rows.at(b);
            for &count in block.counts {
                let at = made.indices.len();
                let row = at..at + usize::from(count);
                for (&index, &value) in block.indices[row.clone()].iter().zip(&block.values[row.clone()]) {
                    signs[usize::from(value < 0)].push((index, value));
                }
                while let [Some(a), Some(b)] = signs.each_ref().map(|sign| sign.last().copied()) {
                    made.push([a, b]);
                    signs.iter_mut().for_each(|sign| sign.truncate(sign.len() - 1));
                }
                for one in signs.iter_mut().flat_map(|sign| sign.drain(..)) {
                    let fits = |other: &(u8, i8)| one.1.unsigned_abs() <= FITS - other.1.unsigned_abs();
                    match left.iter().position(fits) {
                        Some(found) => made.push([left.swap_remove(found), one]),
                        None => left.push(one),
                    }
                }
                made.fits.push(((made.indices.len() - at) / QUAD) as u8);
                for one in left.drain(..) {
                    made.indices.push(one.0);
                    made.values.push(one.1);
                }
                debug_assert_eq!(made.indices.len(), row.end);
            }
        }
        made
    }

    fn push(&mut self, pair: [(u8, i8); 2]) {
        self.indices.extend(pair.map(|(index, _)| index));
        self.values.extend(pair.map(|(_, value)| value));
    }

    /// The rows, `rows` being those that it was made of.
    ///
    /// # Panics
    /// Where they are of another size.
    pub fn rows<'a>(&'a self, rows: &SparseRows<'a, i8>) -> PairedRows<'a> {
        assert_eq!(self.fits.len(), rows.m() * rows.blocks(), "rows of the weight that was paired");
        PairedRows { rows: rows.reordered(&self.indices, &self.values), fits: &self.fits }
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        self.indices.len() + self.values.len() + self.fits.len()
    }
}

impl<'a> PairedRows<'a> {
    /// Of each of some rows of a block, the fours at its beginning whose pairs fit.
    pub(super) fn fits(&self, block: usize, row: usize, rows: usize) -> &'a [u8] {
        // A weight without columns has one block of nothing.
        if self.fits.is_empty() {
            &[0; TILE][..rows]
        } else {
            &self.fits[block * self.rows.m() + row..][..rows]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::strip_i8::testing::Case;

    #[test]
    fn every_non_zero_stays_in_its_row_and_fours_that_come_first_fit() {
        let mut seen = [0; 2];
        for kind in 0..6 {
            for (m, k, zeros) in [(17, 300, 0.9), (5, 600, 0.3), (33, 64, 0.99), (16, 256, 0.0)] {
                let stored = Case::new((m, k, 1), kind, zeros).sparse(128);
                let rows = stored.rows();
                let paired = Paired::new(&rows);
                let paired = paired.rows(&rows);
                for b in 0..rows.blocks() {
                    let (block, other, mut at) =
                        (rows.at(b), paired.rows.at(b), rows.at(b).starts[0] as usize);
                    for (r, &count) in block.counts.iter().enumerate() {
                        let row = at..at + usize::from(count);
                        let pairs = |indices: &[u8], values: &[i8]| -> Vec<(u8, i8)> {
                            indices[row.clone()]
                                .iter()
                                .copied()
                                .zip(values[row.clone()].iter().copied())
                                .collect()
                        };
                        let mut got = pairs(other.indices, other.values);
                        let first = usize::from(paired.fits(b, r, 1)[0]) * QUAD;
                        for pair in got[..first].as_chunks::<2>().0 {
                            let [a, b] = pair.map(|(_, value)| i32::from(value));
                            assert!((-128..=128).contains(&(a + b)) || a * b < 0, "{a}, {b}");
                            assert!(
                                [0, 255 * a, 255 * b, 255 * (a + b)]
                                    .iter()
                                    .all(|&sum| i16::try_from(sum).is_ok())
                            );
                        }
                        seen = [seen[0] + first, seen[1] + usize::from(count) - first];
                        got.sort_unstable();
                        assert_eq!(got, pairs(block.indices, block.values), "row {r} of block {b}");
                        at = row.end;
                    }
                }
            }
        }
        assert!(seen.iter().all(|&seen| seen > 100), "{seen:?}");
    }
}
