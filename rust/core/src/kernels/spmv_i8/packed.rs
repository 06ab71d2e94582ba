//! The packed form: sixteen rows in lanes, a window of `x` a step. Made once, at load, for tiers that look elements up in
//! registers.

#[cfg(any(target_arch = "x86_64", test))]
use crate::kernels::lanes::GROUP;
use crate::kernels::lanes::{deal, groups};
use crate::weight::{Bytes, SparseRows, TILE};

/// Non-zeros of a row that a step takes.
pub(super) const STEP: usize = 4;

/// A sparse matrix as a stream of *steps*, for kernels that put sixteen rows in the lanes.
///
/// A step names a *window* of consecutive columns; each lane takes up to `STEP` of its row's next non-zeros, those that lie
/// in the window, and rests for what is missing (`deal`).
#[derive(Debug)]
pub struct Packed {
    m: usize,
    k: usize,
    /// Columns of a window, and those to which its start is rounded down.
    window: (usize, usize),
    /// The row of its group that each lane of each tile has.
    rows: Vec<u8>,
    /// Where each tile's steps start, and one past the last.
    starts: Vec<u32>,
    /// How far, in what windows are rounded to, each step's window lies beyond the one before, a tile's first beyond 0.
    advances: Bytes,
    /// `[steps][2][16][STEP]`: columns within the window, then values, which are zero where a lane rests.
    lines: Bytes,
}

/// Sixteen rows of four bytes: one register, one cache line.
pub(super) type Line = [[u8; STEP]; TILE];

impl Packed {
    /// Packs `weight` for windows of `window` columns that start at multiples of `round`, or end with the weight.
    ///
    /// # Panics
    /// Where an offset within a window does not fit in a byte, or the steps in 32 bits; there are at most as many as
    /// non-zeros and a few a tile and 255 times `round` columns.
    pub fn new(weight: &SparseRows<'_, i8>, window: usize, round: usize) -> Packed {
        assert!(
            (1..=1 << u8::BITS).contains(&window) && (1..=window).contains(&round),
            "{window} and {round}"
        );
        let (m, k) = (weight.m(), weight.k());
        let (mut rows, mut starts) = (vec![], vec![0]);
        let (mut advances, mut lines): (Vec<u8>, Vec<[Line; 2]>) = (vec![], vec![]);
        groups(weight, |group| {
            rows.extend(group.iter().map(|row| row.place));
            for tile in group.chunks(TILE) {
                let mut at = 0;
                let place = |behind: usize| {
                    let advance = ((behind - at) / round).min(u8::MAX.into());
                    at += advance * round;
                    advances.push(advance as u8);
                    at.min(k.saturating_sub(window))
                };
                deal(tile, (window, 0), place, |columns, values: [[i8; STEP]; TILE]| {
                    lines.push([columns, bytemuck::cast(values)]);
                });
                starts.push(u32::try_from(advances.len()).expect("steps fit in 32 bits"));
            }
        });
        let lines = Bytes::copy(lines.as_flattened().as_flattened().as_flattened());
        Packed { m, k, window: (window, round), rows, starts, advances: Bytes::copy(&advances), lines }
    }

    /// Rows.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of a window.
    pub fn window(&self) -> usize {
        self.window.0
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        4 * self.starts.len() + self.rows.len() + self.advances.len() + self.lines.len()
    }

    /// The steps of a tile: for each its window's first column, and a line of columns within it and one of values. A window
    /// lies in `0..k` unless `k` is less than a window.
    #[cfg(any(target_arch = "x86_64", test))]
    #[inline(always)]
    pub(super) fn steps(&self, tile: usize) -> impl Iterator<Item = (usize, &[Line; 2])> {
        let steps = self.starts[tile] as usize..self.starts[tile + 1] as usize;
        let lines: &[[Line; 2]] = &self.lines.as_chunks().0.as_chunks().0.as_chunks().0[steps.clone()];
        let (window, round) = self.window;
        let (mut at, last) = (0, self.k.saturating_sub(window));
        self.advances[steps].iter().zip(lines).map(move |(&advance, lines)| {
            at += usize::from(advance) * round;
            (at.min(last), lines)
        })
    }

    /// Sums of `N` vectors over a group of tiles, row by row: `sum` gives those of a tile, lane by lane.
    #[cfg(any(target_arch = "x86_64", test))]
    #[inline(always)]
    pub(super) fn group<const N: usize>(
        &self,
        group: usize,
        sum: impl Fn(usize) -> [[i32; TILE]; N],
    ) -> [[[i32; TILE]; GROUP]; N] {
        let mut sums = [[[0; TILE]; GROUP]; N];
        let r0 = group * GROUP * TILE;
        let rows = &self.rows[r0..self.m.min(r0 + GROUP * TILE)];
        for (t, rows) in rows.chunks(TILE).enumerate() {
            for (sums, lanes) in sums.iter_mut().zip(sum(group * GROUP + t)) {
                for (&r, lane) in rows.iter().zip(lanes) {
                    sums.as_flattened_mut()[usize::from(r)] = lane;
                }
            }
        }
        sums
    }

    /// Where `k` is less than a window, points vectors to copies of them in `short`, from which a window can be read.
    ///
    /// # Panics
    /// Where windows are not of `WINDOW` columns.
    ///
    /// # Safety
    /// Each vector has `k` elements.
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code, reason = "vectors are pointers")]
    pub(super) unsafe fn lengthen<const WINDOW: usize>(
        &self,
        x: &mut [*const u8],
        short: &mut [[u8; WINDOW]],
    ) {
        assert_eq!(self.window(), WINDOW, "the weight is packed for another tier");
        if self.k < WINDOW {
            for (x, short) in x.iter_mut().zip(short) {
                // SAFETY: the caller's.
                short[..self.k].copy_from_slice(unsafe { std::slice::from_raw_parts(*x, self.k) });
                *x = short.as_ptr();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;
    use crate::weight::{sparse, sparse_starts};

    fn pack(dense: &[i8], m: usize, k: usize, (window, round): (usize, usize)) -> Packed {
        let block = 255;
        let (counts, indices, values) = sparse(m, k, block, dense).unwrap();
        let starts = sparse_starts(m, k, block, &counts, &indices).unwrap();
        Packed::new(
            &SparseRows::new(m, k, block, &counts, &indices, &starts, &values).unwrap(),
            window,
            round,
        )
    }

    /// Puts the steps back into rows.
    fn check(dense: &[i8], m: usize, k: usize) {
        for windows in [(256, 64), (128, 8), (64, 8)] {
            check_windows(dense, m, k, windows);
        }
    }

    fn check_windows(dense: &[i8], m: usize, k: usize, (window, round): (usize, usize)) {
        let packed = pack(dense, m, k, (window, round));
        let mut back = vec![0; m * k];
        for group in 0..m.div_ceil(GROUP * TILE) {
            let r0 = group * GROUP * TILE;
            // The "sum" of a lane is the lane: so each row says which it has.
            let lanes = packed.group(group, |t| [std::array::from_fn(|lane| (t * TILE + lane) as i32)]);
            let rows = m.min(r0 + GROUP * TILE) - r0;
            for (r, &lane) in lanes[0].as_flattened()[..rows].iter().enumerate() {
                let (tile, lane) = (lane as usize / TILE, lane as usize % TILE);
                let mut last = None;
                for (first, [columns, values]) in packed.steps(tile) {
                    assert!(first == 0 || first + window <= k, "a window within the columns");
                    assert!(first.is_multiple_of(round) || first + window == k, "it starts at a multiple");
                    for (&column, &value) in columns[lane].iter().zip(&values[lane]) {
                        if value == 0 {
                            continue;
                        }
                        assert!(usize::from(column) < window, "a column of the window");
                        let column = first + usize::from(column);
                        assert!(last < Some(column), "ascending");
                        last = Some(column);
                        back[(r0 + r) * k + column] = value.cast_signed();
                    }
                }
            }
        }
        assert_eq!(back, dense);
    }

    fn random(len: usize, zeros: f64, rng: &mut Rng) -> Vec<i8> {
        (0..len)
            .map(|_| if (rng.below(1000) as f64) < zeros * 1000.0 { 0 } else { (rng.below(127) + 1) as i8 })
            .collect()
    }

    #[test]
    fn every_non_zero_is_in_one_step_of_its_row_in_order() {
        let mut rng = Rng::new(4);
        for (m, k, zeros) in
            [(1, 1, 0.0), (17, 63, 0.5), (140, 64, 0.9), (300, 700, 0.97), (130, 257, 0.8), (16, 300, 1.0)]
        {
            check(&random(m * k, zeros, &mut rng), m, k);
        }
    }

    #[test]
    fn a_window_crosses_a_long_stretch_of_zeros_in_several_steps() {
        let mut dense = vec![0; 50_000];
        (dense[3], dense[49_998]) = (1, 2);
        check(&dense, 1, 50_000);
    }

    #[test]
    fn rows_with_as_many_non_zeros_share_a_tile() {
        // Every eighth row is full: sixteen of them, which one tile takes.
        let dense: Vec<i8> = (0..128 * 64).map(|i| i8::from(i / 64 % 8 == 0)).collect();
        let packed = pack(&dense, 128, 64, (256, 64));
        let steps: Vec<usize> = (0..GROUP).map(|t| packed.steps(t).count()).collect();
        assert_eq!(steps, [64 / STEP, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(packed.bytes(), 9 * 4 + 128 + 16 + 16 * 128);
    }
}
