//! Blocks of samples, put together to one.

use std::borrow::Borrow;
use std::sync::Arc;

use super::{Features, SampleShape, SampleTargets, Samples};
use crate::error::{Error, Result};

impl Samples {
    /// A copy of all samples of some blocks, in their order.
    ///
    /// ```
    /// # use distdl_dl::Samples;
    /// let samples = Samples::from_labelled_rows([([0.5, 1.0], 3), ([2.0, 0.0], 1), ([0.0, 0.0], 2)])?;
    /// assert_eq!(Samples::concat(samples.split(2)?)?, samples);
    /// # Ok::<(), distdl_dl::Error>(())
    /// ```
    ///
    /// # Errors
    /// If there are no blocks; if one has another number or kind of features or targets than the first, or bytes of
    /// another scale: it is named, with how it differs; if they are too many samples for one block.
    pub fn concat<S: Borrow<Samples>>(blocks: impl IntoIterator<Item = S>) -> Result<Samples> {
        let mut blocks = blocks.into_iter();
        let Some(first) = blocks.next() else {
            let problem = "nothing to put together, so what the samples are is not known; give at least one block";
            return Err(Error::Samples(problem.to_owned()));
        };
        let mut whole = first.borrow().clone();
        let wanted = whole.shape();
        for (index, block) in (1..).zip(blocks) {
            let block = block.borrow();
            if block.shape() != wanted {
                let differences = differences(wanted, block.shape());
                return Err(Error::Samples(format!(
                    "block {index} (from 0) has {differences} as the first one; put blocks of one kind together"
                )));
            }
            whole.extend(block);
        }
        let Samples {
            feature_length,
            features,
            targets,
        } = whole;
        Samples::together(feature_length, features, Arc::unwrap_or_clone(targets))
    }

    /// Adds samples of the same kind.
    pub(super) fn extend(&mut self, more: &Samples) {
        Arc::make_mut(&mut self.features).append(&more.features);
        Arc::make_mut(&mut self.targets).append(&more.targets);
    }
}

impl Features {
    /// Adds those of other samples, which are of the same kind.
    fn append(&mut self, more: &Features) {
        match (self, more) {
            (Features::U8 { bytes, .. }, Features::U8 { bytes: more, .. }) => bytes.extend_from_slice(more),
            (Features::F32(values), Features::F32(more)) => values.extend_from_slice(more),
            (Features::U8 { .. }, Features::F32(_)) | (Features::F32(_), Features::U8 { .. }) => {}
        }
    }
}

impl SampleTargets {
    /// Adds those of other samples, which are of the same kind.
    fn append(&mut self, more: &SampleTargets) {
        match (self, more) {
            (SampleTargets::Labels(labels), SampleTargets::Labels(more)) => labels.extend_from_slice(more),
            (SampleTargets::Values { values, .. }, SampleTargets::Values { values: more, .. }) => {
                values.extend_from_slice(more);
            }
            (SampleTargets::Labels(_) | SampleTargets::Values { .. } | SampleTargets::None, _) => {}
        }
    }
}

/// What samples have that differs, each with what was wanted.
fn differences(wanted: SampleShape, found: SampleShape) -> String {
    let words = |shape: SampleShape| {
        let kind = shape.scale.map(|scale| format!("bytes times {scale}"));
        let targets = shape.target_length.map(|length| match length {
            0 => "no targets".to_owned(),
            _ => format!("{length} target values"),
        });
        [
            format!("{} features", shape.feature_length),
            kind.unwrap_or_else(|| "features in f32".to_owned()),
            targets.unwrap_or_else(|| "labels".to_owned()),
        ]
    };
    let both = words(found).into_iter().zip(words(wanted));
    let differing = both.filter(|(found, wanted)| found != wanted);
    let differing = differing.map(|(found, wanted)| format!("{found} and not {wanted}"));
    differing.collect::<Vec<_>>().join(", ")
}
