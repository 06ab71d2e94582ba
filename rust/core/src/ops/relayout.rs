//! Steps the plan inserts by itself: between layouts, and to where an output must lie.

#![allow(unsafe_code, reason = "planes of one output are written by several threads")]

use super::frame::Shared;
use super::{Frame, Step};
use crate::kernels::relayout::repitch;
use crate::tensor::{Layout, Meta, Planes};

/// Bytes that a thread copies at a time.
const GROUP: usize = 64 * 1024;

/// Copies a value from one layout to the other.
pub fn relayout(meta: &Meta, from: Layout, to: Layout) -> Step {
    let (size, source, target) = (meta.dtype.size(), Planes::of(meta, from), Planes::of(meta, to));
    let (planes, plane) = (source.n * source.channels, source.plane * size);
    let (from, to) = (source.pitch * size, target.pitch * size);
    let group = (GROUP / plane.max(1)).max(1);
    Step::new("relayout", move |frame: &Frame<'_>| {
        let x = frame.input::<u8>(0);
        let out = Shared(frame.output_ptr::<u8>(0));
        frame.pool.run(planes.div_ceil(group), &|item, _| {
            let (first, end) = (item * group, ((item + 1) * group).min(planes));
            // SAFETY: the output holds `planes` planes a pitch apart; each is copied by one item.
            let out = unsafe { out.part(first * to, (end - 1) * to + plane) };
            repitch(end - first, plane, (&x[first * from..], from), (out, to));
        });
    })
}

/// Copies bytes as they are.
pub fn copy() -> Step {
    Step::new("copy", |frame: &Frame<'_>| frame.output::<u8>(0).copy_from_slice(frame.input(0)))
}
