//! What can go wrong, where, and how to mend it.

use std::borrow::Cow;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the deep-learning layer.
///
/// Those that closures come to in a cluster are the same in all of its processes; those that serde skips are
/// [`Error::Engine`] with their text in the other ones.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Error {
    /// A buffer has the wrong number of elements.
    #[error("{what}: got {got} elements, expected {expected}")]
    Length {
        /// Which buffer.
        what: Cow<'static, str>,
        /// The number of elements it must have.
        expected: usize,
        /// The number of elements it has.
        got: usize,
    },
    /// A layer does not fit what comes before it.
    #[error("layer {layer} ({kind}): expected {expected}, got {got}")]
    Shape {
        /// 0-based index of the layer.
        layer: usize,
        /// What kind of layer it is.
        kind: Cow<'static, str>,
        /// What the layer needs.
        expected: String,
        /// What it was given.
        got: String,
    },
    /// More rows than the workspace or batch was made for.
    #[error("{rows} rows do not fit: the buffers were made for at most {rows_max}; make them for more rows")]
    Rows {
        /// Rows asked for.
        rows: usize,
        /// Rows there is space for.
        rows_max: usize,
    },
    /// A label is not the index of a class.
    #[error(
        "row {row}: label {label} is out of range, the network has {classes} classes (0 to {})",
        classes.saturating_sub(1)
    )]
    Label {
        /// 0-based row within the batch.
        row: usize,
        /// The label found there.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
    /// A feature that is to be looked up in an embedding is not the index of a vector.
    #[error("row {row}: feature {feature} is {value}, which is {}", no_index(*num_embeddings))]
    Index {
        /// 0-based row within the batch.
        row: usize,
        /// 0-based feature of the row.
        feature: usize,
        /// The value found there.
        value: f64,
        /// Vectors of the embedding.
        num_embeddings: usize,
    },
    /// A loss was given targets that it cannot use, or a network that does not suit it.
    #[error("loss {loss}: {problem}")]
    Loss {
        /// Name of the loss.
        loss: Cow<'static, str>,
        /// What does not suit, and what would.
        problem: Cow<'static, str>,
    },
    /// The loss, a parameter or the optimizer's state is NaN or infinite.
    #[error("step {step}: {what} is not finite ({value}); {}", input_remedy(input.as_deref()))]
    NotFinite {
        /// The training step; the last one before it was found, if it was found between two.
        step: u64,
        /// What is not finite.
        what: Cow<'static, str>,
        /// The value found.
        value: f64,
        /// What of the data is not finite, and where, if anything is.
        input: Option<String>,
    },
    /// A block of samples contradicts itself, or two blocks do not match.
    #[error("samples: {0}")]
    Samples(String),
    /// A sample index beyond the end.
    #[error("sample index {index} is out of range: there are {length} samples")]
    SampleIndex {
        /// The index asked for.
        index: u32,
        /// The number of samples.
        length: usize,
    },
    /// A dataset file is not what it should be.
    #[error("{}: {problem} at {at}; {remedy}", path.display())]
    DatasetFile {
        /// The file.
        path: PathBuf,
        /// The field or byte offset.
        at: String,
        /// What is wrong.
        problem: String,
        /// How to mend it.
        remedy: Cow<'static, str>,
    },
    /// A model file does not fit the network.
    #[error("model file {}: {problem}; {remedy}", path.display())]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// How file and network differ.
        problem: String,
        /// How to mend it.
        remedy: Cow<'static, str>,
    },
    /// A checkpoint cannot be gone on from.
    #[error("checkpoints in {url}: {problem}; {remedy}")]
    Checkpoint {
        /// Where the checkpoints are.
        url: String,
        /// What is wrong, or how checkpoint and training differ.
        problem: String,
        /// How to mend it.
        remedy: Cow<'static, str>,
    },
    /// An option makes no sense, or not for this network or beside another option.
    #[error("training: {0}")]
    Options(String),
    /// Data does not suit the network, the batch, the lanes, or what was asked of it.
    #[error("training: {0}")]
    Data(String),
    /// What was asked cannot be done with a training as it stands.
    #[error("training: {0}")]
    State(String),
    /// There is no memory of the host for what is wanted.
    #[error("training: {0}")]
    Memory(String),
    /// A GPU must compute, and there is none that can: a layer has no kernels for it, it has too little memory, or it
    /// is lost.
    #[error("training: {0}")]
    Gpu(String),
    /// What should be impossible: a bug of this crate, or of a layer or optimizer of one's own.
    #[error("training: {0}")]
    Internal(String),
    // Those that are skipped come last: formats that number variants count them when writing only.
    /// The engine could not run the job.
    #[serde(skip)]
    #[error(transparent)]
    Engine(#[from] distdl_engine::EngineError),
    /// A GPU failed.
    #[serde(skip)]
    #[error(transparent)]
    Device(#[from] distdl_storage::DeviceError),
    /// A kernel does not compile.
    #[serde(skip)]
    #[error(transparent)]
    Compile(#[from] distdl_engine::device::CompileError),
    /// The operating system refused.
    #[serde(skip)]
    #[error("cannot {action} {}: {source}; {}", path.display(), remedy(source))]
    Io {
        /// What was tried.
        action: Cow<'static, str>,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// What a feature is that stands for no vector of an embedding.
pub(crate) fn no_index(num_embeddings: usize) -> String {
    let last = num_embeddings.saturating_sub(1);
    format!(
        "no index of an embedding of {num_embeddings} vectors (whole numbers from 0 to {last}); mend the samples, or give it more vectors"
    )
}

fn input_remedy(input: Option<&str>) -> String {
    match input {
        Some(input) => format!("{input}: mend the data, or leave such samples out"),
        None => "lower the learning rate or check the input for extreme values".to_owned(),
    }
}

fn remedy(source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => "check the path",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "give the right to it, or name another path",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "free space, or name another path"
        }
        _ => "try again, or name another path",
    }
}

/// Checks that `what` has exactly `expected` elements.
pub(crate) fn check_length(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        Ok(())
    } else {
        let what = what.into();
        Err(Error::Length { what, expected, got })
    }
}

/// How many rows of `columns` elements there are. Errors unless they are whole rows.
#[cfg(feature = "gpu")]
pub(crate) fn check_rows(what: &'static str, columns: usize, got: usize) -> Result<usize> {
    let rows = got.checked_div(columns).unwrap_or(0);
    check_length(what, rows * columns, got)?;
    Ok(rows)
}
