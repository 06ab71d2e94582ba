//! Any bytes either are refused or make a model that runs, within bounds on memory.
//!
//! Checksums are not compared when fuzzing (`file/read.rs`): they stop accidents, and would stop the fuzzer too.

#![no_main]

use gossamer_core::file::{Source, read};
use gossamer_core::isa::Tier;
use gossamer_core::run::{Model, Options};
use gossamer_core::tensor::Meta;
use libfuzzer_sys::fuzz_target;

/// What a run may use; the file itself is bounded by libFuzzer's `-max_len`.
const MEMORY: usize = 16 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Ok(graph) = read(Source::Bytes(bytes)) else { return };
    let tier = Tier::choose(None).expect("the best tier is there");
    let winograd = bytes.len().is_multiple_of(2);
    let model = match Model::new(graph, Options { tier, threads: 1, winograd, max_memory: MEMORY }) {
        Ok(model) => model,
        // A panic that was contained is one still.
        Err(error) => return assert!(!error.to_string().contains("a bug in gossamer"), "{error}"),
    };
    let Ok(plan) = model.example_plan() else { return };
    // In words, as arrays of eight-byte elements are aligned.
    let zeros = |metas: &[Meta]| -> Option<Vec<(Vec<u64>, usize)>> {
        let bytes: Vec<usize> = metas.iter().map(|meta| meta.bytes().ok()).collect::<Option<_>>()?;
        (bytes.iter().try_fold(0usize, |sum, &b| sum.checked_add(b))? <= MEMORY)
            .then(|| bytes.iter().map(|&b| (vec![0; b.div_ceil(8)], b)).collect())
    };
    let (Some(inputs), Some(mut outputs)) = (zeros(&plan.inputs), zeros(&plan.outputs)) else { return };
    let inputs: Vec<&[u8]> = inputs.iter().map(|(words, len)| &bytemuck::cast_slice(words)[..*len]).collect();
    let mut outputs: Vec<&mut [u8]> =
        outputs.iter_mut().map(|(words, len)| &mut bytemuck::cast_slice_mut(words)[..*len]).collect();
    // A plan may still need more memory than it gets; what it must not do is fail in any other way.
    if let Err(error) = model.run(&plan, &inputs, &mut outputs) {
        assert!(matches!(error, gossamer_core::Error::Memory(_)), "{error}");
    }
});
