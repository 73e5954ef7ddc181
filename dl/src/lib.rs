//! Deep learning on partitioned data: a mini-batch goes in, a gradient comes out, an optimizer applies it.
//!
//! The modules are listed in the order in which data meets them. Everything here is a pure function of its arguments: a
//! network holds no parameters, a layer holds no state, a kernel sums in a fixed order, and every random number is
//! keyed by logical ids.

// What all others stand on.
pub mod error;
pub mod metrics;
pub mod rng;
pub mod scalar;
pub mod shape;

// Arithmetic on rows.
pub mod kernels;

// Layers make a network.
pub mod initialization;
pub mod layout;

pub mod layer;
pub mod loss;
pub mod network;

// Samples go in by batches, and the optimizer applies what comes out.
pub mod samples;
mod spilled;

pub mod normalization;
pub mod preparation;

pub mod augmentation;
pub mod batch;
pub mod optimizer;
pub mod schedule;

// Files.
pub mod datasets;
mod model_file;

// Training.
mod best;
mod deal;

pub mod checkpoint;

pub mod training;

pub use augmentation::Augmentation;
pub use batch::{Batch, shuffle};
pub use best::{BestModel, BestModels};
pub use checkpoint::{CheckpointOptions, ParseResumeError, Resume, Resumed};
pub use datasets::mnist::Mnist;
pub use error::{Error, Result};
pub use initialization::Initialization;
pub use layer::{
    Activate, Activation, AvgPool2d, Backward, BatchNorm, Conv2d, Dense, Draw, Dropout, Embedding, Flatten, Forward,
    Gelu, Layer, LayerNorm, LayerSpecification, Masked, MaxPool2d, Mode, Statistics,
};
#[cfg(feature = "gpu")]
pub use layer::{GpuBackward, GpuForward, GpuLayer};
pub use layout::{ParameterLayout, ParameterShape};
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
