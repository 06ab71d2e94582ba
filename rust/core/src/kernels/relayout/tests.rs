//! Every copy against plain index arithmetic.

use super::{TABLE, gather, permute, repitch, transpose};
use crate::testing::{Aligned, Rng, for_each_impl};
use proptest::prelude::*;

/// Numbers that tell every element apart as far as the type goes.
fn counted<T: bytemuck::Pod>(n: usize) -> Vec<T> {
    let bytes: Vec<u8> = (0..n as u64 * size_of::<T>() as u64)
        .map(|i| {
            let (element, byte) = (i / size_of::<T>() as u64, i % size_of::<T>() as u64);
            (element.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (8 * byte)) as u8
        })
        .collect();
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

fn check_transpose<T: bytemuck::Pod + Default + PartialEq + std::fmt::Debug>() {
    for_each_impl(TABLE, |tier, kernel| {
        for rows in [0, 1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 48] {
            for columns in [0, 1, 4, 5, 8, 15, 16, 17, 32, 35] {
                for (x_gap, y_gap, offset) in [(0, 0, 0), (3, 5, 1), (16, 0, 7)] {
                    let (x_stride, y_stride) = (columns + x_gap, rows + y_gap);
                    let x = Aligned::from(&counted::<T>(rows * x_stride), offset);
                    let mut y = Aligned::<T>::new(columns * y_stride, offset / 2);
                    transpose(kernel, (rows, columns), (&x, x_stride), (&mut y, y_stride));
                    for c in 0..columns {
                        for r in 0..y_stride {
                            let truth = if r < rows { x[r * x_stride + c] } else { T::default() };
                            assert_eq!(y[c * y_stride + r], truth, "{tier} {rows}x{columns} at ({r}, {c})");
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn transposes_of_every_size() {
    check_transpose::<u8>();
    check_transpose::<i32>();
    check_transpose::<i64>();
}

/// The coordinates of an element, last dimension fastest.
fn coordinates(mut index: usize, shape: &[usize]) -> Vec<usize> {
    let mut made = vec![0; shape.len()];
    for (i, &size) in shape.iter().enumerate().rev() {
        made[i] = index % size;
        index /= size;
    }
    made
}

fn check_permute<T: bytemuck::Pod + PartialEq + std::fmt::Debug>(shape: &[usize], axes: &[usize]) {
    let n: usize = shape.iter().product();
    let x = counted::<T>(n);
    let to: Vec<usize> = axes.iter().map(|&axis| shape[axis]).collect();
    let mut expected = x.clone();
    for (i, &x) in x.iter().enumerate() {
        let from = coordinates(i, shape);
        let at = axes.iter().zip(&to).fold(0, |at, (&axis, &size)| at * size + from[axis]);
        expected[at] = x;
    }
    for_each_impl(TABLE, |tier, kernel| {
        let mut y = vec![T::zeroed(); n];
        permute(kernel, shape, axes, &x, &mut y);
        assert_eq!(y, expected, "{tier} {shape:?} by {axes:?}");
    });
}

#[test]
fn permutations_that_networks_use() {
    for (shape, axes) in [
        (vec![2, 35, 7, 5], vec![0, 2, 3, 1]),
        (vec![2, 7, 5, 35], vec![0, 3, 1, 2]),
        (vec![2, 19, 4, 16], vec![0, 2, 1, 3]),
        (vec![2, 4, 19, 16], vec![0, 1, 3, 2]),
        (vec![33, 65], vec![1, 0]),
        (vec![3, 1, 40], vec![2, 1, 0]),
        (vec![], vec![]),
        (vec![0, 3], vec![1, 0]),
    ] {
        check_permute::<i32>(&shape, &axes);
        check_permute::<u8>(&shape, &axes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_permutation(
        (shape, axes) in proptest::collection::vec(1usize..8, 0..6).prop_flat_map(|shape| {
            let axes: Vec<usize> = (0..shape.len()).collect();
            (Just(shape), Just(axes).prop_shuffle())
        }),
    ) {
        check_permute::<i32>(&shape, &axes);
        check_permute::<i64>(&shape, &axes);
        check_permute::<u8>(&shape, &axes);
    }

    #[test]
    fn any_strides(dims in proptest::collection::vec((0usize..7, 0usize..5), 0..5)) {
        let (shape, strides): (Vec<usize>, Vec<usize>) = dims.into_iter().unzip();
        let n: usize = shape.iter().product();
        let last: usize = shape.iter().zip(&strides).map(|(size, stride)| size.saturating_sub(1) * stride).sum();
        let x = counted::<u32>(last + 1);
        let expected: Vec<u32> = (0..n)
            .map(|i| x[coordinates(i, &shape).iter().zip(&strides).map(|(c, stride)| c * stride).sum::<usize>()])
            .collect();
        for_each_impl(TABLE, |_, kernel| {
            let mut y = vec![0; n];
            gather(kernel, &shape, &strides, &x, &mut y);
            assert_eq!(y, expected);
        });
    }
}

#[test]
#[should_panic(expected = "lead past")]
fn strides_past_the_end_are_refused() {
    let scalar = (TABLE.last().unwrap().get)().unwrap();
    gather(scalar, &[2, 3], &[3, 1], &[0u32; 5], &mut [0; 6]);
}

#[test]
#[should_panic(expected = "permutes")]
fn axes_named_twice_are_refused() {
    let scalar = (TABLE.last().unwrap().get)().unwrap();
    permute(scalar, &[2, 2], &[1, 1], &[0u32; 4], &mut [0; 4]);
}

#[test]
fn planes_keep_their_elements_and_gaps_theirs() {
    let mut rng = Rng::new(4);
    for (planes, plane, from, to) in
        [(0, 3, 3, 16), (5, 49, 49, 64), (5, 49, 64, 49), (3, 16, 16, 16), (4, 0, 0, 16), (2, 5, 16, 32)]
    {
        let x = rng.floats(planes * from);
        let mut y = vec![9.0; planes * to];
        repitch(planes, plane, (&x, from), (&mut y, to));
        for (i, &y) in y.iter().enumerate() {
            let (p, at) = (i / to, i % to);
            assert_eq!(y, if at < plane { x[p * from + at] } else { 9.0 });
        }
    }
}
