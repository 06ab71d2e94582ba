//! Dealing the non-zeros of rows out to lanes, for the packed forms of matrix-vector products.

use crate::weight::{Number, SparseRows, TILE};

/// Tiles whose rows are dealt out among themselves, so that rows with like numbers of non-zeros share a tile.
pub const GROUP: usize = 8;

/// The column after a row's last non-zero; a weight has fewer columns.
const END: u32 = u32::MAX;

/// The non-zeros of a row, in ascending order of columns; [`END`] and a zero are the last.
pub(super) struct Row<T> {
    /// Which row of its group it is.
    pub(super) place: u8,
    columns: Vec<u32>,
    values: Vec<T>,
}

/// Calls `take` with each group of a weight, its rows in order of their numbers of non-zeros, most first.
///
/// A group's rows lie together in each block of the weight, and are read block by block.
pub(super) fn groups<T: Number>(weight: &SparseRows<'_, T>, mut take: impl FnMut(&[Row<T>])) {
    const { assert!(GROUP * TILE <= 1 << u8::BITS) };
    let row = |place| Row { place: place as u8, columns: vec![], values: vec![] };
    let mut group: Vec<Row<T>> = (0..GROUP * TILE).map(row).collect();
    for r0 in (0..weight.m()).step_by(GROUP * TILE) {
        group.truncate(weight.m() - r0);
        for (place, row) in group.iter_mut().enumerate() {
            row.place = place as u8;
            row.columns.clear();
            row.values.clear();
        }
        for b in 0..weight.blocks() {
            let block = weight.at(b);
            let mut start = block.starts[r0 / TILE] as usize;
            for (row, &count) in group.iter_mut().zip(&block.counts[r0..]) {
                let range = start..start + usize::from(count);
                start = range.end;
                row.columns
                    .extend(block.indices[range.clone()].iter().map(|&i| block.k0 as u32 + u32::from(i)));
                row.values.extend_from_slice(&block.values[range]);
            }
        }
        for row in &mut group {
            row.columns.push(END);
            row.values.push(T::default());
        }
        group.sort_by_key(|row| std::cmp::Reverse(row.columns.len()));
        take(&group);
    }
}

/// Deals the rows of a tile out to *steps*: a step names a window of consecutive columns, and each lane takes up to `STEP`
/// of its row's next non-zeros, those that lie in the window, and rests for what is missing.
///
/// `place` is told the least column that is left and says where the window starts, not after it: the row that is behind
/// advances, the others run ahead as far as the window reaches, and no lane waits at the border of a block. `take` is given
/// the columns within the window, `rest` where a lane rests, and the values, zero there.
pub(super) fn deal<T: Number, const STEP: usize>(
    rows: &[Row<T>],
    (window, rest): (usize, u8),
    mut place: impl FnMut(usize) -> usize,
    mut take: impl FnMut([[u8; STEP]; TILE], [[T; STEP]; TILE]),
) {
    let mut at = [0; TILE];
    let mut next = [END; TILE];
    for (next, row) in next.iter_mut().zip(rows) {
        *next = row.columns[0];
    }
    loop {
        let behind = next.iter().copied().fold(END, u32::min);
        if behind == END {
            return;
        }
        let first = place(behind as usize) as u32;
        let (mut columns, mut values) = ([[rest; STEP]; TILE], [[T::default(); STEP]; TILE]);
        // Without a branch on whether a lane rests, which nothing foretells.
        for (l, row) in rows.iter().enumerate() {
            for (column, value) in columns[l].iter_mut().zip(&mut values[l]) {
                let within = next[l] - first;
                let takes = within < window as u32;
                *column = if takes { within as u8 } else { rest };
                *value = if takes { row.values[at[l]] } else { T::default() };
                at[l] += usize::from(takes);
                next[l] = row.columns[at[l]];
            }
        }
        take(columns, values);
    }
}
