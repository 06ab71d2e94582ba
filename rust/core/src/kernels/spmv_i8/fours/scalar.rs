//! The portable tier: a four at a time.

#![allow(unsafe_code, reason = "reads activations through their pointer")]

use super::{Kernel, dot_each, walk};

pub(super) fn get() -> Kernel {
    // SAFETY: the caller's; `sparse_starts` has checked the columns.
    Kernel::Rows(|s| unsafe { walk(s, |x, columns, values| dot_each(x, columns, values)) })
}
