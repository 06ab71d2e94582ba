//! The packed form of a sparse weight for a few vectors: rows in lanes, a window of `x` a step. Made once, at load.

use crate::kernels::lanes::{deal, groups};
use crate::weight::{Bytes, SparseRows, TILE};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A sparse matrix as a stream of *steps*, for kernels that put sixteen rows in the lanes.
///
/// A step names a *window* of consecutive columns; each lane either takes its row's next non-zero, if that lies in the
/// window, or rests (`deal`).
///
/// Of a weight of fours of columns, a non-zero is a four, and a column four of them.
#[derive(Debug)]
pub struct Packed<T> {
    m: usize,
    k: usize,
    nnz: usize,
    window: usize,
    /// Rows, in the order of the lanes of all tiles.
    rows: Vec<u32>,
    /// Where each tile's steps start, and one past the last.
    starts: Vec<u32>,
    /// First column of each step's window; the whole window lies in `0..k` unless `k` is less than a window.
    firsts: Vec<u32>,
    /// `[steps][16]`: column within the window, or whatever stands for a lane that rests.
    columns: Bytes,
    /// `[steps][16]`: values, zero where a lane rests.
    values: Bytes,
    of: std::marker::PhantomData<T>,
}

/// Columns to which the start of a window is rounded down.
const ROUND: usize = 16;

/// What eight lanes take of `x`, four bytes each: those at `columns` from its start. They are loaded one by one: on many
/// processors a gather is far slower.
///
/// # Safety
/// `x` has four bytes at each column.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "reads activations through their pointer")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) unsafe fn take_eight(x: *const [u8; 4], columns: &[u8; 8]) -> __m256i {
    // As floats, of which an instruction loads one into any lane; no bit of them changes.
    // SAFETY: the caller's.
    let bytes = |lane: usize| unsafe { x.add(usize::from(columns[lane])).read() };
    let one = |lane| _mm_set_ss(f32::from_ne_bytes(bytes(lane)));
    let two = |lane| _mm_unpacklo_ps(one(lane), one(lane + 1));
    let four = |lane| _mm_movelh_ps(two(lane), two(lane + 2));
    _mm256_castps_si256(_mm256_set_m128(four(4), four(0)))
}

impl<T: bytemuck::Pod + Default> Packed<T> {
    /// Packs `weight` for windows of `window` columns. The column of a lane that rests is `rest`, and its value zero.
    ///
    /// # Panics
    /// Where a window is not of 16 to 256 columns, or the steps do not fit in 32 bits; there are at most as many as non-zeros.
    pub fn new(weight: &SparseRows<'_, T>, (window, rest): (usize, u8)) -> Packed<T> {
        assert!((ROUND..=1 << u8::BITS).contains(&window), "a window of {window} columns");
        let (m, k) = (weight.m(), weight.k());
        let (mut rows, mut starts) = (vec![], vec![0]);
        let (mut firsts, mut columns, mut values) = (vec![], vec![], vec![]);
        groups(weight, |group| {
            let r0 = rows.len();
            rows.extend(group.iter().map(|row| (r0 + usize::from(row.place)) as u32));
            for tile in group.chunks(TILE) {
                let place = |behind: usize| {
                    let first = (behind / ROUND * ROUND).min(k.saturating_sub(window));
                    firsts.push(first as u32);
                    first
                };
                deal(tile, (window, rest), place, |step: [[_; 1]; TILE], taken| {
                    columns.push(step);
                    values.push(taken);
                });
                starts.push(u32::try_from(firsts.len()).expect("fewer steps than non-zeros"));
            }
        });
        Packed {
            m,
            k,
            nnz: weight.nnz(),
            window,
            rows,
            starts,
            firsts,
            columns: Bytes::copy(columns.as_flattened().as_flattened()),
            values: Bytes::copy(bytemuck::cast_slice(values.as_flattened().as_flattened())),
            of: std::marker::PhantomData,
        }
    }

    /// Rows.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Non-zeros of the matrix.
    pub fn nnz(&self) -> usize {
        self.nnz
    }

    /// Columns of a window.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        4 * (self.rows.len() + self.starts.len() + self.firsts.len()) + self.columns.len() + self.values.len()
    }

    /// The rows of a tile, lane by lane; the last tile may have fewer than sixteen.
    #[cfg(any(target_arch = "x86_64", test))]
    pub(in crate::kernels) fn rows(&self, tile: usize) -> &[u32] {
        &self.rows[tile * TILE..self.m.min((tile + 1) * TILE)]
    }

    /// The steps of a tile: for each its window's start, sixteen columns and sixteen values.
    #[cfg(any(target_arch = "x86_64", test))]
    pub(in crate::kernels) fn steps(&self, tile: usize) -> (&[u32], &[[u8; TILE]], &[[T; TILE]]) {
        let steps = self.starts[tile] as usize..self.starts[tile + 1] as usize;
        (
            &self.firsts[steps.clone()],
            &self.columns.as_chunks().0[steps.clone()],
            &bytemuck::cast_slice::<_, T>(&self.values).as_chunks().0[steps],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::lanes::GROUP;
    use crate::testing::Rng;
    use crate::weight::{Matrix, Unit, Values};

    #[test]
    fn every_non_zero_is_in_one_step_of_its_row_in_order() {
        let mut rng = Rng::new(4);
        for (m, k, zeros) in [(1, 1, 0.0), (17, 63, 0.5), (40, 64, 0.9), (33, 700, 0.97), (16, 300, 1.0)] {
            let dense = rng.sparse_floats(m * k, zeros);
            let (counts, indices, values) = crate::weight::sparse(m, k, 255, &dense).unwrap();
            let matrix =
                Matrix::sparse((m, k, 1), (Unit::ONE, 255), counts, indices, Values::copy(&values), None)
                    .unwrap();
            for (window, rest) in [(16, 0), (64, 0x80), (256, 0)] {
                let packed = Packed::new(&matrix.rows::<f32>(), (window, rest));
                let mut back = vec![0.0; m * k];
                let mut seen = vec![];
                for tile in 0..m.div_ceil(TILE) {
                    let (firsts, columns, values) = packed.steps(tile);
                    seen.extend_from_slice(packed.rows(tile));
                    let groups = |r: &u32| *r as usize / TILE / GROUP == tile / GROUP;
                    assert!(packed.rows(tile).iter().all(groups), "rows stay in their group");
                    for (lane, &r) in packed.rows(tile).iter().enumerate() {
                        let mut last = None;
                        for (i, &first) in firsts.iter().enumerate() {
                            if values[i][lane] == 0.0 {
                                assert_eq!(columns[i][lane], rest);
                                continue;
                            }
                            assert!(usize::from(columns[i][lane]) < window);
                            let column = first as usize + usize::from(columns[i][lane]);
                            assert!(last < Some(column), "ascending");
                            last = Some(column);
                            back[r as usize * k + column] = values[i][lane];
                        }
                    }
                    for &first in firsts {
                        assert!(first == 0 || first as usize + window <= k, "a window within the columns");
                    }
                    for values in values {
                        let resting = &values[packed.rows(tile).len()..];
                        assert!(resting.iter().all(|&value| value == 0.0), "lanes beyond the last row rest");
                    }
                }
                seen.sort_unstable();
                assert!(seen.into_iter().eq(0..m as u32), "every row once");
                assert_eq!(back, dense);
            }
        }
    }
}
