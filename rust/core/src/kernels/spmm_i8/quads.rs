//! The form of a sparse weight that x86 reads: fours of non-zeros of a row.
//!
//! A row's last four of a block is filled up with zeros, so that a kernel does one thing, a number of times. That number is
//! what a processor has to guess for every row, and it guesses wrong for most where numbers differ: rows are computed in the
//! order of their numbers, so that it changes seldom.

#![allow(unsafe_code, reason = "sums are not initialised before they are written")]

use crate::kernels::strip_i8::{NR, StripI8};
use crate::weight::{QUAD, SparseRows, TILE};
use std::mem::MaybeUninit;
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

/// Rows that pass over a block of the panel before the next block's turn: enough that the panel comes from the second-level
/// cache seldom, few enough that their sums, 256 bytes a row and [`NR`] columns, do not leave it.
pub(super) const GROUP: usize = 8 * TILE;

/// A row of a group in a block of columns.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    /// Which of the group it is.
    row: u8,
    /// How many fours it has.
    fours: u8,
}

/// The rows of a group in a block, by how many fours they have.
#[derive(Clone, Debug)]
struct Part {
    rows: [Row; GROUP],
    /// Where the fours of the first start.
    start: usize,
}

/// A sparse weight in fours of non-zeros, in the order in which a strip is computed: groups of rows, blocks of
/// columns, rows. A weight that no near cache holds comes as one stream.
#[derive(Clone, Debug)]
pub struct Quads {
    m: usize,
    block: usize,
    blocks: usize,
    /// `[groups][blocks]`.
    parts: Vec<Part>,
    non_zeros: Vec<Quad>,
}

/// The greatest sum of two weights of one sign that `vpmaddubsw` multiplies exactly, whatever the activations are:
/// `255 · 128 < 2¹⁵`.
const FITS: u8 = 128;

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
        let (m, block, blocks) = (rows.m(), rows.block(), rows.blocks());
        let mut made = Quads { m, block, blocks, parts: vec![], non_zeros: vec![] };
        made.parts.reserve_exact(m.div_ceil(GROUP) * blocks);
        made.non_zeros.reserve(rows.nnz() / QUAD);
        // The fours of a group as they come, and where those of each row are among them.
        let (mut some, mut fours, mut found) = (vec![], vec![], vec![]);
        for group in (0..m).step_by(GROUP) {
            for block in (0..blocks).map(|b| rows.at(b)) {
                fours.clear();
                found.clear();
                let mut at = block.starts[group / TILE] as usize;
                for &count in block.counts[group..].iter().take(GROUP) {
                    let row = at..at + usize::from(count);
                    at = row.end;
                    some.clear();
                    let (indices, values) = (&block.indices[row.clone()], &block.values[row]);
                    some.extend(indices.iter().copied().zip(values.iter().copied()));
                    let before = fours.len();
                    order(&some, &mut fours);
                    found.push((found.len(), before..fours.len()));
                }
                found.sort_by_key(|(_, fours)| fours.len());
                let mut part = Part { rows: [Row::default(); GROUP], start: made.non_zeros.len() };
                for (to, (row, of)) in part.rows.iter_mut().zip(found.drain(..)) {
                    *to = Row { row: row as u8, fours: of.len() as u8 };
                    made.non_zeros.extend_from_slice(&fours[of]);
                }
                made.parts.push(part);
            }
        }
        made.non_zeros.shrink_to_fit();
        made
    }

    /// The rows of a group in a block, and the fours of all; their indices are columns of the block.
    fn part(&self, group: usize, block: usize) -> (&[Row], &[Quad]) {
        let at = group * self.blocks + block;
        let part = &self.parts[at];
        let end = self.parts.get(at + 1).map_or(self.non_zeros.len(), |next| next.start);
        (&part.rows[..(self.m - group * GROUP).min(GROUP)], &self.non_zeros[part.start..end])
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.parts[..]) + size_of_val(&self.non_zeros[..])
    }
}

/// The sums of a group of rows over [`NR`] columns.
#[repr(C, align(64))]
pub(super) struct Sums([[i32; NR]; GROUP]);

impl Sums {
    /// The sums of a row.
    ///
    /// # Safety
    /// `at` points to sums, which need not be initialised, and the group has the row.
    #[inline(always)]
    pub(super) unsafe fn row(at: *mut Sums, r: usize) -> *mut i32 {
        // SAFETY: the caller's.
        unsafe { (&raw mut (*at).0).cast::<i32>().add(r * NR) }
    }

    /// The sums of some rows.
    ///
    /// # Safety
    /// As [`Sums::row`], of each; theirs are initialised and not written to meanwhile.
    #[inline(always)]
    pub(super) unsafe fn rows<'a>(at: *mut Sums, rows: Range<usize>) -> &'a [[i32; NR]] {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts(Sums::row(at, rows.start).cast(), rows.len()) }
    }
}

/// A group of rows in one block of columns.
pub(super) struct Place<'a> {
    /// The weight's row that is row 0 of the group.
    pub(super) first: usize,
    /// Rows of the group that are to be computed.
    pub(super) wanted: Range<usize>,
    /// Rows in the order of their fours.
    rows: &'a [Row],
    /// The fours of all of them.
    quads: &'a [Quad],
    /// Row 0 of the block's panel.
    pub(super) panel: *const u8,
    /// What the sums of each row of the group start from, where this is the first block: they are then overwritten.
    pub(super) start: Option<&'a [i32]>,
    /// Whether this is the last block: the finished sums are then to be stored.
    pub(super) last: bool,
}

impl Place<'_> {
    /// The rows that are to be computed, which of the group each is, and its fours.
    #[inline(always)]
    pub(super) fn rows(&self) -> impl Iterator<Item = (usize, &[Quad])> {
        let mut quads = self.quads;
        let rows = self.rows.iter().map(move |row| {
            let (fours, below) = quads.split_at(row.fours.into());
            quads = below;
            (usize::from(row.row), fours)
        });
        rows.filter(|(r, _)| self.wanted.contains(r))
    }
}

/// Rows without non-zeros, of a weight without columns.
const EMPTY: [Row; GROUP] = {
    let mut rows = [Row { row: 0, fours: 0 }; GROUP];
    let mut r = 0;
    while r < GROUP {
        rows[r].row = r as u8;
        r += 1;
    }
    rows
};

/// The loop nest: hands `add` a group of rows and a block at a time, with the group's sums so far, of `H` times [`NR`]
/// columns, in whatever order of columns the tier left them: at first uninitialised. `add` stores what comes of the last
/// block.
///
/// To be inlined into a function compiled for the tier, of which `add` is a closure.
///
/// # Safety
/// As [`ByQuads`](super::ByQuads).
#[inline(always)]
pub(super) unsafe fn groups<const H: usize>(
    s: &StripI8<'_, &Quads>,
    add: impl Fn(&Place<'_>, *mut [Sums; H]),
) {
    let weight = s.weight;
    // The first block overwrites all columns of a strip that is wide, and half of them otherwise.
    let wide = s.n > NR / 2;
    let mut sums = if wide { MaybeUninit::<[Sums; H]>::uninit() } else { MaybeUninit::zeroed() };
    for group in s.rows.0 / GROUP..s.rows.1.div_ceil(GROUP) {
        let first = group * GROUP;
        let wanted = s.rows.0.max(first) - first..s.rows.1.min(first + GROUP) - first;
        let offset = &s.requant.offset[first..weight.m.min(first + GROUP)];
        for b in 0..weight.blocks.max(1) {
            let (rows, quads) =
                if weight.blocks == 0 { (&EMPTY[..offset.len()], &[][..]) } else { weight.part(group, b) };
            let place = Place {
                first,
                wanted: wanted.clone(),
                rows,
                quads,
                // SAFETY: the panel has the rows of every block.
                panel: unsafe { s.panel.add(b * weight.block * s.panel_stride) },
                start: (b == 0).then_some(offset),
                last: b + 1 >= weight.blocks,
            };
            add(&place, sums.as_mut_ptr());
        }
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
            for (m, k, zeros) in
                [(17, 300, 0.9), (5, 600, 0.3), (33, 64, 0.99), (16, 256, 0.0), (150, 256, 0.9)]
            {
                let stored = Case::new((m, k, 1), kind, zeros).sparse(128);
                let rows = stored.rows();
                let quads = made(&rows);
                assert_eq!((quads.block, quads.blocks), (rows.block(), rows.blocks()));
                for (b, group) in (0..rows.blocks()).flat_map(|b| (0..m.div_ceil(GROUP)).map(move |g| (b, g)))
                {
                    let (block, (order, mut fours)) = (rows.at(b), quads.part(group, b));
                    assert!(order.is_sorted_by_key(|row| row.fours), "{order:?}");
                    let mut seen = vec![];
                    for row in order {
                        let (of, below) = fours.split_at(row.fours.into());
                        fours = below;
                        let mut got = vec![];
                        for four in of {
                            assert!(fits(four), "{four:?}");
                            let stored = four.indices.into_iter().zip(four.values);
                            got.extend(stored.filter(|(_, value)| *value != 0));
                        }
                        got.sort_unstable();
                        let r = group * GROUP + usize::from(row.row);
                        let before = block.counts[..r].iter().map(|&count| usize::from(count)).sum::<usize>();
                        let at = block.starts[0] as usize + before;
                        let stored = at..at + usize::from(block.counts[r]);
                        let indices = block.indices[stored.clone()].iter().copied();
                        let want: Vec<_> = indices.zip(block.values[stored].iter().copied()).collect();
                        (full, all) = (full + got.len(), all + QUAD * of.len());
                        assert_eq!(got, want, "row {r} of block {b}");
                        seen.push(row.row);
                    }
                    assert!(fours.is_empty(), "{} fours belong to no row", fours.len());
                    seen.sort_unstable();
                    assert!(seen.into_iter().map(usize::from).eq(0..(m - group * GROUP).min(GROUP)));
                }
            }
        }
        assert!(full as f64 > share * all as f64, "{full} of {all} are non-zeros");
    }
}
