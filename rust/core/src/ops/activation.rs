//! A function fused onto the end of an op.

use crate::isa::Tier;
use crate::kernels::map::{self, Map};
use crate::kernels::pick;

/// A function that can be fused: any of `map`'s.
pub(super) type Activation = Map;

/// The bounds of a finished sum: those of a function that is nothing but bounds, infinite for others.
pub(super) fn clamp(activation: Option<Activation>) -> [f32; 2] {
    activation.and_then(Map::clamp).unwrap_or([f32::NEG_INFINITY, f32::INFINITY])
}

/// A function that is more than bounds, with its kernel.
#[derive(Clone, Copy)]
pub(super) struct Apply {
    function: Map,
    kernel: map::MapFn,
}

impl Apply {
    /// Of an activation that bounds do not already cover.
    pub(super) fn of(activation: Option<Activation>, tier: Tier) -> Option<Apply> {
        let function = activation.filter(|function| function.clamp().is_none())?;
        Some(Apply { function, kernel: pick(map::TABLE, tier).1 })
    }

    /// Applies it in place.
    pub(super) fn to(self, values: &mut [f32]) {
        map::apply_in_place(self.kernel, self.function, values);
    }
}

/// `value` between the bounds; a NaN passes.
pub(super) fn within(value: f32, [lo, hi]: [f32; 2]) -> f32 {
    if value < lo {
        lo
    } else if value > hi {
        hi
    } else {
        value
    }
}
