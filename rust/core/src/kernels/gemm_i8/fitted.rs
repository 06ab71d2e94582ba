//! The form of a dense weight that `vpmaddubsw` reads.
//!
//! The instruction multiplies unsigned bytes by signed ones and adds two products in 16 bits, where the sum saturates: with
//! an activation of 255, two weights of one sign fit if they add up to 128 at most, and only then is the instruction exact.
//! Of trained weights nearly all pairs fit. So each group of four columns is looked at once, when the form is made, and
//! filed under what its weights allow:
//!
//! - *twos*: two groups whose sums fit 16 bits even added to each other; one widening to 32 bits serves both;
//! - *ones*: a group whose pairs fit;
//! - *wide*: any other, its weights in 16 bits, for `vpmaddwd`.
//!
//! Groups of four columns in which all weights are zero are left out. The order of an exact sum is free.

use crate::kernels::strip_i8::{BLOCK_QUADS, word};
use crate::weight::{QUAD, TILE, TilesI8};

/// Rows that share a sequence of steps: as many as a kernel keeps sums of.
pub(super) const ROWS: usize = 4;

/// Of a group of columns, what is broadcast for each row.
pub(super) type Words = [i32; ROWS];

/// The greatest sum of two weights of one sign that `vpmaddubsw` multiplies exactly, whatever the activations are:
/// `255 · 128 < 2¹⁵`.
pub(in crate::kernels) const FITS: u8 = 128;

/// A dense weight as sequences of steps, one sequence for four rows of a block of the depth.
#[derive(Clone, Debug)]
pub struct Fitted {
    k: usize,
    sequences: Vec<Sequence>,
    /// Where in the block the columns of a step lie, in groups of four; two entries for a wide one.
    places: Vec<u8>,
    words: Vec<Words>,
}

/// Where the steps of four rows of a block lie, and how many of each kind there are.
#[derive(Clone, Copy, Debug, Default)]
struct Sequence {
    start: usize,
    twos: u8,
    ones: u8,
    wide: u8,
}

/// The steps of four rows of a block: for each, its groups of columns and what is broadcast.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps<'a> {
    pub(super) twos: (&'a [[u8; 2]], &'a [[Words; 2]]),
    pub(super) ones: (&'a [u8], &'a [Words]),
    /// The group twice, and pairs of 16 bits: the even columns, then the odd ones.
    pub(super) wide: (&'a [[u8; 2]], &'a [[Words; 2]]),
}

/// For each row and pair of columns the sum of the positive weights and that of the negative ones, without its sign.
type Sums = [u8; ROWS * QUAD];

/// A group of four columns that fits.
#[derive(Clone, Copy)]
struct Group {
    place: u8,
    words: Words,
    sums: Sums,
}

impl Fitted {
    /// Of the form that a file has.
    pub fn new(weight: &TilesI8<'_>) -> Fitted {
        let mut made = Fitted { k: weight.k(), sequences: vec![], places: vec![], words: vec![] };
        let tiles = weight.m().div_ceil(TILE);
        made.places.reserve_exact(tiles * weight.quads() * (TILE / ROWS));
        made.words.reserve_exact(tiles * weight.quads() * (TILE / ROWS));
        for tile in 0..tiles {
            let stored: &[[[i8; QUAD]; TILE]] = weight.tile(tile).as_chunks().0.as_chunks().0;
            // A depth of nothing is a block too, as it is to the loop that walks blocks.
            let empty = stored.is_empty().then_some(stored);
            for block in empty.into_iter().chain(stored.chunks(BLOCK_QUADS)) {
                for rows in 0..TILE / ROWS {
                    made.push(block.iter().map(|quad| &quad.as_chunks().0[rows]));
                }
            }
        }
        made.places.shrink_to_fit();
        made.words.shrink_to_fit();
        made
    }

    /// Adds the sequence of four rows of a block, whose groups of columns are given.
    fn push<'a>(&mut self, block: impl Iterator<Item = &'a [[i8; QUAD]; ROWS]>) {
        let (mut sequence, mut ones, mut wide) =
            (Sequence { start: self.words.len(), ..Sequence::default() }, vec![], vec![]);
        for (place, weights) in block.enumerate() {
            let place = u8::try_from(place).expect("a block has few groups");
            if weights.as_flattened().iter().all(|&w| w == 0) {
                continue;
            }
            let sums = sums(weights);
            if !fit(&sums, &[0; ROWS * QUAD]) {
                wide.push((place, weights));
                continue;
            }
            let group = Group { place, words: weights.map(word), sums };
            match ones.iter().position(|other: &Group| fit(&other.sums, &sums)) {
                Some(found) => {
                    let other = ones.swap_remove(found);
                    self.places.extend([other.place, place]);
                    self.words.extend([other.words, group.words]);
                    sequence.twos += 1;
                }
                None => ones.push(group),
            }
        }
        sequence.ones = ones.len() as u8;
        self.places.extend(ones.iter().map(|group| group.place));
        self.words.extend(ones.iter().map(|group| group.words));
        sequence.wide = wide.len() as u8;
        for (place, weights) in wide {
            let pair = |[a, b]: [i8; 2]| bytemuck::cast([i16::from(a), i16::from(b)]);
            self.places.extend([place; 2]);
            self.words.push(weights.map(|[a, _, c, _]| pair([a, c])));
            self.words.push(weights.map(|[_, b, _, d]| pair([b, d])));
        }
        self.sequences.push(sequence);
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Groups of four columns, the last padded.
    #[inline]
    pub(super) fn quads(&self) -> usize {
        self.k.div_ceil(QUAD)
    }

    /// The steps of the rows from `r0` of a tile, over the columns of a block. None of them names a group of columns that
    /// the block has not got.
    #[inline]
    pub(super) fn steps(&self, tile: usize, block: usize, r0: usize) -> Steps<'_> {
        let blocks = self.quads().div_ceil(BLOCK_QUADS).max(1);
        let Sequence { start, twos, ones, wide } =
            self.sequences[(tile * blocks + block) * (TILE / ROWS) + r0 / ROWS];
        let (twos, ones, wide) = (2 * usize::from(twos), usize::from(ones), 2 * usize::from(wide));
        let (places, words) = (&self.places[start..], &self.words[start..]);
        let ((two_places, places), (two_words, words)) = (places.split_at(twos), words.split_at(twos));
        let ((one_places, places), (one_words, words)) = (places.split_at(ones), words.split_at(ones));
        Steps {
            twos: (two_places.as_chunks().0, two_words.as_chunks().0),
            ones: (one_places, one_words),
            wide: (places[..wide].as_chunks().0, words[..wide].as_chunks().0),
        }
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.sequences[..]) + self.places.len() + size_of_val(&self.words[..])
    }
}

/// What the instruction adds up for a group at most, divided by 255.
fn sums(weights: &[[i8; QUAD]; ROWS]) -> Sums {
    let mut sums = [0; ROWS * QUAD];
    for (sums, &[a, b]) in sums.as_chunks_mut::<2>().0.iter_mut().zip(weights.as_flattened().as_chunks().0) {
        let positive = |w: i8| w.max(0) as u8;
        let negative = |w: i8| w.min(0).unsigned_abs();
        *sums = [positive(a) + positive(b), negative(a).saturating_add(negative(b))];
    }
    sums
}

/// Whether two groups may be added in 16 bits.
fn fit(a: &Sums, b: &Sums) -> bool {
    a.iter().zip(b).fold(0, |most: u8, (a, b)| most.max(a.saturating_add(*b))) <= FITS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;
    use crate::weight::tile_i8;

    /// The weights of four rows of a block that the steps stand for, `[quads][4][4]`; panics where a step does not fit.
    fn weights(steps: Steps<'_>, quads: usize) -> Vec<[[i8; QUAD]; ROWS]> {
        let mut weights = vec![[[0; QUAD]; ROWS]; quads];
        let bytes = |words: Words| words.map(bytemuck::cast::<_, [i8; QUAD]>);
        for (&[a, b], &[v, w]) in steps.twos.0.iter().zip(steps.twos.1) {
            (weights[usize::from(a)], weights[usize::from(b)]) = (bytes(v), bytes(w));
            assert!(a != b && fit(&sums(&bytes(v)), &sums(&bytes(w))));
        }
        for (&a, &w) in steps.ones.0.iter().zip(steps.ones.1) {
            weights[usize::from(a)] = bytes(w);
            assert!(sums(&bytes(w)).into_iter().all(|sum| sum <= 128));
        }
        for (&[a, b], &[even, odd]) in steps.wide.0.iter().zip(steps.wide.1) {
            assert_eq!(a, b);
            for r in 0..ROWS {
                let [even, odd] = [even[r], odd[r]].map(bytemuck::cast::<_, [i16; 2]>);
                weights[usize::from(a)][r] = [even[0], odd[0], even[1], odd[1]].map(|w| w as i8);
            }
        }
        weights
    }

    #[test]
    fn every_weight_is_in_a_step_that_it_fits() {
        let mut rng = Rng::new(5);
        let mut kinds = [0; 3];
        for (m, k) in [(1, 1), (16, 64), (17, 255), (33, 256), (5, 300), (16, 0), (20, 1030)] {
            for bits in 0..8 {
                let rows: Vec<i8> = (0..m * k).map(|_| (rng.below(256) as u8 as i8) >> bits).collect();
                let tiles = tile_i8(m, k, &rows);
                let stored = TilesI8::new(m, k, &tiles).unwrap();
                let fitted = Fitted::new(&stored);
                for tile in 0..m.div_ceil(TILE) {
                    let quads: &[[[i8; QUAD]; TILE]] = stored.tile(tile).as_chunks().0.as_chunks().0;
                    for (block, quads) in quads.chunks(BLOCK_QUADS).enumerate() {
                        for r0 in (0..TILE).step_by(ROWS) {
                            let steps = fitted.steps(tile, block, r0);
                            let counts = [steps.twos.0.len(), steps.ones.0.len(), steps.wide.0.len()];
                            for (kind, count) in kinds.iter_mut().zip(counts) {
                                *kind += count;
                            }
                            let got = weights(steps, quads.len());
                            let want = quads.iter().map(|quad| &quad[r0..][..ROWS]);
                            assert!(got.iter().map(|quad| &quad[..]).eq(want), "{m} x {k}, {bits} bits less");
                        }
                    }
                }
            }
        }
        assert!(kinds.iter().all(|&kind| kind > 50), "{kinds:?}");
    }

    #[test]
    fn pairs_fit_up_to_what_sixteen_bits_hold() {
        for (a, b, fits) in
            [(64, 64, true), (64, 65, false), (127, 1, true), (-64, -64, true), (-128, 0, true)]
        {
            assert_eq!(fit(&sums(&[[a, b, 0, 0]; ROWS]), &[0; ROWS * QUAD]), fits, "{a}, {b}");
            let extremes = [0, 255 * (i32::from(a) + i32::from(b))];
            assert_eq!(extremes.iter().all(|&sum| i16::try_from(sum).is_ok()), fits, "{a}, {b}");
        }
        assert!(fit(&sums(&[[127, -128, 0, 0]; ROWS]), &[0; ROWS * QUAD]), "they are of two signs");
        assert!(!fit(&sums(&[[-128, -128, 0, 0]; ROWS]), &[0; ROWS * QUAD]));
    }
}
