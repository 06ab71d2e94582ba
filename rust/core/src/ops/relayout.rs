//! Steps the plan inserts by itself: between layouts, and to where an output must lie.

#![allow(unsafe_code, reason = "planes of one output are written by several threads")]

use super::frame::Shared;
use super::{Frame, Step};
use crate::tensor::{Layout, Meta, Planes};

/// Copies a value from one layout to the other.
pub fn relayout(meta: &Meta, from: Layout, to: Layout) -> Step {
    let (size, source, target) = (meta.dtype.size(), Planes::of(meta, from), Planes::of(meta, to));
    Step::new("relayout", move |frame: &Frame<'_>| {
        let x = frame.input::<u8>(0);
        let (out, len) = (Shared(frame.output_ptr::<u8>(0)), source.plane * size);
        let planes = source.n * source.channels;
        let group = (64 * 1024 / len.max(1)).max(1);
        frame.pool.run(planes.div_ceil(group), &|item, _| {
            for plane in item * group..((item + 1) * group).min(planes) {
                let to = plane * target.pitch * size;
                // SAFETY: the output holds `planes` planes a pitch apart; each is copied by one item.
                let out = unsafe { out.part(to, to + len) };
                out.copy_from_slice(&x[plane * source.pitch * size..][..len]);
            }
        });
    })
}

/// Copies bytes as they are.
pub fn copy() -> Step {
    Step::new("copy", |frame: &Frame<'_>| frame.output::<u8>(0).copy_from_slice(frame.input(0)))
}
