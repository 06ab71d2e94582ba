//! What the kernels for AMX share: how its eight tile registers are laid out.

#![allow(unsafe_code, reason = "tile instructions")]

use std::arch::asm;

/// What `ldtilecfg` loads: the rows of each tile and the bytes of a row.
#[repr(C, align(64))]
pub(super) struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Tiles of so many rows, at most 16, of so many bytes, at most 64.
    pub(super) fn new(tiles: [(usize, usize); 8]) -> Shapes {
        let mut shapes =
            Shapes { palette: 1, start_row: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        for (tile, (rows, bytes)) in tiles.into_iter().enumerate() {
            (shapes.rows[tile], shapes.bytes[tile]) = (rows as u8, bytes as u16);
        }
        shapes
    }

    /// Calls `body` with tiles of these shapes; no compiler keeps anything in them.
    ///
    /// To be inlined into a function compiled for the tier, of which `body` is a closure.
    ///
    /// # Safety
    /// The processor has AMX: the caller holds its token. `body` does not panic.
    #[inline(always)]
    pub(super) unsafe fn with(&self, body: impl FnOnce()) {
        let shapes = &raw const *self;
        // SAFETY: the caller's. Who else computes with tiles on this thread (torch does) configures them first: from here to
        // `tilerelease` they are this call's.
        unsafe { asm!("ldtilecfg [{}]", in(reg) shapes, options(nostack, readonly, preserves_flags)) };
        body();
        // SAFETY: as above.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
