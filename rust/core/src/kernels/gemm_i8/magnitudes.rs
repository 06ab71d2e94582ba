//! The form of a dense weight that `vpmaddubsw` multiplies exactly.
//!
//! The instruction multiplies unsigned bytes by signed ones and adds two products in 16 bits, where their sum saturates:
//! activations of 255 are too much for two weights of 65. The other way round nothing saturates. The unsigned byte is a
//! weight's magnitude, 128 at most, and the signed one an activation less 128, so that two products are between
//! `-128 · 256` and `127 · 256`. The signs go elsewhere. For two columns `x`, `y` and weights `a`, `b`, with `s` the sign of
//! `a`, and `!` for the complement of bits, `!f = -1 - f`:
//!
//! ```text
//! a·x + b·y = s · (|a| · (x-128) + |b| ·  (y-128)) + 128·a + 128·b    where a and b are of one sign
//!           = s · (|a| · (x-128) + |b| · !(y-128)) + 128·a + 127·b    where they are of two
//! ```
//!
//! Of four columns the kernel has four images ready, with neither, one or both of the second bytes' bits flipped; `s`, of
//! either pair, is what the pairs' sums are multiplied by when they are widened to 32 bits; and what is added last does not
//! depend on the activations. Two groups of four whose signs `s` are the same, and whose magnitudes add up to 256 at most
//! in either pair, are added in 16 bits and widened together. The order of an exact sum is free.

use crate::kernels::strip_i8::NR;
use crate::weight::{QUAD, TILE, TilesI8};

/// Groups of four columns of a block of the depth. Their images for a whole strip, 24 KiB, stay in the smallest first-level
/// cache while weights pass over them. Images of half a strip and twice the groups would have each step find its images and
/// broadcast its weights for half as many products.
pub(super) const BLOCK: usize = 24;

/// Images of a group.
pub(super) const IMAGES: usize = 4;

/// Bytes of an image.
pub(super) const IMAGE: usize = NR * QUAD;

/// What is xored to each group of activations, for each image.
pub(super) const FLIPS: [[u8; QUAD]; IMAGES] =
    [[0x80; 4], [0x80, 0x7f, 0x80, 0x80], [0x80, 0x80, 0x80, 0x7f], [0x80, 0x7f, 0x80, 0x7f]];

/// What two pairs' sums are multiplied by, in 16 bits each.
pub(super) const SIGNS: [[i16; 2]; 4] = [[1, 1], [-1, 1], [1, -1], [-1, -1]];

/// The greatest sum of magnitudes of a pair, or of two that are added in 16 bits.
const FITS: u32 = 256;

/// A dense weight as magnitudes of four columns at a time, and where in a block its images lie.
#[derive(Clone, Debug)]
pub struct Magnitudes {
    m: usize,
    k: usize,
    /// What is added to each row's sum.
    added: Vec<i32>,
    /// `[blocks][tiles]`.
    parts: Vec<Part>,
    /// Where the image of each group of weights lies in those of its block, `[groups][images][IMAGE]` bytes.
    images: Vec<u16>,
    /// Four magnitudes of each group.
    words: Vec<u32>,
    /// Which of [`SIGNS`] each step has.
    signs: Vec<u8>,
}

const _: () = assert!(BLOCK * IMAGES * IMAGE <= 1 << u16::BITS);

/// Where the rows of a tile lie in a block, and how many steps of each kind a row has: as many as its neighbours, so that
/// loops over them take the same turns from row to row.
#[derive(Clone, Copy, Debug)]
struct Part {
    groups: usize,
    steps: usize,
    twos: u8,
    ones: u8,
}

/// A tile's rows of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    images: &'a [u16],
    words: &'a [u32],
    signs: &'a [u8],
    twos: usize,
    ones: usize,
}

/// The steps of a row of a block: where the images lie, four magnitudes for each, and which of [`SIGNS`] it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps<'a> {
    /// Two groups that are widened together.
    pub(super) twos: (&'a [[u16; 2]], &'a [[u32; 2]], &'a [u8]),
    pub(super) ones: (&'a [u16], &'a [u32], &'a [u8]),
}

impl<'a> Rows<'a> {
    /// The steps of a row, counted from the tile's first.
    #[inline(always)]
    pub(super) fn steps(&self, row: usize) -> Steps<'a> {
        let (twos, ones) = (self.twos, self.ones);
        let images = self.images[row * (2 * twos + ones)..][..2 * twos + ones].split_at(2 * twos);
        let words = self.words[row * (2 * twos + ones)..][..2 * twos + ones].split_at(2 * twos);
        let signs = self.signs[row * (twos + ones)..][..twos + ones].split_at(twos);
        Steps {
            twos: (images.0.as_chunks().0, words.0.as_chunks().0, signs.0),
            ones: (images.1, words.1, signs.1),
        }
    }
}

/// Some groups of four weights.
#[derive(Clone)]
struct Groups {
    images: [u16; BLOCK],
    words: [u32; BLOCK],
    len: usize,
}

impl Groups {
    const NONE: Groups = Groups { images: [0; BLOCK], words: [0; BLOCK], len: 0 };

    fn push(&mut self, image: u16, word: u32) {
        (self.images[self.len], self.words[self.len]) = (image, word);
        self.len += 1;
    }

    fn swap_remove(&mut self, i: usize) -> (u16, u32) {
        let removed = (self.images[i], self.words[i]);
        self.len -= 1;
        (self.images[i], self.words[i]) = (self.images[self.len], self.words[self.len]);
        removed
    }
}

/// A row of a block whose groups find partners.
#[derive(Clone)]
struct Row {
    /// Two and two.
    twos: Groups,
    /// Of each two.
    signs: [u8; BLOCK / 2],
    /// Those without a partner, by their signs.
    ones: [Groups; SIGNS.len()],
}

impl Row {
    const EMPTY: Row = Row { twos: Groups::NONE, signs: [0; BLOCK / 2], ones: [Groups::NONE; SIGNS.len()] };

    /// Adds a group, beside the first one without a partner that it fits.
    #[inline]
    fn push(&mut self, image: u16, word: u32, signs: u8) {
        let ones = &mut self.ones[usize::from(signs)];
        if let Some(found) = ones.words[..ones.len].iter().position(|&other| fit(other, word)) {
            self.signs[self.twos.len / 2] = signs;
            let (its_image, its_word) = ones.swap_remove(found);
            self.twos.push(its_image, its_word);
            self.twos.push(image, word);
        } else {
            ones.push(image, word);
        }
    }
}

/// A group of four columns in each row of a tile.
#[derive(Clone, Copy)]
struct Quad {
    images: [u16; TILE],
    words: [u32; TILE],
    signs: [u8; TILE],
}

impl Quad {
    const ZERO: Quad = Quad { images: [0; TILE], words: [0; TILE], signs: [0; TILE] };

    /// The block's group `place`. What its weights add to the sums whatever the activations are is added to `added`.
    fn new(place: usize, weights: &[[i8; QUAD]; TILE], added: &mut [i32; TILE]) -> Quad {
        let mut quad = Quad::ZERO;
        for (r, weights) in weights.iter().enumerate() {
            let bits = u32::from_le_bytes(weights.map(i8::cast_unsigned));
            let weight = |i: u32| (bits << (24 - 8 * i)).cast_signed() >> 24;
            let negative = bits >> 7 & 0x0101_0101;
            // Of each pair, whether its weights are of two signs.
            let differ = negative ^ negative >> 8;
            let flags = |bits: u32| bits & 1 | bits >> 15 & 2;
            quad.images[r] = ((place * IMAGES + flags(differ) as usize) * IMAGE) as u16;
            quad.signs[r] = flags(negative) as u8;
            // A complement and one more, in each byte.
            quad.words[r] = (bits ^ (negative * 0xff)) + negative;
            let flipped = |i: u32| weight(i) * (differ >> (8 * i - 8) & 1).cast_signed();
            added[r] += 128 * (0..4).map(weight).sum::<i32>() - flipped(1) - flipped(3);
        }
        quad
    }
}

/// Whether two groups may be added in 16 bits: whether magnitudes of their first pairs are 256 at most together, and those of
/// their second.
#[inline]
fn fit(a: u32, b: u32) -> bool {
    const ROOM: u32 = (1 << 15) - 1 - FITS;
    let pairs = |word: u32| (word & 0x00ff_00ff) + (word >> 8 & 0x00ff_00ff);
    (pairs(a) + pairs(b) + (ROOM << 16 | ROOM)) & 0x8000_8000 == 0
}

impl Magnitudes {
    /// Of the form that a file has.
    pub fn new(weight: &TilesI8<'_>) -> Magnitudes {
        let (m, k) = (weight.m(), weight.k());
        let mut made = Magnitudes {
            m,
            k,
            added: vec![0; m],
            parts: vec![],
            images: Vec::with_capacity(m * weight.quads()),
            words: Vec::with_capacity(m * weight.quads()),
            signs: Vec::with_capacity(m * weight.quads()),
        };
        let mut rows = vec![Row::EMPTY; TILE];
        for block in 0..made.blocks() {
            for tile in 0..m.div_ceil(TILE) {
                let quads: &[[[i8; QUAD]; TILE]] = weight.tile(tile).as_chunks().0.as_chunks().0;
                let quads = &quads[block * BLOCK..quads.len().min((block + 1) * BLOCK)];
                made.push(quads, tile * TILE, &mut rows[..TILE.min(m - tile * TILE)]);
            }
        }
        made.images.shrink_to_fit();
        made.words.shrink_to_fit();
        made.signs.shrink_to_fit();
        made
    }

    /// Adds a tile's rows from `r0` of a block; `rows` is room for as many.
    fn push(&mut self, quads: &[[[i8; QUAD]; TILE]], r0: usize, rows: &mut [Row]) {
        let (mut groups, mut len, mut added) = ([Quad::ZERO; BLOCK], 0, [0; TILE]);
        for (place, quad) in quads.iter().enumerate().filter(|(_, quad)| *quad != &[[0; QUAD]; TILE]) {
            groups[len] = Quad::new(place, quad, &mut added);
            len += 1;
        }
        for (r, row) in rows.iter_mut().enumerate() {
            row.twos.len = 0;
            row.ones.iter_mut().for_each(|ones| ones.len = 0);
            groups[..len].iter().for_each(|quad| row.push(quad.images[r], quad.words[r], quad.signs[r]));
            self.added[r0 + r] += added[r];
        }
        let twos = rows.iter().map(|row| row.twos.len / 2).min().unwrap_or(0);
        let (twos_of_row, ones_of_row) = (twos as u8, (len - 2 * twos) as u8);
        let (groups, steps) = (self.images.len(), self.signs.len());
        self.parts.push(Part { groups, steps, twos: twos_of_row, ones: ones_of_row });
        for row in rows {
            for groups in std::iter::once(&row.twos).chain(&row.ones) {
                self.images.extend_from_slice(&groups.images[..groups.len]);
                self.words.extend_from_slice(&groups.words[..groups.len]);
            }
            // What is beyond the fewest is no longer two and two.
            let (signs, apart) = row.signs[..row.twos.len / 2].split_at(twos);
            self.signs.extend_from_slice(signs);
            for &signs in apart {
                self.signs.extend_from_slice(&[signs; 2]);
            }
            for (signs, ones) in (0..).zip(&row.ones) {
                self.signs.resize(self.signs.len() + ones.len, signs);
            }
        }
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Groups of four columns, the last padded.
    pub(super) fn quads(&self) -> usize {
        self.k.div_ceil(QUAD)
    }

    /// Blocks of the depth. A depth of nothing is a block too.
    pub(super) fn blocks(&self) -> usize {
        self.quads().div_ceil(BLOCK).max(1)
    }

    /// What is added to the sum of each row.
    pub(super) fn added(&self) -> &[i32] {
        &self.added
    }

    /// The rows of a tile, over the columns of a block. None of them names a group of columns that the block has not got.
    pub(super) fn rows(&self, block: usize, tile: usize) -> Rows<'_> {
        let Part { groups, steps, twos, ones } = self.parts[block * self.m.div_ceil(TILE) + tile];
        let (images, words, signs) = (&self.images[groups..], &self.words[groups..], &self.signs[steps..]);
        Rows { images, words, signs, twos: usize::from(twos), ones: usize::from(ones) }
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.added[..])
            + size_of_val(&self.parts[..])
            + size_of_val(&self.images[..])
            + size_of_val(&self.words[..])
            + size_of_val(&self.signs[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;
    use crate::weight::tile_i8;

    /// What a step multiplies activations by, and what of it does not depend on them: `[place, weights, added]`.
    fn weights(image: u16, word: u32, signs: u8) -> (usize, [i32; QUAD], i32) {
        let image = usize::from(image) / IMAGE;
        let (place, image) = (image / IMAGES, image % IMAGES);
        let magnitudes: [u8; QUAD] = bytemuck::cast(word);
        let (flips, signs) = (FLIPS[image], SIGNS[usize::from(signs)]);
        let mut weights = [0; QUAD];
        let mut at_zero = 0;
        for (i, w) in weights.iter_mut().enumerate() {
            let product = |x: u8| {
                let f = i32::from((x ^ flips[i]).cast_signed());
                i32::from(signs[i / 2]) * i32::from(magnitudes[i]) * f
            };
            at_zero += product(0);
            *w = product(1) - product(0);
            assert!((0..=255).all(|x| product(x) == product(0) + *w * i32::from(x)));
        }
        (place, weights, -at_zero)
    }

    #[test]
    fn every_weight_is_in_a_step() {
        let mut rng = Rng::new(5);
        let mut kinds = [0; 2];
        for (m, k) in [(1, 1), (16, 64), (17, 255), (33, 256), (5, 300), (16, 0), (20, 1030)] {
            for bits in 0..8 {
                let rows: Vec<i8> = (0..m * k).map(|_| (rng.below(256) as u8 as i8) >> bits).collect();
                let tiles = tile_i8(m, k, &rows);
                let made = Magnitudes::new(&TilesI8::new(m, k, &tiles).unwrap());
                for r in 0..m {
                    let mut got = vec![0; made.quads() * QUAD];
                    let mut added = 0;
                    for block in 0..made.blocks() {
                        let Steps { twos, ones } = made.rows(block, r / TILE).steps(r % TILE);
                        let mut see = |image, word, signs| {
                            let (place, weights, constant) = weights(image, word, signs);
                            added += constant;
                            got[(block * BLOCK + place) * QUAD..][..QUAD].copy_from_slice(&weights);
                            let [a, b, c, d] = weights.map(i32::abs);
                            assert!(place < BLOCK && a + b <= 256 && c + d <= 256);
                            [a + b, c + d]
                        };
                        for (i, &signs) in twos.2.iter().enumerate() {
                            let sums = [0, 1].map(|j| see(twos.0[i][j], twos.1[i][j], signs));
                            assert!((0..2).all(|pair| sums[0][pair] + sums[1][pair] <= 256));
                        }
                        for (i, &signs) in ones.2.iter().enumerate() {
                            see(ones.0[i], ones.1[i], signs);
                        }
                        kinds[0] += twos.0.len();
                        kinds[1] += ones.0.len();
                    }
                    let want = rows[r * k..][..k].iter().map(|&w| i32::from(w));
                    assert!(got[..k].iter().copied().eq(want), "{m} x {k}, {bits} bits less");
                    assert_eq!(added, made.added()[r]);
                }
            }
        }
        assert!(kinds.iter().all(|&kind| kind > 50), "{kinds:?}");
    }

    #[test]
    fn sums_fit_sixteen_bits() {
        let ends = [i32::from(i8::MIN), i32::from(i8::MAX)].map(|f| f * FITS as i32);
        assert!(ends.iter().all(|&sum| i16::try_from(sum).is_ok()), "{ends:?}");
        for (a, b, fits) in
            [(0, 256, true), (128, 128, true), (129, 128, false), (255, 1, true), (256, 256, false)]
        {
            let pair = |sum: u32| (sum / 2) | ((sum - sum / 2) << 8);
            assert_eq!(fit(pair(a), pair(b)), fits, "{a}, {b}");
            assert_eq!(fit((pair(a) << 16) | pair(256), pair(b) << 16), fits, "{a}, {b}");
        }
    }
}
