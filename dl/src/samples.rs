//! Blocks of samples: what a partition of training data holds.

mod concat;
mod plain;

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize, Serializer};
use std::ops::Range;
use std::sync::Arc;

/// Samples as rows in flat storage: one allocation for all features, one for all targets. Its parts always agree in
/// length. A clone shares them.
///
/// Serialised, the features and targets are plain little-endian bytes, so that a block is stored and loaded at the
/// speed of a copy; use a binary format such as postcard.
///
/// ```
/// use distdl_dl::{Features, SampleTargets, Samples};
///
/// let labels = SampleTargets::Labels(vec![0, 1, 0]);
/// let samples = Samples::new(2, Features::F32(vec![0.0, 0.5, 1.0, 1.5, 2.0, 2.5]), labels)?;
/// assert_eq!((samples.len(), samples.feature_length()), (3, 2));
/// let pictures = Features::U8 { bytes: vec![0; 2 * 784], scale: 1.0 / 255.0 };
/// let values = SampleTargets::Values { length: 1, values: vec![0.5; 3] };
/// assert!(Samples::new(784, pictures, values).is_err(), "2 rows of features and 3 of targets");
/// # Ok::<(), distdl_dl::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Samples {
    feature_length: usize,
    #[serde(serialize_with = "shared")]
    features: Arc<Features>,
    #[serde(serialize_with = "shared")]
    targets: Arc<SampleTargets>,
}

fn shared<T: Serialize, S: Serializer>(value: &Arc<T>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().serialize(serializer)
}

/// The features of some samples, row after row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Features {
    /// Bytes; a feature is a byte times the scale. A quarter of the memory of `F32`.
    U8 {
        /// Rows of bytes.
        #[serde(with = "plain")]
        bytes: Vec<u8>,
        /// What a byte is multiplied with when it is gathered into a batch.
        scale: f32,
    },
    /// Values as they are.
    F32(#[serde(with = "plain")] Vec<f32>),
}

/// The targets of some samples. As the variants are stored by their place, others come behind these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SampleTargets {
    /// The class of each sample.
    Labels(#[serde(with = "plain")] Vec<u32>),
    /// The wanted outputs of each sample, row after row.
    Values {
        /// Outputs of one sample.
        length: usize,
        /// Rows of wanted outputs.
        #[serde(with = "plain")]
        values: Vec<f32>,
    },
    /// None are known: the samples are there for [`predict`](crate::NeuralNetwork::predict). What has to know a loss,
    /// or hits, refuses them.
    None,
}

/// What all samples of a batch have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SampleShape {
    /// Features of a sample.
    pub(crate) feature_length: usize,
    /// What a byte is multiplied with; none for features as they are.
    pub(crate) scale: Option<f32>,
    /// Wanted outputs of a sample, 0 if there are no targets; none for a label.
    pub(crate) target_length: Option<usize>,
}

/// One sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    pub(crate) features: RowFeatures<'a>,
    pub(crate) target: RowTarget<'a>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum RowFeatures<'a> {
    /// Bytes, and what they are multiplied with.
    U8(&'a [u8], f32),
    F32(&'a [f32]),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum RowTarget<'a> {
    Label(u32),
    Values(&'a [f32]),
}

/// What was read from outside and may contradict itself.
#[derive(Deserialize)]
struct Unchecked {
    feature_length: usize,
    features: Features,
    targets: SampleTargets,
}

impl TryFrom<Unchecked> for Samples {
    type Error = Error;

    fn try_from(unchecked: Unchecked) -> Result<Self> {
        Samples::new(unchecked.feature_length, unchecked.features, unchecked.targets)
    }
}

impl Samples {
    /// Puts features and targets together. Errors if either is not whole rows or they are not equally many.
    pub fn new(feature_length: usize, features: Features, targets: SampleTargets) -> Result<Self> {
        Self::together(feature_length, Arc::new(features), targets)
    }

    fn together(feature_length: usize, features: Arc<Features>, targets: SampleTargets) -> Result<Self> {
        if let Features::U8 { scale, .. } = features.as_ref()
            && !scale.is_finite()
        {
            return Err(Error::Samples(format!(
                "bytes are multiplied with {scale}; give a finite `scale`, such as 1 / 255"
            )));
        }
        let samples = rows("features", features.len(), feature_length)?;
        if let Some(targets_found) = targets.rows()?
            && samples != targets_found
        {
            return Err(Error::Samples(format!(
                "{samples} rows of features but {targets_found} of targets"
            )));
        }
        if u32::try_from(samples).is_err() {
            return Err(Error::Samples(format!(
                "{samples} rows are too many for one block; split them"
            )));
        }
        Ok(Samples {
            feature_length,
            features,
            targets: Arc::new(targets),
        })
    }

    /// Samples of rows with labels; all rows have as many features as the first.
    ///
    /// ```
    /// # use distdl_dl::Samples;
    /// let samples = Samples::from_labelled_rows([([0.5, 1.0], 3), ([2.0, 0.0], 1)])?;
    /// assert_eq!((samples.len(), samples.feature_length()), (2, 2));
    /// # Ok::<(), distdl_dl::Error>(())
    /// ```
    ///
    /// # Errors
    /// If there are no rows, or one has more or fewer features than the first; it is named.
    pub fn from_labelled_rows<F: AsRef<[f32]>>(rows: impl IntoIterator<Item = (F, u32)>) -> Result<Self> {
        let mut labels = Vec::new();
        let features = rows.into_iter().map(|(features, label)| {
            labels.push(label);
            features
        });
        let (feature_length, features) = joined("features", features)?;
        Samples::new(feature_length, Features::F32(features), SampleTargets::Labels(labels))
    }

    /// Samples of rows with the outputs that a network should have for them; all rows have as many features, and as
    /// many outputs, as the first.
    ///
    /// # Errors
    /// If there are no rows, or one has more or fewer features or outputs than the first; it is named.
    pub fn from_valued_rows<F: AsRef<[f32]>, V: AsRef<[f32]>>(rows: impl IntoIterator<Item = (F, V)>) -> Result<Self> {
        let (features, outputs): (Vec<F>, Vec<V>) = rows.into_iter().unzip();
        let (feature_length, features) = joined("features", features)?;
        let (length, values) = joined("outputs", outputs)?;
        Samples::new(
            feature_length,
            Features::F32(features),
            SampleTargets::Values { length, values },
        )
    }

    /// Samples of rows without targets, for [`predict`](crate::NeuralNetwork::predict); all rows have as many features
    /// as the first.
    ///
    /// ```
    /// # use distdl_dl::{SampleTargets, Samples};
    /// let samples = Samples::from_rows([[0.5, 1.0], [2.0, 0.0]])?;
    /// assert_eq!((samples.len(), samples.targets()), (2, &SampleTargets::None));
    /// # Ok::<(), distdl_dl::Error>(())
    /// ```
    ///
    /// # Errors
    /// If there are no rows, or one has more or fewer features than the first; it is named.
    pub fn from_rows<F: AsRef<[f32]>>(rows: impl IntoIterator<Item = F>) -> Result<Self> {
        let (feature_length, features) = joined("features", rows)?;
        Samples::new(feature_length, Features::F32(features), SampleTargets::None)
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.features.len() / self.feature_length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Features of one sample.
    pub fn feature_length(&self) -> usize {
        self.feature_length
    }

    /// The features of all samples.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The targets of all samples.
    pub fn targets(&self) -> &SampleTargets {
        &self.targets
    }

    pub(crate) fn shape(&self) -> SampleShape {
        SampleShape {
            feature_length: self.feature_length,
            scale: match *self.features {
                Features::U8 { scale, .. } => Some(scale),
                Features::F32(_) => None,
            },
            target_length: match *self.targets {
                SampleTargets::Labels(_) => None,
                SampleTargets::Values { length, .. } => Some(length),
                SampleTargets::None => Some(0),
            },
        }
    }

    /// Sample `index`, which must be one of them.
    pub(crate) fn row(&self, index: usize) -> Row<'_> {
        let row = |length: usize| index * length..(index + 1) * length;
        let features = row(self.feature_length);
        Row {
            features: match self.features() {
                Features::U8 { bytes, scale } => RowFeatures::U8(&bytes[features], *scale),
                Features::F32(values) => RowFeatures::F32(&values[features]),
            },
            target: match self.targets() {
                SampleTargets::Labels(labels) => RowTarget::Label(labels[index]),
                SampleTargets::Values { length, values } => RowTarget::Values(&values[row(*length)]),
                SampleTargets::None => RowTarget::Values(&[]),
            },
        }
    }

    /// What the samples take in memory, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let fixed = size_of::<Self>() + size_of::<Features>() + size_of::<SampleTargets>();
        (fixed + self.len() * self.shape().row_bytes()) as u64
    }

    /// A copy of the samples in `range`. Errors if it reaches beyond the end.
    pub fn slice(&self, range: Range<usize>) -> Result<Samples> {
        if range.start > range.end || range.end > self.len() {
            return Err(Error::Samples(format!(
                "rows {range:?} asked for, there are {}",
                self.len()
            )));
        }
        let features = range.start * self.feature_length..range.end * self.feature_length;
        Ok(Samples {
            feature_length: self.feature_length,
            features: Arc::new(self.features.slice(features)),
            targets: Arc::new(self.targets.slice(range)),
        })
    }

    /// A copy of the samples whose index `keep` says yes to; it is asked in order.
    #[must_use]
    pub fn filter(&self, mut keep: impl FnMut(usize) -> bool) -> Samples {
        let rows: Vec<usize> = (0..self.len()).filter(|row| keep(*row)).collect();
        let features = match self.features() {
            Features::U8 { bytes, scale } => Features::U8 {
                bytes: gathered(bytes, self.feature_length, &rows),
                scale: *scale,
            },
            Features::F32(values) => Features::F32(gathered(values, self.feature_length, &rows)),
        };
        let targets = match self.targets() {
            SampleTargets::Labels(labels) => SampleTargets::Labels(gathered(labels, 1, &rows)),
            SampleTargets::Values { length, values } => SampleTargets::Values {
                length: *length,
                values: gathered(values, *length, &rows),
            },
            SampleTargets::None => SampleTargets::None,
        };
        Samples {
            feature_length: self.feature_length,
            features: Arc::new(features),
            targets: Arc::new(targets),
        }
    }

    /// Appends other samples of the same shape. Whether they have it: if not, nothing is changed.
    pub(crate) fn append(&mut self, other: &Samples) -> bool {
        let scale = |samples: &Samples| samples.shape().scale.map(f32::to_bits);
        let (shape, others) = (self.shape(), other.shape());
        if (self.feature_length, shape.target_length, scale(self))
            != (other.feature_length, others.target_length, scale(other))
        {
            return false;
        }
        self.extend(other);
        true
    }

    /// The samples with value targets, `classes` for each, instead of labels: 1 at the label and 0 elsewhere.
    ///
    /// # Errors
    /// If the targets are values already, or there are none; if there are no classes, or a label is not less than
    /// `classes`, whose row is named.
    pub fn one_hot(&self, classes: usize) -> Result<Samples> {
        let labels = match self.targets() {
            SampleTargets::Labels(labels) => labels,
            other => {
                let found = if *other == SampleTargets::None {
                    "no targets"
                } else {
                    "values already"
                };
                return Err(Error::Samples(format!(
                    "one_hot takes samples with labels; these have {found}"
                )));
            }
        };
        let too_many = || {
            Error::Samples(format!(
                "{} labels of {classes} classes are too many values",
                labels.len()
            ))
        };
        let length = labels
            .len()
            .checked_mul(classes)
            .filter(|length| *length <= u32::MAX as usize);
        let mut values = vec![0.0; length.ok_or_else(too_many)?];
        for (row, label) in labels.iter().enumerate() {
            let class = Some(*label as usize).filter(|class| *class < classes).ok_or_else(|| {
                Error::Samples(format!(
                    "row {row}: label {label} has no place among {classes} classes, which count from 0; give more classes, \
                     or filter it out"
                ))
            })?;
            values[row * classes + class] = 1.0;
        }
        let targets = SampleTargets::Values {
            length: classes,
            values,
        };
        Samples::together(self.feature_length, Arc::clone(&self.features), targets)
    }

    /// Copies in `parts` contiguous pieces whose lengths differ by 1 at most. Errors for no parts. Where the samples
    /// are in order, such as by class, so are the pieces, and lanes that train on them are not alike:
    /// [`shuffle_samples`](crate::PrepareSamples::shuffle_samples) mixes those of a dataset.
    ///
    /// ```
    /// # use distdl_dl::{Features, SampleTargets, Samples};
    /// let samples = Samples::new(1, Features::F32(vec![0.0; 5]), SampleTargets::Labels(vec![0, 1, 2, 3, 4]))?;
    /// let parts = samples.split(2)?; // the records of a dataset: `context.parallelize(parts, 2)`
    /// assert_eq!(parts[0].targets(), &SampleTargets::Labels(vec![0, 1, 2]));
    /// assert_eq!(parts[1].targets(), &SampleTargets::Labels(vec![3, 4]));
    /// # Ok::<(), distdl_dl::Error>(())
    /// ```
    pub fn split(&self, parts: usize) -> Result<Vec<Samples>> {
        if parts == 0 {
            return Err(Error::Samples("cannot be split into 0 parts".into()));
        }
        let (length, longer) = (self.len() / parts, self.len() % parts);
        let start = |part: usize| part * length + part.min(longer);
        (0..parts)
            .map(|part| self.slice(start(part)..start(part + 1)))
            .collect()
    }
}

impl SampleShape {
    /// A sample's targets as bytes.
    pub(crate) fn target_bytes(&self) -> usize {
        self.target_length.unwrap_or(1) * size_of::<f32>()
    }

    /// A sample as bytes.
    pub(crate) fn row_bytes(&self) -> usize {
        let feature_bytes = if self.scale.is_some() { 1 } else { size_of::<f32>() };
        self.target_bytes() + self.feature_length * feature_bytes
    }
}

impl Features {
    fn len(&self) -> usize {
        match self {
            Features::U8 { bytes, .. } => bytes.len(),
            Features::F32(values) => values.len(),
        }
    }

    fn slice(&self, range: Range<usize>) -> Features {
        match self {
            Features::U8 { bytes, scale } => Features::U8 {
                bytes: bytes[range].to_vec(),
                scale: *scale,
            },
            Features::F32(values) => Features::F32(values[range].to_vec()),
        }
    }
}

impl SampleTargets {
    /// How many samples they are of, if they say so.
    fn rows(&self) -> Result<Option<usize>> {
        match self {
            SampleTargets::Labels(labels) => Ok(Some(labels.len())),
            SampleTargets::Values { length, values } => rows("target values", values.len(), *length).map(Some),
            SampleTargets::None => Ok(None),
        }
    }

    fn slice(&self, range: Range<usize>) -> SampleTargets {
        match self {
            SampleTargets::Labels(labels) => SampleTargets::Labels(labels[range].to_vec()),
            SampleTargets::Values { length, values } => SampleTargets::Values {
                length: *length,
                values: values[range.start * length..range.end * length].to_vec(),
            },
            SampleTargets::None => SampleTargets::None,
        }
    }
}

/// Some rows of `length` values.
fn gathered<T: Copy>(values: &[T], length: usize, rows: &[usize]) -> Vec<T> {
    let row = |row: &usize| &values[row * length..(row + 1) * length];
    rows.iter().flat_map(row).copied().collect()
}

/// The length of rows that all have the same, and their elements.
fn joined<R: AsRef<[f32]>>(what: &str, rows: impl IntoIterator<Item = R>) -> Result<(usize, Vec<f32>)> {
    let (mut length, mut elements) = (None, Vec::new());
    for (index, row) in rows.into_iter().enumerate() {
        let row = row.as_ref();
        let first = *length.get_or_insert(row.len());
        if row.len() != first {
            return Err(Error::Samples(format!(
                "row {index} has {} {what}, and the first one has {first}",
                row.len()
            )));
        }
        elements.extend_from_slice(row);
    }
    let length = length.ok_or_else(|| Error::Samples(format!("no rows, so how many {what} they have is not known")))?;
    Ok((length, elements))
}

fn rows(what: &str, elements: usize, row_length: usize) -> Result<usize> {
    match elements.checked_rem(row_length) {
        None => Err(Error::Samples(format!("{what}: a row must have at least 1 element"))),
        Some(0) => Ok(elements / row_length),
        Some(_) => Err(Error::Samples(format!(
            "{what}: {elements} elements are not whole rows of {row_length}"
        ))),
    }
}

#[cfg(test)]
mod tests;
