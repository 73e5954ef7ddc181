//! Programs for GPUs: each compiles, and computes what the CPU computes, on a GPU where there is one and on an emulated
//! one where there is `g++`. What is not there is said on the standard error stream.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cases;
#[cfg(feature = "gpu")]
mod compiled;
#[cfg(feature = "gpu")]
mod cuda;
mod emulated;
mod runner;

use std::io::Write;
#[cfg(feature = "gpu")]
use std::path::PathBuf;
use std::sync::OnceLock;

use emulated::Emulated;
use runner::Runner;

/// The folder in which libraries of CUDA are looked for first.
#[cfg(feature = "gpu")]
fn cuda_libraries() -> Option<PathBuf> {
    std::env::var_os("DISTDL_CUDA_LIBRARIES").map(PathBuf::from)
}

/// Says what is not tested, and why, past what `cargo test` hides.
fn skipped(what: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "!! SKIPPED: {what}: {reason}");
}

/// Lets every runner of this machine run a case.
fn everywhere(case: fn(&dyn Runner)) {
    static EMULATED: OnceLock<Option<Emulated>> = OnceLock::new();
    let emulated = EMULATED.get_or_init(|| there(Emulated::build(), "kernels, emulated"));
    if let Some(emulated) = emulated {
        case(emulated);
    }
    #[cfg(feature = "gpu")]
    {
        static CUDA: OnceLock<Option<cuda::Cuda>> = OnceLock::new();
        let cuda = CUDA.get_or_init(|| there(cuda::Cuda::open(), "kernels, on a GPU"));
        if let Some(cuda) = cuda {
            case(cuda);
        }
    }
}

fn there<T>(runner: Result<T, String>, what: &str) -> Option<T> {
    runner.inspect_err(|reason| skipped(what, reason)).ok()
}

macro_rules! each_is_that_of_the_cpu {
    ($($module:ident: $($case:ident)*;)*) => {
        $(mod $module {
            $(#[test]
            fn $case() {
                super::everywhere(super::cases::$module::$case);
            })*
        })*
    };
}

each_is_that_of_the_cpu! {
    activation: activation_apply activation_rows activation_channels activation_from_channels activation_backward activation_backward_columns activation_backward_channels softmax_rows softmax_rows_backward gelu;
    augment: augment;
    embedding: look_up;
    lane_limit: lane_limit;
    masks: dropout mask;
    losses: softmax_cross_entropy weighted_cross_entropy ends_of_weighted_cross_entropy a_label_that_is_no_class element_loss element_loss_labels;
    norms: batch_norm layer_norm;
    samples: gather_bytes gather_values;
    square_sum: square_sum ends_of_square_sums norm_limit;
    sums: add column_sums channel_sums sums_of_pieces;
    update: sgd adam rms_prop adagrad lamb statistics;
    windows: columns channels convolve pool_largest pool_mean;
}
