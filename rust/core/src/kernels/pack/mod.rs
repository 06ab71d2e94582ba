//! `pack`: what a convolution's taps see, laid out as rows of a panel.
//!
//! ```text
//! row[c][j] = x[c][oy·sy + ty·dy - top][ox·sx + tx·dx - left]   for output pixel p0 + j = (oy, ox), one tap (ty, tx)
//! ```
//! and the padding's value where that lies outside the plane. Output pixels of a strip fall into few runs, each inside one
//! output row; [`Taps`] finds them once for a strip, and a kernel then copies what a tap sees of them, one channel after the other.

use super::{Impl, window::Window2};
use crate::isa::Tier;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod beside;
#[cfg(target_arch = "x86_64")]
mod gather;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub(super) use beside::beside;
#[cfg(target_arch = "x86_64")]
pub(super) use gather::gather;

/// float32 pixels of a vector.
pub const LANES_F32: usize = 16;
/// Bytes of a vector.
pub const LANES_U8: usize = 64;

/// A run of lanes of one vector that one input row feeds: lane `i` of `first..first + len` reads `plane[src + i·stride]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    first: u8,
    len: u8,
    /// Where lane 0 would read; may lie before the plane, the lanes that are read do not.
    src: isize,
}

/// Output pixels of one vector that lie side by side: lanes `first..first + len` are columns `ox..` of row `oy`.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u8,
    len: u8,
    oy: u32,
    ox: u32,
}

/// Pieces for which [`Taps`] takes memory before it knows how many there are.
const MOST_ROOM: usize = 4096;

/// What every tap of a window sees through a strip of output pixels.
#[derive(Debug)]
pub struct Taps<'a> {
    window: &'a Window2,
    pieces: Vec<Piece>,
    /// Where the pieces of each vector of each tap end, `[taps][vectors]`.
    ends: Vec<u32>,
    vectors: usize,
    /// About how many elements of a plane lie between what this strip sees and what the next, as wide, will see.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "what AVX2 and AVX-512 read"))]
    ahead: usize,
}

impl<'a> Taps<'a> {
    /// Output pixels `p0..p0 + n`, in vectors of `lanes`.
    pub fn new(window: &'a Window2, (p0, n): (usize, usize), lanes: usize) -> Taps<'a> {
        let Window2 { h, w, ow, kernel, stride, dilation, pad, .. } = *window;
        let vectors = n.div_ceil(lanes);
        let mut spans: Vec<(usize, Span)> = Vec::with_capacity(vectors + n / ow + 1);
        let (mut oy, mut ox) = (p0 / ow, p0 % ow);
        for v in 0..vectors {
            let (mut lane, last) = (0, lanes.min(n - v * lanes));
            while lane < last {
                let len = (last - lane).min(ow - ox);
                let span = Span { first: lane as u8, len: len as u8, oy: oy as u32, ox: ox as u32 };
                spans.push((v, span));
                lane += len;
                ox += len;
                if ox == ow {
                    (oy, ox) = (oy + 1, 0);
                }
            }
        }
        // Room for what networks have; a file may name more taps than memory has room for, few of which see anything.
        let room = |n: usize| (kernel[0] * kernel[1]).saturating_mul(n).min(MOST_ROOM);
        let (mut pieces, mut ends) =
            (Vec::with_capacity(room(spans.len())), Vec::with_capacity(room(vectors)));
        let apart = stride_of(window);
        for ty in 0..kernel[0] {
            let down = (ty * dilation[0]) as isize - pad[0] as isize;
            for tx in 0..kernel[1] {
                let right = (tx * dilation[1]) as isize - pad[1] as isize;
                let columns = window.columns_of(tx);
                for &(v, span) in &spans {
                    ends.resize(ends.len().max((ty * kernel[1] + tx) * vectors + v), pieces.len() as u32);
                    let (first, ox) = (usize::from(span.first), span.ox as usize);
                    let y = (span.oy as usize * stride[0]).wrapping_add_signed(down);
                    let from = ox.max(columns.start);
                    let to = (ox + usize::from(span.len)).min(columns.end);
                    if y < h && from < to {
                        let first = first + from - ox;
                        let at = (y * w + from * stride[1]) as isize + right;
                        pieces.push(Piece {
                            first: first as u8,
                            len: (to - from) as u8,
                            src: at - (first * apart) as isize,
                        });
                    }
                }
                ends.resize((ty * kernel[1] + tx + 1) * vectors, pieces.len() as u32);
            }
        }
        let ahead = n.saturating_mul(stride[0]).saturating_mul(apart);
        Taps { window, pieces, ends, vectors, ahead }
    }

    /// Elements from one lane of a piece to the next.
    fn stride(&self) -> usize {
        stride_of(self.window)
    }

    /// The pieces of a vector of a tap.
    fn pieces(&self, tap: usize, v: usize) -> &[Piece] {
        let at = tap * self.vectors + v;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.pieces[start as usize..self.ends[at] as usize]
    }
}

/// A stride beyond the row leaves one lane to a piece: which it is no longer matters, and offsets stay small.
fn stride_of(window: &Window2) -> usize {
    window.stride[1].min(window.w.max(1))
}

/// One call: one tap, several channels.
#[derive(Clone, Copy, Debug)]
pub struct Fill<'a, T> {
    /// The runs of the strip.
    pub taps: &'a Taps<'a>,
    /// The tap, row by row.
    pub tap: usize,
    /// The first channel's plane.
    pub x: *const T,
    /// Elements from one channel's plane to the next.
    pub pitch: usize,
    /// Channels.
    pub channels: usize,
    /// The first channel's row of the panel; rows are whole vectors long.
    pub out: *mut T,
    /// Elements from one channel's row to the next.
    pub out_stride: usize,
    /// What lies outside the plane.
    pub padding: T,
}

/// Fills the rows.
///
/// # Safety
/// The caller holds the tier's token; `x` is valid for the planes of all channels, of the size of the window the runs were
/// found for, and for what lies between them, and `out` for the rows.
pub type Run<T> = unsafe fn(&Fill<'_, T>);

/// One call that makes the whole panel of an int8 product: every tap, several channels, at most [`LANES_U8`] pixels.
///
/// Row `c · taps + tap` of the panel is what that tap sees of channel `c`; four rows lie side by side, `[⌈k/4⌉][64][4]`.
#[derive(Clone, Copy, Debug)]
pub struct Gather<'a> {
    /// What the taps see of the strip; none where there is one tap, which sees the pixel itself.
    pub taps: Option<&'a Taps<'a>>,
    /// Pixels.
    pub n: usize,
    /// The first channel's plane, or, without taps, its first pixel.
    pub x: *const u8,
    /// Bytes from one channel's plane to the next.
    pub pitch: usize,
    /// Channels.
    pub channels: usize,
    /// What lies outside the plane.
    pub padding: u8,
    /// The panel.
    pub panel: *mut u8,
}

/// Makes the panel.
///
/// # Safety
/// The caller holds the tier's token; `x` is valid for the planes of all channels, of the size of the window the taps were
/// found for, or, without taps, for the pixels up to the next multiple of 16; `panel` is valid for every group of four rows.
pub type RunGather = unsafe fn(&Gather<'_>);

/// One call that makes the whole panel of an int8 product whose groups of four are taps that lie side by side: every tap,
/// several channels, at most [`LANES_U8`] pixels.
///
/// Group `(c · rows + ty) · ⌈columns/4⌉ + i` of the panel, `[groups][64][4]`, is what taps `4 i ..` of row `ty` of the window
/// see of channel `c`; what is beyond the window's last tap is multiplied by weights that are zero.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    /// The window; one that [`Beside::serves`].
    pub window: &'a Window2,
    /// The first pixel.
    pub p0: usize,
    /// Pixels.
    pub n: usize,
    /// The first channel's plane.
    pub x: *const u8,
    /// Bytes from one channel's plane to the next.
    pub pitch: usize,
    /// Channels.
    pub channels: usize,
    /// What lies outside the plane.
    pub padding: u8,
    /// The panel.
    pub panel: *mut u8,
}

impl Beside<'_> {
    /// Whether taps of this window lie side by side, and what sixteen pixels see is in reach of one load.
    pub fn serves(window: &Window2) -> bool {
        window.kernel[1] > 1 && window.dilation[1] == 1 && window.stride[1] <= 4
    }
}

/// Makes the panel.
///
/// # Safety
/// The caller holds the tier's token; `x` is valid for the planes of all channels, of the size of the window; `panel` is
/// valid for every group.
pub type RunBeside = unsafe fn(&Beside<'_>);

/// Kernels for float32.
pub static TABLE_F32: &[Impl<Run<f32>>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get_f32 },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get_f32 },
    Impl { tier: Tier::Scalar, get: || Some(scalar::run::<f32, LANES_F32>) },
];

/// Kernels for bytes.
pub static TABLE_U8: &[Impl<Run<u8>>] = &[
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx512, get: avx512::get_u8 },
    #[cfg(target_arch = "x86_64")]
    Impl { tier: Tier::Avx2, get: avx2::get_u8 },
    Impl { tier: Tier::Scalar, get: || Some(scalar::run::<u8, LANES_U8>) },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::for_each_impl;

    /// Compares every pixel of every tap with the formula.
    fn check<T: Copy + PartialEq + std::fmt::Debug + Default>(
        tier: Tier,
        run: Run<T>,
        lanes: usize,
        window: &Window2,
        number: impl Fn(usize) -> T,
        padding: T,
    ) {
        let ([h, w], [oh, ow], channels) = (window.input(), window.output(), 3);
        let pitch = h * w + 5;
        let x: Vec<T> = (0..channels * pitch).map(number).collect();
        let pixels = oh * ow;
        for (p0, n) in [(0, pixels.min(3 * lanes)), (pixels / 2, pixels - pixels / 2), (pixels - 1, 1)] {
            let n = n.min(4 * lanes);
            let taps = Taps::new(window, (p0, n), lanes);
            for tap in 0..window.kernel[0] * window.kernel[1] {
                let stride = n.next_multiple_of(lanes);
                let mut out = vec![T::default(); channels * stride];
                let fill = Fill {
                    taps: &taps,
                    tap,
                    x: x.as_ptr(),
                    pitch,
                    channels,
                    out: out.as_mut_ptr(),
                    out_stride: stride,
                    padding,
                };
                // SAFETY: the table gave the kernel; planes and rows are as long as said.
                #[allow(unsafe_code, reason = "kernels take pointers")]
                unsafe {
                    run(&fill);
                }
                let (ty, tx) = (tap / window.kernel[1], tap % window.kernel[1]);
                for c in 0..channels {
                    for j in 0..n {
                        let (oy, ox) = ((p0 + j) / ow, (p0 + j) % ow);
                        let y = (oy * window.stride[0] + ty * window.dilation[0]).wrapping_sub(window.pad[0]);
                        let xx =
                            (ox * window.stride[1] + tx * window.dilation[1]).wrapping_sub(window.pad[1]);
                        let want = if y < h && xx < w { x[c * pitch + y * w + xx] } else { padding };
                        assert_eq!(
                            out[c * stride + j],
                            want,
                            "{tier} {window:?} p0 {p0} tap {tap} channel {c} pixel {j}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn every_tap_sees_what_the_formula_says() {
        let mut windows = vec![];
        for input in [[1, 1], [7, 7], [14, 14], [9, 33], [5, 130]] {
            for (kernel, stride, dilation, pad) in [
                ([1, 1], [1, 1], [1, 1], 0),
                ([3, 3], [1, 1], [1, 1], 1),
                ([3, 3], [2, 2], [1, 1], 1),
                ([5, 2], [3, 1], [1, 2], 2),
                ([1, 1], [2, 2], [1, 1], 0),
                // Strides that no input reaches twice, and whose multiples no 32 bits hold.
                ([3, 3], [2, 1 << 29], [1, 1], 1),
                ([3, 3], [1 << 29, 1 << 27], [1, 1], 1),
            ] {
                windows.extend(Window2::padded(
                    input,
                    kernel,
                    stride,
                    dilation,
                    [[pad, pad], [pad, pad]],
                    false,
                ));
            }
        }
        for window in &windows {
            for_each_impl(TABLE_F32, |tier, run| {
                check(tier, run, LANES_F32, window, |i| i as f32 + 1.0, 0.0);
            });
            for_each_impl(TABLE_U8, |tier, run| check(tier, run, LANES_U8, window, |i| (i % 251) as u8, 255));
        }
    }
}
