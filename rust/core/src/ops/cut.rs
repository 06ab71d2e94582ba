//! How the output of products is cut for the threads: strips of columns, parts of the rows.
//!
//! No cut changes the order in which a sum is added, so none changes a bit of the output.

use crate::kernels::strip::{LANES, TILE};
use crate::pool::{Ranges, split};

/// What it costs to give the rows of a strip to several threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    /// Nothing: all read the input in place.
    Free,
    /// Each fills the panel.
    Copy,
    /// Each computes the product between two factors.
    Recompute,
}

/// What is to be cut: the outputs of some products (images, groups), each of `m` rows by `columns` columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outputs {
    pub(super) products: usize,
    pub(super) m: usize,
    pub(super) columns: usize,
    /// Most columns of a strip.
    pub(super) nr: usize,
    /// What the first column of a strip is a multiple of.
    pub(super) grain: usize,
    pub(super) threads: usize,
    pub(super) parts: Parts,
}

impl Outputs {
    /// Strips as wide as the kernel likes and equal to a vector; where there are fewer than threads, rows are cut too.
    pub(super) fn cut(self) -> Cut {
        let Outputs { products, m, columns, nr, grain, threads, parts } = self;
        let mut strips = columns.div_ceil(nr);
        if threads > 1 {
            // A few more strips let all threads finish together, so long as each is some vectors wide.
            let even = (strips * products).next_multiple_of(threads) / products.min(threads);
            let narrowest = match (strips * products, parts) {
                (_, Parts::Recompute) => LANES,
                // Rather the rows of a single strip, unless it is wide and they are few.
                (1, _) => m.max(6 * LANES),
                _ => 2 * LANES,
            };
            if columns / even.max(1) >= narrowest {
                strips = strips.max(even);
            }
        }
        self.cut_at(split(columns, strips, grain))
    }

    /// With strips that are given.
    fn cut_at(self, strips: Ranges) -> Cut {
        let regions = (strips.len() * self.products).max(1);
        let want = match (self.threads, self.parts) {
            (1, _) => 1,
            (threads, Parts::Free) => (4 * threads).div_ceil(regions),
            (threads, Parts::Copy | Parts::Recompute) => threads.div_ceil(regions),
        };
        // Parts of two tiles and more, in a number that gives every thread as many.
        let most = want.min(self.m / (2 * TILE)).max(1);
        let even = |parts: &usize| (regions * parts).is_multiple_of(self.threads);
        let rows = split(self.m, (1..=most).rev().find(even).unwrap_or(most), TILE);
        self.made(strips, rows, false)
    }

    /// For a reader who takes rows one by one, as a depthwise convolution does: each thread has rows of its own, and finds
    /// them in its own cache when it comes to read them. None where rows are too few, or every thread has products of its own
    /// anyway.
    pub(super) fn cut_by_rows(self) -> Option<Cut> {
        let Outputs { products, m, columns, nr, grain, threads, parts } = self;
        let strips = split(columns, columns.div_ceil(nr), grain);
        // Parts of two tiles and more; where they cost nothing, enough of them that a thread can take work off another.
        let want = if parts == Parts::Free { 4usize.div_ceil(strips.len().max(1)) } else { 1 };
        let each = want.min(m / (2 * TILE) / threads);
        (!products.is_multiple_of(threads) && each > 0)
            .then(|| self.made(strips, split(m, each * threads, TILE), true))
    }

    fn made(self, strips: Ranges, rows: Ranges, rows_first: bool) -> Cut {
        Cut { strips, rows, rows_first, items: self.products * strips.len() * rows.len() }
    }
}

/// Outputs cut into items.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Ranges of columns.
    pub(super) strips: Ranges,
    /// Ranges of rows.
    pub(super) rows: Ranges,
    /// Threads take runs of items: of all rows of some strips or, if this is set, of all strips of some rows.
    rows_first: bool,
    items: usize,
}

/// An item: some columns of some rows of a product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) product: usize,
    pub(super) columns: (usize, usize),
    pub(super) rows: (usize, usize),
}

impl Cut {
    /// How many items there are, of all products.
    pub(super) fn items(&self) -> usize {
        self.items
    }

    pub(super) fn at(&self, item: usize) -> Piece {
        let (strips, parts) = (self.strips.len(), self.rows.len());
        let (product, cell) = (item / (strips * parts), item % (strips * parts));
        let (strip, part) =
            if self.rows_first { (cell % strips, cell / strips) } else { (cell / parts, cell % parts) };
        Piece { product, columns: self.strips.at(strip), rows: self.rows.at(part) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn outputs() -> impl Iterator<Item = Outputs> {
        let sizes = [1, 15, 49, 64, 100, 196, 784]
            .into_iter()
            .flat_map(|columns| [1, 16, 24, 64, 65, 320].into_iter().map(move |m| (columns, m)));
        sizes.flat_map(|(columns, m)| {
            [Parts::Free, Parts::Copy, Parts::Recompute].into_iter().flat_map(move |parts| {
                [(1, 1), (1, 2), (1, 3), (3, 2), (4, 2), (2, 5)].into_iter().map(
                    move |(products, threads)| Outputs {
                        products,
                        m,
                        columns,
                        nr: 96,
                        grain: LANES,
                        threads,
                        parts,
                    },
                )
            })
        })
    }

    #[test]
    fn every_element_is_in_one_item() {
        for outputs in outputs() {
            let Outputs { products, m, columns, .. } = outputs;
            for cut in [Some(outputs.cut()), outputs.cut_by_rows()].into_iter().flatten() {
                let mut times = vec![0; products * m * columns];
                for item in 0..cut.items() {
                    let Piece { product, columns: (j0, j1), rows: (r0, r1), .. } = cut.at(item);
                    assert!(j0 % LANES == 0 && r0 % TILE == 0, "{outputs:?}: {:?}", cut.at(item));
                    for row in times[product * m * columns..].chunks_mut(columns).take(r1).skip(r0) {
                        row[j0..j1].iter_mut().for_each(|times| *times += 1);
                    }
                }
                assert!(times.iter().all(|&times| times == 1), "{outputs:?}");
            }
        }
    }

    #[test]
    fn cut_by_rows_no_two_threads_share_a_row() {
        for outputs in outputs() {
            let Outputs { products, m, threads, .. } = outputs;
            let cut = outputs.cut_by_rows();
            let expected = !products.is_multiple_of(threads) && m / (2 * TILE) >= threads;
            assert_eq!(cut.is_some(), expected, "{outputs:?}");
            let Some(cut) = cut.filter(|_| products == 1) else { continue };
            let queues = split(cut.items(), threads, 1);
            let mut owners = BTreeMap::new();
            for thread in 0..threads {
                for item in queues.at(thread).0..queues.at(thread).1 {
                    let owner = owners.entry(cut.at(item).rows).or_insert(thread);
                    assert_eq!(*owner, thread, "{outputs:?}");
                }
            }
        }
    }

    #[test]
    fn every_thread_has_an_item_where_rows_or_columns_suffice() {
        for outputs in outputs().filter(|o| o.products == 1 && (o.m >= 320 || o.columns >= 784)) {
            assert!(outputs.cut().items() >= outputs.threads, "{outputs:?}");
        }
    }
}
