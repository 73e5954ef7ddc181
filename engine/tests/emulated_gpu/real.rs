//! What can be asked of any GPU, asked of the machine's, each by itself.

use std::path::PathBuf;

use distdl_engine::config::GpuUse;
use distdl_engine::device::{Chosen, Compiler, Gpu, GpuFound, choose};
use distdl_storage::testing::device_conformance;

pub(crate) fn is_wanted() -> bool {
    std::env::var_os("DISTDL_TEST_GPU").is_some_and(|which| which == "real")
}

/// The machine's GPU, if it is to be tested. One that is wanted must be there.
fn gpu() -> Option<(GpuFound, Compiler)> {
    if !is_wanted() {
        return None;
    }
    let libraries = std::env::var_os("DISTDL_CUDA_LIBRARIES").map(PathBuf::from);
    let libraries = libraries.as_deref();
    let chosen = choose(GpuUse::On, true, libraries).or_else(|_| choose(GpuUse::On, false, libraries));
    let Chosen::Gpu(found) = chosen.unwrap() else {
        panic!("it must compute")
    };
    Some((found, Compiler::open(libraries, None).unwrap()))
}

macro_rules! on_the_machines {
    ($($test:ident: $ask:expr;)*) => {
        $(#[test]
        fn $test() {
            if let Some((found, compiler)) = gpu() {
                let ask: fn(&GpuFound, &Compiler) = $ask;
                ask(&found, &compiler);
            }
        })*
    };
}

on_the_machines! {
    real_memory_is_kept: |found, _| device_conformance(&Gpu::open(found, 0).unwrap(), found.memory_bytes);
    real_kernels_are_given_their_arguments: super::kernels_are_given_their_arguments;
    real_parts_of_buffers_are_copied: |found, _| super::parts_of_buffers_are_copied(found);
    real_products_are_those_of_the_cpu: |found, _| super::products::are_those_of_the_cpu(found);
    real_products_of_each_are_those_of_the_cpu: |found, _| super::products::of_each_are_those_of_the_cpu(found);
    real_pieces_are_there_when_they_are_swapped_in: super::double_buffer::each_piece_is_there_when_it_is_swapped_in;
    real_graphs_do_what_was_captured: super::graphs_do_what_was_captured_with_other_arguments;
    nobody_waits_for_a_real_gpu_while_a_graph_is_captured:
        |found, _| super::nobody_waits_for_a_gpu_while_a_graph_is_captured(found, &gpu().unwrap().0);
}
