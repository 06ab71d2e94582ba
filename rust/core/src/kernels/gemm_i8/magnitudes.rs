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

use crate::weight::{QUAD, TILE, TilesI8};

/// Groups of four columns of a block of the depth. Their images for [`COLUMNS`] columns of activations, 24 KiB, stay in the
/// smallest first-level cache while weights pass over them.
pub(super) const BLOCK: usize = 48;

/// Columns of activations of an image.
pub(super) const COLUMNS: usize = 32;

/// Images of a group.
pub(super) const IMAGES: usize = 4;

/// Bytes of an image.
pub(super) const IMAGE: usize = COLUMNS * QUAD;

/// What is xored to each group of activations, for each image.
pub(super) const FLIPS: [[u8; QUAD]; IMAGES] =
    [[0x80; 4], [0x80, 0x7f, 0x80, 0x80], [0x80, 0x80, 0x80, 0x7f], [0x80, 0x7f, 0x80, 0x7f]];

/// What two pairs' sums are multiplied by, in 16 bits each.
pub(super) const SIGNS: [[i16; 2]; 4] = [[1, 1], [-1, 1], [1, -1], [-1, -1]];

/// The greatest sum of magnitudes of a pair, or of two that are added in 16 bits.
const FITS: u16 = 256;

/// A dense weight as magnitudes of four columns at a time, and where in a block its images lie.
#[derive(Clone, Debug)]
pub struct Magnitudes {
    m: usize,
    k: usize,
    /// What is added to each row's sum.
    added: Vec<i32>,
    /// `[blocks][tiles]`.
    parts: Vec<Part>,
    codes: Vec<Code>,
    words: Vec<i32>,
}

/// Which image a group of four weights is multiplied by, and its pairs' signs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Code(u16);

impl Code {
    /// Where the image lies in those of a block, `[groups][images][IMAGE]` bytes.
    #[inline(always)]
    pub(super) fn image(self) -> usize {
        usize::from(self.0) & !(IMAGE - 1)
    }

    /// Which of [`SIGNS`].
    #[inline(always)]
    pub(super) fn signs(self) -> usize {
        usize::from(self.0) & (SIGNS.len() - 1)
    }
}

const _: () = assert!(BLOCK * IMAGES * IMAGE <= 1 << u16::BITS && IMAGE >= SIGNS.len());

/// Where the steps of a tile's rows of a block lie, and how many of each kind a row has: as many as its neighbours, so that
/// loops over them take the same turns from row to row.
#[derive(Clone, Copy, Debug)]
struct Part {
    start: usize,
    twos: u8,
    ones: u8,
}

/// A tile's rows of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    twos: usize,
    codes: &'a [Code],
    words: &'a [i32],
    len: usize,
}

/// The steps of a row of a block: for each of its groups a code, and four magnitudes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps<'a> {
    /// Two groups that are widened together; their signs are the same.
    pub(super) twos: (&'a [[Code; 2]], &'a [[i32; 2]]),
    pub(super) ones: (&'a [Code], &'a [i32]),
}

impl<'a> Rows<'a> {
    /// The steps of a row, counted from the tile's first.
    #[inline(always)]
    pub(super) fn steps(&self, row: usize) -> Steps<'a> {
        let codes = self.codes[row * self.len..][..self.len].split_at(2 * self.twos);
        let words = self.words[row * self.len..][..self.len].split_at(2 * self.twos);
        Steps { twos: (codes.0.as_chunks().0, words.0.as_chunks().0), ones: (codes.1, words.1) }
    }
}

/// A group of four weights.
#[derive(Clone, Copy)]
struct Group {
    code: Code,
    word: i32,
    /// Of the magnitudes of each pair.
    sums: [u16; 2],
}

impl Group {
    /// The weights of the block's group `place`, and what they add to the sum whatever the activations are.
    fn new(place: usize, weights: [i8; QUAD]) -> (Group, i32) {
        let (mut image, mut signs, mut added) = (0, 0, 0);
        let pairs: [[i8; 2]; 2] = bytemuck::cast(weights);
        for (i, [a, b]) in pairs.into_iter().enumerate() {
            // Zero goes with any sign.
            let negative = a < 0 || (a == 0 && b < 0);
            let flipped = if negative { b > 0 } else { b < 0 };
            image |= usize::from(flipped) << i;
            signs |= usize::from(negative) << i;
            added += 128 * (i32::from(a) + i32::from(b)) - if flipped { i32::from(b) } else { 0 };
        }
        let code = Code(((place * IMAGES + image) * IMAGE + signs) as u16);
        let sums = pairs.map(|[a, b]| u16::from(a.unsigned_abs()) + u16::from(b.unsigned_abs()));
        (Group { code, word: bytemuck::cast(weights.map(i8::unsigned_abs)), sums }, added)
    }

    /// Whether both may be added in 16 bits.
    fn fits(&self, other: &Group) -> bool {
        self.code.signs() == other.code.signs()
            && self.sums.iter().zip(other.sums).all(|(a, b)| a + b <= FITS)
    }
}

impl Magnitudes {
    /// Of the form that a file has.
    pub fn new(weight: &TilesI8<'_>) -> Magnitudes {
        let (m, k) = (weight.m(), weight.k());
        let mut made = Magnitudes { m, k, added: vec![0; m], parts: vec![], codes: vec![], words: vec![] };
        made.codes.reserve_exact(m * weight.quads());
        made.words.reserve_exact(m * weight.quads());
        let mut rows = [const { (vec![], vec![]) }; TILE];
        for block in 0..made.blocks() {
            for tile in 0..m.div_ceil(TILE) {
                let quads: &[[[i8; QUAD]; TILE]] = weight.tile(tile).as_chunks().0.as_chunks().0;
                let quads = &quads[block * BLOCK..quads.len().min((block + 1) * BLOCK)];
                let rows = &mut rows[..TILE.min(m - tile * TILE)];
                made.push(quads, tile * TILE, rows);
            }
        }
        made.codes.shrink_to_fit();
        made.words.shrink_to_fit();
        made
    }

    /// Adds a tile's rows from `r0` of a block. `rows` is room for each row's groups, those added in 16 bits and others.
    fn push(&mut self, quads: &[[[i8; QUAD]; TILE]], r0: usize, rows: &mut [(Vec<[Group; 2]>, Vec<Group>)]) {
        for (place, quad) in quads.iter().enumerate() {
            let quad = &quad[..rows.len()];
            if quad.as_flattened().iter().all(|&w| w == 0) {
                continue;
            }
            for (r, (&weights, (twos, ones))) in quad.iter().zip(&mut *rows).enumerate() {
                let (group, added) = Group::new(place, weights);
                self.added[r0 + r] += added;
                match ones.iter().position(|other: &Group| other.fits(&group)) {
                    Some(found) => twos.push([ones.swap_remove(found), group]),
                    None => ones.push(group),
                }
            }
        }
        let twos = rows.iter().map(|(twos, _)| twos.len()).min().unwrap_or(0);
        let start = self.codes.len();
        let mut ones = 0;
        for row in rows {
            row.1.extend(row.0.drain(twos..).flatten());
            ones = row.1.len();
            let groups = || row.0.as_flattened().iter().chain(&row.1);
            self.codes.extend(groups().map(|group| group.code));
            self.words.extend(groups().map(|group| group.word));
            row.0.clear();
            row.1.clear();
        }
        self.parts.push(Part { start, twos: twos as u8, ones: ones as u8 });
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

    /// The rows of a tile, over the columns of a block. No code names a group of columns that the block has not got.
    pub(super) fn rows(&self, block: usize, tile: usize) -> Rows<'_> {
        let Part { start, twos, ones } = self.parts[block * self.m.div_ceil(TILE) + tile];
        let (twos, ones) = (usize::from(twos), usize::from(ones));
        Rows { twos, codes: &self.codes[start..], words: &self.words[start..], len: 2 * twos + ones }
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.added[..])
            + size_of_val(&self.parts[..])
            + size_of_val(&self.codes[..])
            + size_of_val(&self.words[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;
    use crate::weight::tile_i8;

    /// What a step multiplies activations by, and what of it does not depend on them: `[place, weights, added]`.
    fn weights(code: Code, word: i32) -> (usize, [i32; QUAD], i32) {
        let (place, image) = (code.image() / IMAGE / IMAGES, code.image() / IMAGE % IMAGES);
        let magnitudes: [u8; QUAD] = bytemuck::cast(word);
        let (flips, signs) = (FLIPS[image], SIGNS[code.signs()]);
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
                        let mut see = |code: Code, word| {
                            let (place, weights, constant) = weights(code, word);
                            added += constant;
                            got[(block * BLOCK + place) * QUAD..][..QUAD].copy_from_slice(&weights);
                            let [a, b, c, d] = weights.map(i32::abs);
                            assert!(place < BLOCK && a + b <= 256 && c + d <= 256);
                            [a + b, c + d]
                        };
                        for (codes, words) in twos.0.iter().zip(twos.1) {
                            let sums = [0, 1].map(|i| see(codes[i], words[i]));
                            assert!((0..2).all(|pair| sums[0][pair] + sums[1][pair] <= 256));
                            assert_eq!(codes[0].signs(), codes[1].signs());
                        }
                        for (&code, &word) in ones.0.iter().zip(ones.1) {
                            see(code, word);
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
        let ends = [i32::from(i8::MIN), i32::from(i8::MAX)].map(|f| f * i32::from(FITS));
        assert!(ends.iter().all(|&sum| i16::try_from(sum).is_ok()), "{ends:?}");
        let (least, _) = Group::new(0, [-128; QUAD]);
        assert_eq!(least.sums, [FITS; 2], "the greatest magnitudes are no more");
    }
}
