//! The loop nest of any window: a vector of outputs at a time, group of taps by group.

#![allow(unsafe_code, reason = "vector loads and stores")]

use super::Channels;
use super::lanes::{Finish, Lanes, Place, bits};

/// Computes a run of channels, or returns `false` where the horizontal stride is above 2.
///
/// # Safety
/// The processor has the features of `L`.
#[inline(always)]
pub(super) unsafe fn run<L: Lanes>(run: &Channels<'_>, out: &mut [u8]) -> bool {
    run.check(out);
    // SAFETY: the caller's; `run.check` passed.
    unsafe {
        match run.window.stride[1] {
            1 => taps::<L, 1>(run, out),
            2 => taps::<L, 2>(run, out),
            _ => return false,
        }
    }
    true
}

/// Any kernel and dilation, horizontal stride `S`.
///
/// # Safety
/// The processor has the features of `L`; `run.check` passed; the horizontal stride is `S`.
#[inline(always)]
unsafe fn taps<L: Lanes, const S: usize>(run: &Channels<'_>, out: &mut [u8]) {
    let window = run.window;
    let [tall, wide] = window.kernel;
    // Taps that are not neighbours are groups of one.
    let together = if window.dilation[1] == 1 { L::TAPS } else { 1 };
    // SAFETY: as in `walk`; vectors are loaded whole only where they lie inside the row.
    unsafe {
        let (all, outside) = (L::mask::<S>([u32::MAX; 4]), L::constant(run.x_zero_point));
        for channel in 0..run.requant.offset.len() {
            let finish = Finish::<L>::new(run, channel, run.residual);
            let plane = run.x.as_ptr().add(channel * run.x_pitch);
            let weights = &run.weights[channel * tall * wide..][..tall * wide];
            for oy in 0..window.oh {
                let (rows, first) = window.taps_of_row(oy);
                for column in (0..window.ow).step_by(L::N) {
                    let mut sums = L::sums(run.requant.offset[channel]);
                    for ty in 0..tall {
                        let line = first + ty.saturating_sub(rows.start) * window.dilation[0];
                        for (group, taps) in weights[ty * wide..][..wide].chunks(together).enumerate() {
                            let at = (column * S + group * together * window.dilation[1]) as isize
                                - window.pad[1] as isize;
                            let from = plane.wrapping_offset((line * window.w) as isize + at);
                            let x = if !rows.contains(&ty) {
                                outside
                            } else if at >= 0 && at as usize + L::READ[S - 1] <= window.w {
                                L::windows::<S>(from)
                            } else {
                                L::windows_some::<S>(from, bits(-at, window.w as isize - at), all, outside)
                            };
                            let mut group = [0; 4];
                            group[..taps.len()].copy_from_slice(taps);
                            sums = L::add(sums, x, L::weights(L::pack(group)));
                        }
                    }
                    let place = Place::new(run, channel, oy * window.ow + column);
                    let whole = place.fits::<L>(run, out);
                    finish.store::<S>(out, sums, &place, window.ow - column, whole);
                }
            }
        }
    }
}
