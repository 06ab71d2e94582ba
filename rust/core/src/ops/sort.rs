//! `sort`: an axis in order, whole or its first `k`, with the places the elements came from.

use super::size::Size;
use super::{Args, Frame, Operator, Prepared, Site, Step};
use crate::error::{Error, Result, ensure};
use crate::tensor::{DType, Meta};
use bytemuck::Pod;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Attributes of `sort`. Equal elements keep their order; a NaN is greater than all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sort {
    /// The axis.
    pub axis: usize,
    /// Whether the greatest comes first.
    pub descending: bool,
    /// How many are wanted; all where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k: Option<Size>,
}

impl Sort {
    fn count(&self, n: usize, args: &Args<'_>) -> Result<usize> {
        let count = self.k.as_ref().map_or(Ok(n), |k| k.dim(args.sizes))?;
        ensure!(count <= n, Shape, "the first {count} of {n} elements are wanted");
        Ok(count)
    }
}

impl Operator for Sort {
    const ARITY: (usize, usize) = (1, 1);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let x = args.number(0)?;
        let n = x.shape.get(self.axis).copied();
        let n = n.ok_or_else(|| Error::Graph(format!("{x} has no axis {}", self.axis)))?;
        let mut values = x.clone();
        values.shape[self.axis] = self.count(n, args)?;
        let places = Meta::new(DType::Int64, values.shape.clone());
        Ok(vec![values, places])
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let x = site.args.meta(0)?;
        let n = x.shape[self.axis];
        let lanes =
            Lanes { n, count: self.count(n, &site.args)?, inner: x.shape[self.axis + 1..].iter().product() };
        let (descending, float) = (self.descending, x.dtype == DType::Float32);
        Ok(Step::new("sort/scalar", move |frame: &Frame<'_>| {
            let turn = |order: Ordering| if descending { order.reverse() } else { order };
            if float {
                // NaNs compare equal to each other.
                let order = |a: f32, b: f32| a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
                lanes.sort(frame, |a, b| turn(order(a, b)));
            } else {
                lanes.sort(frame, |a: i64, b| turn(a.cmp(&b)));
            }
        })
        .into())
    }
}

/// How the elements that are sorted together lie.
struct Lanes {
    n: usize,
    count: usize,
    inner: usize,
}

impl Lanes {
    fn sort<T: Pod>(&self, frame: &Frame<'_>, order: impl Fn(T, T) -> Ordering) {
        let &Lanes { n, count, inner } = self;
        let (x, values, places) = (frame.input::<T>(0), frame.output::<T>(0), frame.output::<i64>(1));
        let compare = |a: &(T, usize), b: &(T, usize)| order(a.0, b.0).then(a.1.cmp(&b.1));
        let mut lane: Vec<(T, usize)> = Vec::with_capacity(n);
        let lanes = values.len().checked_div(count).unwrap_or(0);
        for l in 0..lanes {
            let (outer, column) = (l / inner, l % inner);
            lane.clear();
            lane.extend((0..n).map(|i| (x[(outer * n + i) * inner + column], i)));
            if count < n {
                lane.select_nth_unstable_by(count, compare);
                lane.truncate(count);
            }
            lane.sort_unstable_by(compare);
            for (i, &(value, place)) in lane.iter().enumerate() {
                let to = (outer * count + i) * inner + column;
                (values[to], places[to]) = (value, place as i64);
            }
        }
    }
}
