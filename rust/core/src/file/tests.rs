//! What is written is read back; what is not a sound file is refused, one refusal a test.

use super::*;
use crate::error::Error;
use crate::graph::{Builder, Ref};
use crate::isa::Tier;
use crate::ops::size::Size;
use crate::run::{Model, Options};
use crate::weight::{Bytes, Matrix, Plain, Structure, Tensor, Values, stacks};
use half::f16;
use serde_json::{Value, json};

#[allow(clippy::needless_pass_by_value, reason = "called with what json! makes")]
fn op(name: &str, attrs: Value) -> crate::ops::Op {
    serde_json::from_value(json!({"op": name, "attrs": attrs})).expect("the tests know the ops")
}

/// Seven rows of 300, most of them zero.
fn rows() -> Vec<f32> {
    (0..7 * 300).map(|i| if i % 11 == 0 { i as f32 / 100.0 - 9.0 } else { 0.0 }).collect()
}

/// `relu(x Wᵀ + b)` over one weight.
fn linear(weight: impl FnOnce(&mut Builder) -> Ref) -> Graph {
    let mut b = Builder::new();
    let batch = vec![Size::Expr("n".into()), Size::Fixed(300)];
    let x = b.input("x", DType::Float32, batch, vec![2, 300]).unwrap();
    let w = weight(&mut b);
    let bias: Vec<u8> = (0..7u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    let bias = b.plain("b", Plain::new(DType::Float32, vec![7], Bytes::copy(&bias)).unwrap());
    let linear = op("linear", json!({"activation": {"fn": "relu"}}));
    let y = b.add(linear, vec![x, w, bias], "fc").unwrap()[0];
    b.output("y", y, Some(vec![Size::Expr("n".into()), Size::Fixed(7)])).unwrap();
    b.finish().unwrap()
}

/// A file for every form a matrix has.
fn forms() -> Vec<(&'static str, Vec<u8>)> {
    let halves: Vec<f16> = rows().into_iter().map(f16::from_f32).collect();
    let bytes: Vec<i8> = rows().into_iter().map(|v| (v * 10.0) as i8).collect();
    let scales = || Some(vec![0.5, -1.0, f32::NAN, 2.0, 0.0, f32::INFINITY, 3.0]);
    let shape = (7, 300, 1);
    let (counts, indices, values) = stacks(7, 300, (4, 256), &rows()).unwrap();
    let stacked = Matrix::sparse(shape, (4, 256), counts, indices, Values::copy(&values), None);
    let made = [
        ("dense float32", Matrix::dense(shape, &rows(), None)),
        ("dense float16", Matrix::dense(shape, &halves, None)),
        ("dense int8", Matrix::dense(shape, &bytes, scales())),
        ("sparse float32", Matrix::pack(shape, &rows(), None)),
        ("sparse float16", Matrix::pack(shape, &halves, None)),
        ("sparse int8", Matrix::pack(shape, &bytes, scales())),
        ("sparse 4x1 float32", stacked),
    ];
    let mut files: Vec<_> = made
        .into_iter()
        .map(|(name, matrix)| {
            let matrix = matrix.unwrap();
            assert_eq!(matrix.format(), name);
            (name, to_bytes(&linear(|b| b.matrix("w", matrix))).unwrap())
        })
        .collect();
    let low_rank = linear(|b| {
        let u = b.matrix("u", Matrix::dense((7, 2, 1), &rows()[..14], None).unwrap());
        let v = b.matrix("v", Matrix::pack((2, 300, 1), &rows()[..600], None).unwrap());
        b.low_rank("w", u, v).unwrap()
    });
    files.push(("low-rank", to_bytes(&low_rank).unwrap()));
    files
}

fn form(name: &str) -> Vec<u8> {
    forms().into_iter().find(|(form, _)| *form == name).expect("a form of that name").1
}

fn parse(bytes: &[u8]) -> crate::Result<Graph> {
    read(Source::Bytes(bytes))
}

/// Asserts that bytes are refused for a reason.
#[track_caller]
fn refused(bytes: &[u8], reason: &str) {
    match parse(bytes) {
        Err(Error::Format(text)) => assert!(text.contains(reason), "{text:?} does not speak of {reason:?}"),
        Err(other) => panic!("not an error of the format: {other}"),
        Ok(_) => panic!("read, though {reason}"),
    }
}

fn is_section(value: &Value) -> bool {
    value.get("crc32").is_some()
}

/// The file with another header and sections, and checksums that agree. `change` gets the header and all that follows it;
/// a section's offset counts from the file's start, which lies [`ROOM`] before that.
fn changed(bytes: &[u8], change: impl FnOnce(&mut Value, &mut Vec<u8>)) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[PREFIX..PREFIX + length]).unwrap();
    let start = (PREFIX + length).next_multiple_of(64);
    let mut body = bytes[start.min(bytes.len())..].to_vec();
    fn sections(header: &mut Value) -> impl Iterator<Item = &mut Value> {
        let tensors = header["tensors"].as_array_mut().unwrap().iter_mut();
        tensors.flat_map(|t| t.as_object_mut().unwrap().values_mut().filter(|v| is_section(v)))
    }
    for section in sections(&mut header) {
        section["offset"] = json!(section["offset"].as_u64().unwrap() as usize - start + ROOM);
    }
    change(&mut header, &mut body);
    for section in sections(&mut header) {
        let (Some(offset), Some(length)) = (section["offset"].as_u64(), section["length"].as_u64()) else {
            continue;
        };
        let from = (offset as usize).wrapping_sub(ROOM);
        if let Some(bytes) = body.get(from..from.saturating_add(length as usize)) {
            section["crc32"] = json!(crc32fast::hash(bytes));
        }
    }
    // White space fills the header, so that what follows stays where it is.
    let mut text = serde_json::to_vec(&header).unwrap();
    assert!(text.len() <= ROOM - PREFIX, "the header has {} bytes", text.len());
    text.resize(ROOM - PREFIX, b' ');
    sealed(&text, &body)
}

/// Where sections start in a file that [`changed`] made.
const ROOM: usize = 4096;

fn sealed(text: &[u8], body: &[u8]) -> Vec<u8> {
    let crc32 = crc32fast::hash(text).to_le_bytes();
    [&MAGIC, &VERSION.to_le_bytes()[..], &crc32, &(text.len() as u64).to_le_bytes(), text, body].concat()
}

/// The tensor table's entry of a name.
fn entry<'a>(header: &'a mut Value, name: &str) -> &'a mut Value {
    let tensors = header["tensors"].as_array_mut().unwrap();
    tensors.iter_mut().find(|t| t["name"] == name).expect("a tensor of that name")
}

/// The bytes of a section, within what follows the header.
fn place(header: &mut Value, tensor: &str, section: &str) -> std::ops::Range<usize> {
    let section = &entry(header, tensor)[section];
    let start = section["offset"].as_u64().unwrap() as usize - ROOM;
    start..start + section["length"].as_u64().unwrap() as usize
}

/// Asserts that a file with one field of one tensor replaced is refused for a reason.
#[track_caller]
fn refuses_field(file: &str, tensor: &str, field: &str, value: Value, reason: &str) {
    let bytes = changed(&form(file), |header, _| entry(header, tensor)[field] = value);
    refused(&bytes, reason);
}

/// Asserts that a file with one section's bytes edited is refused for a reason.
#[track_caller]
fn refuses_bytes(file: &str, section: &str, edit: impl FnOnce(&mut [u8]), reason: &str) {
    let bytes = changed(&form(file), |header, body| {
        let place = place(header, "w", section);
        edit(&mut body[place]);
    });
    refused(&bytes, reason);
}

/// What a model of a file answers, as bits: scales may be NaN.
fn answer(bytes: &[u8]) -> Vec<u32> {
    let options =
        Options { tier: Tier::choose(None).unwrap(), threads: 1, winograd: false, max_memory: 1 << 20 };
    let model = Model::new(parse(bytes).unwrap(), options).unwrap();
    let plan = model.example_plan().unwrap();
    let x: Vec<f32> = (0..600).map(|i| (i % 13) as f32 - 6.0).collect();
    let mut y = vec![0f32; 14];
    model.run(&plan, &[bytemuck::cast_slice(&x)], &mut [bytemuck::cast_slice_mut(&mut y)]).unwrap();
    y.into_iter().map(f32::to_bits).collect()
}

#[test]
fn every_form_is_read_back_as_it_was_written() {
    for (name, bytes) in forms() {
        let graph = parse(&bytes).unwrap();
        assert_eq!(to_bytes(&graph).unwrap(), bytes, "{name}");
        let again = changed(&bytes, |_, _| {});
        assert_eq!(answer(&again), answer(&bytes), "{name}: the tests' own way of writing");
    }
}

#[test]
fn a_path_is_read_mapped_and_privately() {
    let path = std::env::temp_dir().join(format!("gossamer-{}.goss", std::process::id()));
    let graph = parse(&form("sparse float32")).unwrap();
    save(&graph, &path).unwrap();
    for source in [Source::Map(&path), Source::Read(&path)] {
        assert_eq!(to_bytes(&read(source).unwrap()).unwrap(), form("sparse float32"));
    }
    std::fs::write(&path, b"").unwrap();
    for source in [Source::Map(&path), Source::Read(&path)] {
        let error = read(source).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(read(Source::Map(&path)), Err(Error::Io { .. })));
}

#[test]
fn scales_that_are_no_numbers_are_numbers_to_the_format() {
    for name in ["dense int8", "sparse int8"] {
        let graph = parse(&form(name)).unwrap();
        let Tensor::Matrix(matrix) = &graph.tensors[0] else { panic!("the first tensor is the weight") };
        assert!(matrix.scales().unwrap()[2].is_nan());
    }
}

#[test]
fn every_byte_that_changes_is_noticed() {
    for (name, bytes) in forms() {
        let mut bytes = bytes;
        for at in 0..bytes.len() {
            for bit in [0x01, 0x80] {
                bytes[at] ^= bit;
                assert!(matches!(parse(&bytes), Err(Error::Format(_))), "{name}: bit {bit} of byte {at}");
                bytes[at] ^= bit;
            }
        }
    }
}

#[test]
fn every_truncation_is_noticed() {
    for (name, bytes) in forms() {
        for end in 0..bytes.len() {
            assert!(matches!(parse(&bytes[..end]), Err(Error::Format(_))), "{name}: {end} bytes");
        }
    }
}

#[test]
fn refuses_another_magic() {
    refused(b"PK\x03\x04 something else altogether", "does not start with");
}

#[test]
fn refuses_a_file_shorter_than_the_prefix() {
    refused(b"GOSSAMER\x01\0\0\0", "the prefix alone takes 24");
}

#[test]
fn refuses_version_zero() {
    let mut bytes = form("dense float32");
    bytes[8] = 0;
    refused(&bytes, "version 0 does not exist");
}

#[test]
fn refuses_a_newer_version_and_says_what_to_do() {
    let mut bytes = form("dense float32");
    bytes[8] = 2;
    refused(&bytes, "version 2");
    refused(&bytes, "pip install -U gossamer");
}

#[test]
fn refuses_a_header_that_is_too_long() {
    let mut bytes = form("dense float32");
    bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&bytes, "the header claims");
}

#[test]
fn refuses_a_header_beyond_the_end() {
    let mut bytes = form("dense float32");
    bytes[16..24].copy_from_slice(&(HEADER_MAX as u64).to_le_bytes());
    refused(&bytes, "truncated");
}

#[test]
fn refuses_a_header_whose_checksum_differs() {
    let mut bytes = form("dense float32");
    bytes[12] ^= 1;
    refused(&bytes, "the header is damaged");
}

#[test]
fn refuses_a_header_that_is_no_json() {
    refused(&sealed(b"{", &[]), "header: ");
}

#[test]
fn refuses_a_header_that_nests_without_end() {
    refused(&sealed("[".repeat(100_000).as_bytes(), &[]), "header: ");
    let nested = format!("{{\"producer\":{}", "{\"a\":".repeat(100_000));
    refused(&sealed(nested.as_bytes(), &[]), "header: ");
}

#[test]
fn refuses_a_field_nobody_knows() {
    let bytes = changed(&form("dense float32"), |header, _| header["extra"] = json!(1));
    refused(&bytes, "unknown field `extra`");
    refuses_field("dense float32", "w", "extra", json!(1), "unknown field `extra`");
}

#[test]
fn refuses_a_field_that_is_missing() {
    let bytes = changed(&form("dense float32"), |header, _| {
        entry(header, "w").as_object_mut().unwrap().remove("groups");
    });
    refused(&bytes, "missing field `groups`");
}

#[test]
fn refuses_a_negative_size() {
    refuses_field("dense float32", "w", "k", json!(-1), "header: ");
}

#[test]
fn refuses_a_form_nobody_knows() {
    refuses_field("dense float32", "w", "form", json!("ternary"), "unknown variant `ternary`");
}

#[test]
fn refuses_an_op_nobody_knows() {
    let bytes = changed(&form("dense float32"), |header, _| header["nodes"][0]["op"] = json!("exec"));
    refused(&bytes, "unknown variant `exec`");
}

#[test]
fn refuses_a_section_elsewhere() {
    let moved = |by: i64| {
        changed(&form("dense float32"), |header, _| {
            let offset = &mut entry(header, "b")["data"]["offset"];
            *offset = json!(offset.as_i64().unwrap() + by);
        })
    };
    // Before its place it overlaps the section before; after it, bytes would belong to nobody.
    for by in [-64, -1, 1, 64, 1 << 40] {
        refused(&moved(by), "a section is at");
    }
}

#[test]
fn refuses_a_section_beyond_the_end() {
    for length in [29u64, 1 << 40, u64::MAX] {
        let bytes =
            changed(&form("dense float32"), |header, _| entry(header, "b")["data"]["length"] = json!(length));
        refused(&bytes, "truncated");
    }
}

#[test]
fn refuses_a_section_whose_checksum_differs() {
    let mut bytes = form("dense float32");
    *bytes.last_mut().unwrap() ^= 1;
    refused(&bytes, "the checksum of the section");
}

#[test]
fn refuses_padding_that_is_not_zero() {
    let mut bytes = form("sparse float32");
    let length = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    assert!(!(PREFIX + length).is_multiple_of(64), "there is padding");
    bytes[PREFIX + length] = 1;
    refused(&bytes, "bytes between sections are not zero");
}

#[test]
fn refuses_bytes_after_the_last_section() {
    let bytes = [form("dense float32"), vec![0]].concat();
    refused(&bytes, "its last section ends at");
}

#[test]
fn refuses_plain_numbers_of_another_count() {
    refuses_field("dense float32", "b", "shape", json!([8]), "got 28 bytes");
    refuses_field("dense float32", "b", "shape", json!([1u64 << 62, 4]), "got 28 bytes");
    refuses_field("dense float32", "b", "dtype", json!("int64"), "got 28 bytes");
}

#[test]
fn refuses_more_dimensions_than_numpy_has() {
    let mut shape = vec![1; 33];
    shape[0] = 7;
    refuses_field("dense float32", "b", "shape", json!(shape), "got 28 bytes");
}

#[test]
fn refuses_a_bool_that_is_neither() {
    let file = |byte: u8| {
        let mut b = Builder::new();
        let plain = Plain::new(DType::Bool, vec![2], Bytes::copy(&[0, byte])).unwrap();
        let t = b.plain("t", plain);
        b.output("t", t, None).unwrap();
        to_bytes(&b.finish().unwrap()).unwrap()
    };
    assert!(parse(&file(1)).is_ok());
    refused(&file(2), "a bool is neither 0 nor 1");
}

#[test]
fn refuses_a_weight_of_another_type() {
    refuses_field("dense float32", "w", "dtype", json!("int32"), "is not float32, float16 or int8");
}

#[test]
fn refuses_a_dense_weight_of_another_size() {
    for (field, value) in [("m", 17u64), ("k", 295), ("m", u64::MAX), ("k", u64::MAX), ("k", 1 << 60)] {
        refuses_field("dense float32", "w", field, json!(value), "weight of ");
        refuses_field("dense int8", "w", field, json!(value), "weight of ");
    }
    refuses_field("dense float32", "w", "dtype", json!("float16"), "got 9600 values");
}

#[test]
fn refuses_groups_that_rows_are_not() {
    refuses_field("dense float32", "w", "groups", json!(0), "cannot be 0 groups");
    refuses_field("dense float32", "w", "groups", json!(2), "cannot be 2 groups");
    refuses_field("sparse float32", "w", "groups", json!(7), "no multiple of 16");
}

#[test]
fn refuses_an_int8_of_minus_128() {
    for name in ["dense int8", "sparse int8"] {
        refuses_bytes(name, "values", |values| values[5] = 0x80, "an int8 is -128");
    }
    assert!(Values::new(DType::Int8, Bytes::copy(&[0x81, 0x7f])).is_ok());
    assert!(Plain::new(DType::Int8, vec![1], Bytes::copy(&[0x80])).is_err());
}

#[test]
fn refuses_scales_of_another_number() {
    let cut = |length: usize| {
        changed(&form("dense int8"), |header, _| entry(header, "w")["scales"]["length"] = json!(length))
    };
    refused(&cut(24), "got 6 scales");
    refused(&cut(27), "not whole floats");
}

#[test]
fn refuses_a_sparse_weight_that_is_empty() {
    // Blocks beyond number, of no rows: nothing is counted, nothing may be allocated for them.
    refuses_field("sparse float32", "w", "m", json!(0), "an empty one is stored dense");
    refuses_field("sparse float32", "w", "k", json!(0), "an empty one is stored dense");
}

#[test]
fn refuses_a_block_of_another_width() {
    for block in [0, 1, 64, 255, 257, 1u64 << 40] {
        refuses_field("sparse float32", "w", "block", json!(block), "expected 256 or half of it");
    }
}

#[test]
fn refuses_counts_of_another_number() {
    refuses_field("sparse float32", "w", "m", json!(8), "got 14 counts");
    refuses_field("sparse float32", "w", "k", json!(600), "got 14 counts");
    refuses_field("sparse float32", "w", "m", json!(u64::MAX), "got 14 counts");
    refuses_field("sparse float32", "w", "k", json!(1u64 << 31), "2147483648 columns do not fit in 31 bits");
    refuses_field("sparse float32", "w", "block", json!(128), "got 14 counts");
}

#[test]
fn refuses_counts_that_do_not_add_up() {
    refuses_bytes("sparse float32", "counts", |counts| counts[0] = 255, "indices that are missing");
    refuses_bytes("sparse float32", "counts", |counts| counts[13] -= 1, "counts add up to");
}

#[test]
fn refuses_an_index_out_of_its_block() {
    // The last block has 44 columns.
    refuses_bytes("sparse float32", "indices", |indices| *indices.last_mut().unwrap() = 44, "out of it");
}

#[test]
fn refuses_indices_that_do_not_ascend() {
    refuses_bytes("sparse float32", "indices", |indices| indices[1] = indices[0], "repeated");
    refuses_bytes("sparse float32", "indices", |indices| indices.swap(0, 1), "repeated");
}

#[test]
fn refuses_values_of_another_number() {
    refuses_field("sparse float32", "w", "dtype", json!("float16"), " values for ");
}

#[test]
fn refuses_stacks_that_are_none() {
    let file = "sparse 4x1 float32";
    for height in [0, 3, 8, 32] {
        refuses_field(file, "w", "height", json!(height), "expected one of");
    }
    for height in [1, 2] {
        refuses_field(file, "w", "height", json!(height), "got 4 counts");
    }
    refuses_field(file, "w", "height", json!(16), "got 4 counts");
    refuses_field(file, "w", "m", json!(9), "got 4 counts");
    refuses_field(file, "w", "dtype", json!("float16"), " values for ");
    refuses_bytes(file, "counts", |counts| counts[3] -= 1, "counts add up to");
    refuses_bytes(file, "indices", |indices| indices.swap(0, 1), "repeated");
    // Heights are left out where they are 1, and may be there.
    let bytes = changed(&form("sparse float32"), |header, _| entry(header, "w")["height"] = json!(1));
    assert_eq!(answer(&bytes), answer(&form("sparse float32")));
}

#[test]
fn refuses_factors_that_are_no_matrices_before() {
    for (u, v) in [(0, 3), (0, 2), (2, 1), (0, 99)] {
        let bytes = changed(&form("low-rank"), |header, _| {
            entry(header, "w")["u"] = json!(u);
            entry(header, "w")["v"] = json!(v);
        });
        refused(&bytes, "is no dense or sparse matrix before it");
    }
}

#[test]
fn refuses_factors_that_do_not_fit() {
    let bytes = changed(&form("low-rank"), |header, _| {
        let w = entry(header, "w");
        (w["u"], w["v"]) = (json!(1), json!(0));
    });
    refused(&bytes, "the factors are");
}

#[test]
fn refuses_an_operand_that_does_not_exist() {
    for (at, operand, reason) in [
        (0, json!("v1"), "does not exist before it is used"),
        (1, json!("t9"), "does not exist"),
        (1, json!("t18446744073709551615"), "does not exist"),
        (1, json!("t18446744073709551616"), "neither a value"),
        (1, json!("t+1"), "neither a value"),
        (1, json!("é"), "neither a value"),
        (1, json!(7), "header: "),
    ] {
        let bytes =
            changed(&form("dense float32"), |header, _| header["nodes"][0]["inputs"][at] = operand.clone());
        refused(&bytes, reason);
    }
}

#[test]
fn refuses_a_graph_whose_shapes_do_not_fit() {
    let bytes = changed(&form("dense float32"), |header, _| header["inputs"][0]["example"][1] = json!(301));
    refused(&bytes, "the graph is not sound");
}

#[test]
fn refuses_an_example_beyond_memory() {
    for n in [1u64 << 54, u64::MAX] {
        let bytes = changed(&form("dense float32"), |header, _| header["inputs"][0]["example"][0] = json!(n));
        refused(&bytes, "the graph is not sound");
    }
}

#[test]
fn refuses_an_output_that_is_not_what_it_declares() {
    let output = |field: &str, value: Value| {
        changed(&form("dense float32"), |header, _| header["outputs"][0][field] = value)
    };
    refused(&output("shape", json!(["n", 8])), "are declared");
    refused(&output("shape", json!(["m", 7])), "is no symbol of the inputs");
    refused(&output("value", json!("v9")), "does not exist");
    refused(&output("value", json!("t0")), "neither value nor numbers");
    refused(&output("value", Value::Null), "neither value nor numbers");
}

#[test]
fn refuses_a_graph_without_outputs() {
    let bytes = changed(&form("dense float32"), |header, _| header["outputs"] = json!([]));
    refused(&bytes, "the graph has no output");
}

#[test]
fn refuses_filters_that_a_product_only_seems_to_count() {
    // 2⁴⁰ channels of 2²⁴ taps are 2⁶⁴ numbers, which is none in 64 bits.
    let mut b = Builder::new();
    let plane = vec![1usize, 2, 4096, 4096];
    let fixed = plane.iter().map(|&d| Size::Fixed(d as i64)).collect();
    let x = b.input("x", DType::Float32, fixed, plane).unwrap();
    let w = b.plain("w", Plain::new(DType::Float32, vec![1 << 40, 0], Bytes::copy(&[])).unwrap());
    let attrs = json!({"kernel": [4096, 4096], "stride": [1, 1], "padding": [[0, 0], [0, 0]],
        "dilation": [1, 1], "groups": 2});
    assert!(b.add(op("conv", attrs), vec![x, w], "").is_err());
}

#[test]
fn a_hostile_example_plans_in_little_memory_and_runs_in_none() {
    // Planes of 2⁴⁰ pixels: planning must not list their strips, and a run is refused before it allocates.
    let bytes =
        changed(&form("dense float32"), |header, _| header["inputs"][0]["example"][0] = json!(1u64 << 50));
    let options =
        Options { tier: Tier::choose(None).unwrap(), threads: 3, winograd: false, max_memory: 1 << 20 };
    let model = Model::new(parse(&bytes).unwrap(), options).unwrap();
    assert!(matches!(model.admit(&model.example_plan().unwrap()), Err(Error::Memory(_))));
}

#[test]
fn factors_of_factors_are_not_made() {
    let matrix = |m, k| std::sync::Arc::new(Matrix::dense((m, k, 1), &vec![1f32; m * k], None).unwrap());
    let inner = Matrix::new(3, 4, 1, Structure::LowRank { u: matrix(3, 2), v: matrix(2, 4) }, None).unwrap();
    let outer = Structure::LowRank { u: std::sync::Arc::new(inner), v: matrix(4, 5) };
    assert!(Matrix::new(3, 5, 1, outer, None).is_err());
}
