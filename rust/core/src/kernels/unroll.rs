//! A loop written out, so that arrays indexed by its counter live in registers from the start.
//!
//! The compiler unrolls short loops too, but late, after it has decided that an array of vectors that crosses loops lies
//! in memory.

/// `unroll!(i < N, { body })`: the body for `i` in `0..N`, `N <= 7`, each with `i` a constant.
macro_rules! unroll {
    ($i:ident < $n:expr, $body:block) => {
        unroll!(@ $i, $n, $body, 0 1 2 3 4 5 6)
    };
    (@ $i:ident, $n:expr, $body:block, $($value:literal)+) => {
        $({
            const $i: usize = $value;
            #[allow(clippy::out_of_bounds_indexing, reason = "steps past the last are compiled, never run")]
            if $i < $n $body
        })+
    };
}

pub(super) use unroll;
