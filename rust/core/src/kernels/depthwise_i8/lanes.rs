//! What a vector tier of `depthwise_i8` is: its vectors, and what is done to finished sums.

#![allow(unsafe_code, reason = "vector loads and stores")]

use super::Channels;
use crate::kernels::strip_i8::{Output, Residual};
use crate::kernels::unroll::unroll;

/// A tier's vectors.
///
/// The *windows* of a group of taps are, for each of [`Self::N`] outputs, the bytes `from + lane·S + 0..TAPS`.
///
/// # Safety
/// Every method may be called only where the processor has the tier's features. `windows` and `windows_edge` read
/// [`Self::READ`]`[S - 1]` bytes, at most 64, `windows_some` those whose bit is set, which are neighbours; stores write `N` elements.
pub(super) trait Lanes {
    /// Outputs of a vector.
    const N: usize;
    /// Taps of a group, at most 4.
    const TAPS: usize;
    /// Bytes read for stride 1 and 2.
    const READ: [usize; 2];
    /// The windows of a group.
    type X: Copy;
    /// The weights of a group, for every lane.
    type W: Copy;
    /// Which bytes of windows are read, and which are the zero point.
    type M: Copy;
    /// Sums in i32.
    type Sums: Copy;
    /// Outputs before they are rounded.
    type Reals: Copy;
    /// One float32 in every lane.
    type F: Copy;
    /// A zero point for every output.
    type Z: Copy;

    /// A group's weights, zero where there are fewer, as `weights` wants them.
    fn pack(taps: [i8; 4]) -> i32;
    unsafe fn weights(packed: i32) -> Self::W;
    /// For each tap of a group, the lanes whose byte is read.
    unsafe fn mask<const S: usize>(lanes: [u32; 4]) -> Self::M;
    /// Windows of one byte value.
    unsafe fn constant(value: u8) -> Self::X;
    unsafe fn windows<const S: usize>(from: *const u8) -> Self::X;
    /// What the mask leaves out is taken from `outside`.
    unsafe fn windows_edge<const S: usize>(from: *const u8, mask: Self::M, outside: Self::X) -> Self::X;
    /// Neither what the mask leaves out nor bytes whose bit is not set are read.
    unsafe fn windows_some<const S: usize>(
        from: *const u8,
        bytes: u64,
        mask: Self::M,
        outside: Self::X,
    ) -> Self::X;
    unsafe fn sums(offset: i32) -> Self::Sums;
    unsafe fn add(sums: Self::Sums, x: Self::X, w: Self::W) -> Self::Sums;
    unsafe fn splat(value: f32) -> Self::F;
    unsafe fn zero_point(value: u8) -> Self::Z;
    /// `f32(sums)·scale + bias`, of windows of stride `S`.
    unsafe fn real<const S: usize>(sums: Self::Sums, scale: Self::F, bias: Self::F) -> Self::Reals;
    /// Adds a residual of `N` bytes.
    unsafe fn add_residual(reals: Self::Reals, from: *const u8, how: Residual) -> Self::Reals;
    /// `bounds` are those of the byte less the zero point.
    unsafe fn store_u8(to: *mut u8, reals: Self::Reals, bounds: [Self::F; 2], zero_point: Self::Z);
    unsafe fn store_f32(to: *mut f32, reals: Self::Reals, bounds: [Self::F; 2]);

    /// Adds a residual to the first `lanes` outputs, which is all that is read.
    #[inline(always)]
    unsafe fn add_residual_some(
        reals: Self::Reals,
        from: *const u8,
        how: Residual,
        lanes: usize,
    ) -> Self::Reals {
        let mut bytes = [0; WIDEST];
        // SAFETY: the caller's; a vector is no more than `WIDEST`.
        unsafe {
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), lanes);
            Self::add_residual(reals, bytes.as_ptr(), how)
        }
    }
    /// Stores the first `lanes` outputs.
    #[inline(always)]
    unsafe fn store_u8_some(
        to: *mut u8,
        reals: Self::Reals,
        bounds: [Self::F; 2],
        zero_point: Self::Z,
        lanes: usize,
    ) {
        let mut bytes = [0; WIDEST];
        // SAFETY: the caller's; a vector is no more than `WIDEST`.
        unsafe {
            Self::store_u8(bytes.as_mut_ptr(), reals, bounds, zero_point);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, lanes);
        }
    }
    /// Stores the first `lanes` outputs.
    #[inline(always)]
    unsafe fn store_f32_some(to: *mut f32, reals: Self::Reals, bounds: [Self::F; 2], lanes: usize) {
        let mut floats = [0.0; WIDEST];
        // SAFETY: the caller's; a vector is no more than `WIDEST`.
        unsafe {
            Self::store_f32(floats.as_mut_ptr(), reals, bounds);
            std::ptr::copy_nonoverlapping(floats.as_ptr(), to, lanes);
        }
    }
}

/// Most outputs of a vector of any tier.
pub(super) const WIDEST: usize = 32;

/// Where a vector's outputs lie: elements of the output and of the residual.
pub(super) struct Place {
    pub(super) out: usize,
    pub(super) residual: usize,
}

impl Place {
    /// Element `at` of a channel's plane.
    pub(super) fn new(run: &Channels<'_>, channel: usize, at: usize) -> Place {
        Place { out: channel * run.out_pitch + at, residual: channel * run.residual_pitch + at }
    }

    pub(super) fn skip(&mut self, elements: usize) {
        self.out += elements;
        self.residual += elements;
    }

    /// Whether the slices have a whole vector here.
    pub(super) fn fits<L: Lanes>(&self, run: &Channels<'_>, out: &[u8]) -> bool {
        let residual = run.requant.residual.is_none() || self.residual + L::N <= run.residual.len();
        residual && self.out + L::N <= out.len() / run.size()
    }
}

/// What is done to a channel's sums.
pub(super) struct Finish<'a, L: Lanes> {
    scale: L::F,
    bias: L::F,
    residual: Option<(&'a [u8], Residual)>,
    bytes: bool,
    /// Of the float, or of the byte less its zero point.
    bounds: [L::F; 2],
    zero_point: L::Z,
}

impl<'a, L: Lanes> Finish<'a, L> {
    /// Of a channel, whose residual is read from `residual`.
    ///
    /// # Safety
    /// The processor has `L`'s features.
    #[inline(always)]
    pub(super) unsafe fn new(run: &Channels<'_>, channel: usize, residual: &'a [u8]) -> Finish<'a, L> {
        let requant = &run.requant;
        let (zero, bounds) = match requant.output {
            Output::U8 { zero_point, lo, hi } => {
                (zero_point, [lo, hi].map(|q| (i32::from(q) - i32::from(zero_point)) as f32))
            }
            Output::F32 { lo, hi } => (0, [lo, hi]),
        };
        // SAFETY: the caller's.
        unsafe {
            Finish {
                scale: L::splat(requant.scale[channel]),
                bias: L::splat(requant.bias[channel]),
                residual: requant.residual.map(|how| (residual, how)),
                bytes: matches!(requant.output, Output::U8 { .. }),
                bounds: [L::splat(bounds[0]), L::splat(bounds[1])],
                zero_point: L::zero_point(zero),
            }
        }
    }

    /// Stores what `lanes` sums become, or all: what a vector writes beyond them is the start of a row that comes later,
    /// or lies after the plane.
    ///
    /// # Safety
    /// The processor has `L`'s features, `out` and the residual are those that `check` passed, the first `min(lanes, N)`
    /// elements are a plane's, and where `whole` the slices have `N` elements there.
    #[inline(always)]
    pub(super) unsafe fn store<const S: usize>(
        &self,
        out: &mut [u8],
        sums: L::Sums,
        place: &Place,
        lanes: usize,
        whole: bool,
    ) {
        let lanes = lanes.min(L::N);
        let (bounds, zero_point) = (self.bounds, self.zero_point);
        // SAFETY: whole vectors are loaded and stored only where the slice has room for them.
        unsafe {
            let mut reals = L::real::<S>(sums, self.scale, self.bias);
            if let Some((residual, how)) = self.residual {
                let from = residual.as_ptr().add(place.residual);
                reals = if whole {
                    L::add_residual(reals, from, how)
                } else {
                    L::add_residual_some(reals, from, how, lanes)
                };
            }
            let (bytes, floats) = (out.as_mut_ptr(), out.as_mut_ptr().cast::<f32>());
            match (self.bytes, whole) {
                (true, true) => L::store_u8(bytes.add(place.out), reals, bounds, zero_point),
                (true, false) => L::store_u8_some(bytes.add(place.out), reals, bounds, zero_point, lanes),
                (false, true) => L::store_f32(floats.add(place.out), reals, bounds),
                (false, false) => L::store_f32_some(floats.add(place.out), reals, bounds, lanes),
            }
        }
    }
}

/// The weights of a channel's `K`×`K` kernel by row and group of taps, `⌈K/TAPS⌉` groups a row, as [`Lanes::weights`] wants
/// them.
#[inline(always)]
pub(super) fn pack_kernel<L: Lanes, const K: usize>(run: &Channels<'_>, channel: usize) -> [i32; 49] {
    let weights = &run.weights[channel * K * K..][..K * K];
    let mut packed = [0; 49];
    unroll!(TY < K, {
        unroll!(GROUP < K.div_ceil(L::TAPS), {
            let tap = |i: usize| match GROUP * L::TAPS + i {
                tx if i < L::TAPS && tx < K => weights[TY * K + tx],
                _ => 0,
            };
            packed[TY * K.div_ceil(L::TAPS) + GROUP] = L::pack([tap(0), tap(1), tap(2), tap(3)]);
        });
    });
    packed
}

/// The bits `[from, to)`.
pub(super) fn bits(from: isize, to: isize) -> u64 {
    let (from, to) = (from.clamp(0, 64), to.clamp(0, 64));
    if from >= to { 0 } else { (u64::MAX >> (64 - (to - from))) << from }
}

/// The bytes from `from` whose bit is set; `outside` for the others.
///
/// # Safety
/// Those bytes are readable.
pub(super) unsafe fn gather(from: *const u8, bytes: u64, outside: u8) -> [u8; 64] {
    let mut row = [outside; 64];
    if bytes != 0 {
        // The bits are a range.
        let (first, count) = (bytes.trailing_zeros() as usize, bytes.count_ones() as usize);
        // SAFETY: the caller's; 64 bits have no more than 64 ones.
        unsafe {
            std::ptr::copy_nonoverlapping(from.wrapping_add(first), row.as_mut_ptr().add(first), count);
        };
    }
    row
}
