//! Deep learning on partitioned data: a mini-batch goes in, a gradient comes out, an optimizer applies it.
//!
//! Networks, layers and kernels are pure functions of their arguments: a network holds no parameters, a layer holds no
//! state, a kernel sums in a fixed order, and every random number is keyed by logical ids. A [`Training`] holds the
//! state: parameters, checkpoints, and what stays on GPUs. Begin with [`NeuralNetwork`], [`Samples`] and
//! [`TrainingOptions`]; for layers, losses and optimizers of your own there are [`Layer`], [`LossFunction`] and
//! [`Optimizer`]. The guide `docs/pytorch.md` has the names of those who know PyTorch.
//!
//! Programs that depend on the facade `distdl` find all of this in `distdl::dl`, and most of it in `distdl` itself:
//! there `use distdl_dl::Layer` is `use distdl::Layer`, and `distdl_dl::Result` is `distdl::dl::Result`.

// The modules are listed in the order in which data meets them.

// What all others stand on.
mod error;
mod metrics;
pub mod rng;
mod scalar;
mod shape;

// Arithmetic on rows.
pub mod kernels;

// Layers make a network.
mod initialization;
mod layout;

mod layer;
mod loss;
mod network;

// Samples go in by batches, and the optimizer applies what comes out.
mod samples;
mod spilled;

mod normalization;
mod preparation;

mod augmentation;
mod batch;
mod optimizer;
mod schedule;

// Files.
mod datasets;
mod model_file;

// Training.
mod best;
mod deal;

mod checkpoint;

mod training;

pub use augmentation::Augmentation;
pub use batch::{Batch, shuffle};
pub use best::{BestModel, BestModels};
pub use checkpoint::{CheckpointOptions, ParseResumeError, Resume, Resumed};
pub use datasets::Mnist;
pub use error::{Error, Result};
pub use initialization::Initialization;
pub use layer::{
    Activate, Activation, AvgPool2d, Backward, BatchNorm, Conv2d, Dense, Draw, Dropout, Embedding, Flatten, Forward,
    Gelu, Layer, LayerNorm, LayerSpecification, Masked, MaxPool2d, Mode, Statistics,
};
#[cfg(feature = "gpu")]
pub use layer::{GpuBackward, GpuForward, GpuLayer};
pub use layout::{ParameterEntry, ParameterLayout, ParameterShape};
pub use loss::{Loss, LossFunction, OwnLoss, Target, Targets};
pub use metrics::{BatchReport, ConfusionMatrix, GpuFigures, area_under_curve};
pub use model_file::parameters_hash;
pub use network::{NetworkBuilder, NeuralNetwork, Workspace};
pub use normalization::{Normalization, fixed_point};
pub use optimizer::{Adagrad, Adam, AdamW, Lamb, Optimizer, RmsProp, Sgd};
#[cfg(feature = "gpu")]
pub use optimizer::{GpuOptimizer, GpuScale, GpuShard};
pub use preparation::PrepareSamples;
pub use samples::{Features, SampleTargets, Samples};
pub use scalar::Scalar;
pub use schedule::Schedule;
pub use shape::{Image, Input, Shape, Sides};
pub use training::{BatchId, Compression, DataChange, Decay, Plateau, StepResult, TopK, Training, TrainingOptions};
