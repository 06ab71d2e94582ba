//! Every form, there and back.

use super::*;

#[test]
fn tiles_hold_every_row_once() {
    let rows: Vec<i32> = (1..=17 * 3).collect();
    let tiles = tile(17, 3, &rows);
    let view = Tiles::new(17, 3, &tiles).unwrap();
    for r in 0..17 {
        for c in 0..3 {
            assert_eq!(view.tile(r / TILE)[c * TILE + r % TILE], rows[r * 3 + c]);
        }
    }
    assert_eq!(tiles.iter().filter(|&&v| v != 0).count(), rows.len());
    assert!(Tiles::new(33, 3, &tiles).is_err());
}

#[test]
fn int8_tiles_hold_every_value_once() {
    let rows: Vec<i8> = (0..17 * 7).map(|i| (i % 127) as i8 + 1).collect();
    let tiles = tile_i8(17, 7, &rows);
    let view = TilesI8::new(17, 7, &tiles).unwrap();
    for r in 0..17 {
        for c in 0..7 {
            let at = (c / QUAD * TILE + r % TILE) * QUAD + c % QUAD;
            assert_eq!(view.tile(r / TILE)[at], rows[r * 7 + c]);
        }
    }
    assert_eq!(tiles.iter().filter(|&&v| v != 0).count(), rows.len());
    let sums: Vec<i32> = rows.chunks(7).map(|row| row.iter().map(|&w| i32::from(w)).sum()).collect();
    assert_eq!(view.row_sums(), sums);
    assert!(TilesI8::new(33, 7, &tiles).is_err());
    assert_eq!(TilesI8::len_of(usize::MAX, 4), None);
}

#[test]
fn expanding_stores_the_zeros_and_multiplies_the_factors() {
    let rows: Vec<f32> = (0..20 * 300).map(|i| if i % 9 == 0 { i as f32 } else { 0.0 }).collect();
    let sparse = Matrix::pack((20, 300, 1), &rows, None).unwrap();
    assert!(matches!(sparse.structure(), Structure::Sparse(_)));
    let dense = sparse.expand().unwrap().unwrap();
    assert!(matches!(dense.structure(), Structure::Dense(_)));
    assert_eq!(dense.to_rows::<f32>(), rows);
    assert!(dense.expand().unwrap().is_none());

    // u holds 2·q with q = 1..=6, v the rows (1, 2, 3, 4) and (5, 6, 7, 8).
    let u = Matrix::dense((3, 2, 1), &[1i8, 2, 3, 4, 5, 6], Some(vec![2.0; 3])).unwrap();
    let v: Vec<f32> = (1..=8u8).map(f32::from).collect();
    let v = Matrix::dense((2, 4, 1), &v, None).unwrap();
    let factors = Structure::LowRank { u: Arc::new(u), v: Arc::new(v) };
    let product = Matrix::new(3, 4, 1, factors, None).unwrap().expand().unwrap().unwrap();
    assert_eq!(
        product.to_rows::<f32>(),
        [22.0, 28.0, 34.0, 40.0, 46.0, 60.0, 74.0, 88.0, 70.0, 92.0, 114.0, 136.0]
    );
}

#[test]
fn sparse_keeps_the_non_zeros() {
    let rows: Vec<f32> = (0..5 * 300).map(|i| if i % 7 == 0 { i as f32 + 1.0 } else { 0.0 }).collect();
    let (counts, indices, values) = sparse(5, 300, 256, &rows).unwrap();
    let starts = sparse_starts(5, 300, 256, &counts, &indices).unwrap();
    let view = SparseRows::new(5, 300, 256, &counts, &indices, &starts, &values).unwrap();
    let mut back = vec![0.0; rows.len()];
    for b in 0..view.blocks() {
        let block = view.at(b);
        let mut at = block.starts[0] as usize;
        for r in 0..5 {
            for _ in 0..block.counts[r] {
                back[r * 300 + block.k0 + usize::from(indices[at])] = values[at];
                at += 1;
            }
        }
    }
    assert_eq!(back, rows);
}

#[test]
fn nearly_full_stacks_share_their_indices() {
    for (m, height) in [(32, 16), (39, 4), (36, 4), (35, 2), (34, 2)] {
        let k = 300;
        // Whole stacks but for one value in twenty.
        let there = |r: usize, c: usize| {
            (r / height * 7 + c * 3).is_multiple_of(10) && !(r * 13 + c).is_multiple_of(20)
        };
        let rows: Vec<f32> =
            (0..m * k).map(|i| if there(i / k, i % k) { i as f32 + 1.0 } else { 0.0 }).collect();
        let non_zeros = rows.iter().filter(|&&v| v != 0.0).count();
        let packed = Matrix::pack((m, k, 1), &rows, None).unwrap();
        assert_eq!(packed.unit(), Unit::stack(height), "{m} rows");
        assert_eq!(packed.format(), format!("sparse {height}x1 float32"));
        assert_eq!((packed.to_rows::<f32>(), packed.nnz()), (rows.clone(), non_zeros));
        let single = packed.singles::<f32>();
        assert_eq!(
            (single.unit(), single.to_rows::<f32>(), single.nnz()),
            (Unit::ONE, rows.clone(), non_zeros)
        );
        let (counts, indices, values) = sparse(m, k, BLOCK, &rows).unwrap();
        let rows_alone =
            Matrix::sparse((m, k, 1), (Unit::ONE, BLOCK), counts, indices, Values::copy(&values), None)
                .unwrap();
        let bytes = |m: &Matrix| {
            let Structure::Sparse(s) = m.structure() else { panic!() };
            (s.counts().to_vec(), s.indices().to_vec(), s.values().bytes().to_vec())
        };
        assert_eq!(bytes(&single), bytes(&rows_alone));
        assert!(packed.bytes() < rows_alone.bytes());
        // What integer kernels multiply is never stacked.
        let q: Vec<i8> = rows.iter().map(|&v| i8::from(v != 0.0)).collect();
        assert_eq!(Matrix::pack((m, k, 1), &q, None).unwrap().unit(), Unit::ONE);
        assert_eq!(Matrix::pack((m, k, 1), &q, Some(vec![1.0; m])).unwrap().unit(), Unit::stack(height));
    }
    let scattered: Vec<f32> = (0..64 * 300).map(|i| if i % 11 == 0 { 1.0 } else { 0.0 }).collect();
    assert_eq!(Matrix::pack((64, 300, 1), &scattered, None).unwrap().unit(), Unit::ONE);
}

#[test]
fn stacks_that_are_none_are_refused() {
    let make = |height, counts: &[u8], indices: &[u8], values: &[f32]| {
        let values = Values::copy(values);
        Matrix::sparse(
            (6, 10, 1),
            (Unit::stack(height), 256),
            counts.to_vec(),
            indices.to_vec(),
            values,
            None,
        )
    };
    assert!(make(4, &[1, 1], &[0, 3], &[1.0; 8]).is_ok());
    assert!(make(4, &[1, 1], &[0, 3], &[1.0; 6]).is_err(), "the last stack is whole too");
    assert!(make(4, &[1; 6], &[0; 6], &[1.0; 24]).is_err(), "a count a stack");
    assert!(make(3, &[1, 1], &[0, 3], &[1.0; 6]).is_err(), "no such height");
    assert!(make(0, &[], &[], &[]).is_err(), "no height");
}

#[test]
fn hostile_index_arrays_are_refused() {
    let refused = |counts: &[u8], indices: &[u8]| sparse_starts(2, 10, 256, counts, indices).is_err();
    assert!(!refused(&[1, 2], &[0, 3, 9]));
    assert!(refused(&[1, 2], &[0, 3]), "fewer indices than counted");
    assert!(refused(&[1, 2], &[0, 3, 9, 9]), "more indices than counted");
    assert!(refused(&[1, 2], &[10, 3, 9]), "index beyond the last column");
    assert!(refused(&[1, 2], &[0, 9, 3]), "descending");
    assert!(refused(&[1, 2], &[0, 3, 3]), "repeated");
    assert!(refused(&[1], &[0]), "a count missing");
    assert!(sparse_starts(2, 10, 0, &[], &[]).is_err(), "a block of no columns");
}

#[test]
fn a_packed_matrix_gives_its_rows_back() {
    for (m, k, groups) in [(5, 7, 1), (32, 300, 1), (32, 9, 2), (6, 4, 3), (1, 1, 1), (17, 600, 1)] {
        for zeros in [0, 3, 9] {
            let rows: Vec<f32> =
                (0..m * k).map(|i| if i * 7 % 10 < zeros { 0.0 } else { i as f32 + 1.0 }).collect();
            let packed = Matrix::pack((m, k, groups), &rows, None).unwrap();
            assert_eq!(packed.to_rows::<f32>(), rows);
            assert_eq!(packed.nnz(), rows.iter().filter(|&&v| v != 0.0).count());
            let bytes: Vec<i8> = rows.iter().map(|&v| (v as i32 % 127) as i8).collect();
            let packed = Matrix::dense((m, k, groups), &bytes, None).unwrap();
            assert_eq!(packed.to_rows::<i8>(), bytes);
        }
    }
}

#[test]
fn fours_of_columns_share_an_index_where_that_is_smaller() {
    let m = 33;
    for k in [64, 300, 1024] {
        // A fifth of the fours, whole but for one value in `missing`.
        for (missing, zero) in [(100, 0), (4, 1)] {
            let there =
                |r: usize, c: usize| (r * 7 + c / 4 * 3).is_multiple_of(5) && (r * 13 + c) % missing >= zero;
            let rows: Vec<f32> =
                (0..m * k).map(|i| if there(i / k, i % k) { i as f32 + 1.0 } else { 0.0 }).collect();
            let halves: Vec<half::f16> = rows.iter().map(|&v| half::f16::from_f32(v.min(60_000.0))).collect();
            let bytes: Vec<i8> = rows.iter().map(|&v| i8::from(v != 0.0)).collect();
            // Of three quarters of its values a four takes 17 bytes where rows take 15, but 5 where they take 6.
            let floats = Matrix::pack((m, k, 1), &rows, None).unwrap();
            assert_eq!(floats.unit(), if zero == 0 { Unit::FOUR } else { Unit::ONE }, "{k}");
            for scales in [None, Some(vec![1.0; m])] {
                let packed = Matrix::pack((m, k, 1), &bytes, scales).unwrap();
                assert_eq!((packed.unit(), packed.to_rows::<i8>()), (Unit::FOUR, bytes.clone()));
                assert_eq!(packed.format(), "sparse 1x4 int8");
            }
            let packed = Matrix::pack((m, k, 1), &halves, None).unwrap();
            assert_eq!(packed.to_rows::<half::f16>(), halves);
            let non_zeros = rows.iter().filter(|&&v| v != 0.0).count();
            assert_eq!((floats.to_rows::<f32>(), floats.nnz()), (rows.clone(), non_zeros));
            assert_eq!(floats.expand().unwrap().unwrap().to_rows::<f32>(), rows);
            let (counts, indices, values) = sparse(m, k, BLOCK, &rows).unwrap();
            let unit = (Unit::ONE, BLOCK);
            let alone =
                Matrix::sparse((m, k, 1), unit, counts, indices, Values::copy(&values), None).unwrap();
            assert!(floats.bytes() <= alone.bytes());
            let singles = floats.singles::<f32>();
            assert_eq!(
                (singles.unit(), singles.nnz(), singles.to_rows::<f32>()),
                (Unit::ONE, non_zeros, rows)
            );
        }
    }
    // Columns that are no whole fours are none.
    let rows: Vec<i8> = (0..16 * 302).map(|i| i8::from(i / 4 % 5 == 0)).collect();
    assert_eq!(Matrix::pack((16, 302, 1), &rows, None).unwrap().unit(), Unit::ONE);
    // A full row of a block is 64 fours, which a count can say.
    let mut rows = vec![0i8; 16 * 512];
    rows[512..1024].fill(3);
    let packed = Matrix::pack((16, 512, 1), &rows, None).unwrap();
    let Structure::Sparse(parts) = packed.structure() else { panic!() };
    assert_eq!((parts.unit(), parts.block(), parts.counts()[1]), (Unit::FOUR, BLOCK, 64));
    assert_eq!(packed.to_rows::<i8>(), rows);
    // As single values they are too many for one block.
    for k in [512, 300, 384, 388] {
        let rows: Vec<i8> = (0..16 * k).map(|i| i8::from(i / k % 3 == 0)).collect();
        let packed = Matrix::pack((16, k, 1), &rows, None).unwrap();
        assert_eq!(packed.unit(), Unit::FOUR);
        assert_eq!(packed.singles::<i8>().to_rows::<i8>(), rows);
    }
}

#[test]
fn fours_that_are_none_are_refused() {
    let make = |unit, block, k, counts: &[u8], indices: &[u8], values: &[f32]| {
        let values = Values::copy(values);
        Matrix::sparse((2, k, 1), (unit, block), counts.to_vec(), indices.to_vec(), values, None)
    };
    assert!(make(Unit::FOUR, 256, 12, &[1, 1], &[0, 2], &[1.0; 8]).is_ok());
    assert!(make(Unit::FOUR, 256, 12, &[1, 1], &[0, 3], &[1.0; 8]).is_err(), "beyond the last four");
    assert!(make(Unit::FOUR, 256, 12, &[1, 1], &[0, 2], &[1.0; 6]).is_err(), "fours are whole");
    assert!(make(Unit::FOUR, 256, 10, &[1, 1], &[0, 1], &[1.0; 8]).is_err(), "columns are whole fours");
    assert!(make(Unit::FOUR, 1024, 2048, &[1; 4], &[0; 4], &[1.0; 16]).is_err(), "a block is 256 columns");
    let unit = Unit { height: 4, width: 4 };
    assert!(make(unit, 256, 12, &[1], &[0], &[1.0; 16]).is_err(), "no such unit");
}
