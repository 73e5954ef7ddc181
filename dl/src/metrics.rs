//! What samples say about the model.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Loss and hits over some samples; reports of disjoint samples add up with [`BatchReport::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BatchReport {
    /// Sum over samples of the loss of each; NaN or infinite if any is.
    pub loss_sum: f64,
    /// Samples whose largest output is at their label; `None` where targets are values and not labels, or there are no
    /// samples.
    pub correct: Option<u64>,
    /// Number of samples.
    pub samples: u64,
    /// What the sum is divided by for the mean loss: the number of samples, or the sum of their classes' weights
    /// ([`Loss::WeightedCrossEntropy`](crate::Loss::WeightedCrossEntropy)) or of those that a loss of one's own gives
    /// them.
    pub weight: f64,
}

impl BatchReport {
    /// Adds another report. Floating-point sums depend on order: merge in the order of lane indices.
    pub fn merge(&mut self, other: &BatchReport) {
        self.correct = match (self.samples, other.samples) {
            (0, _) => other.correct,
            (_, 0) => self.correct,
            _ => self.correct.zip(other.correct).map(|(one, other)| one + other),
        };
        self.loss_sum += other.loss_sum;
        self.samples += other.samples;
        self.weight += other.weight;
    }

    /// Mean loss per sample; not a number, or infinite, for no samples, or none that counts.
    pub fn mean_loss(&self) -> f64 {
        self.loss_sum / self.weight
    }

    /// Share of samples that are right, 0 to 1. There is none for no samples, nor where targets are values: models are
    /// then judged by [`mean_loss`](Self::mean_loss).
    pub fn accuracy(&self) -> Option<f64> {
        let correct = self.correct.filter(|_| self.samples > 0)?;
        Some(correct as f64 / self.samples as f64)
    }

    /// Whether the loss is a finite number.
    pub fn is_finite(&self) -> bool {
        self.loss_sum.is_finite()
    }
}

/// What lanes of this process did on its GPUs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GpuFigures {
    /// Its name, or that of each of several.
    pub name: String,
    /// How many they are.
    pub count: usize,
    /// How many have failed. Without any left the CPU computes.
    pub lost: usize,
    /// Mini-batches, or micro-batches of one, whose gradient it has computed.
    pub passes: u64,
    /// How long at least one of those was under way, copies included, in seconds.
    pub busy_seconds: f64,
    /// Bytes that were copied to it for them: parameters, the optimizer's state where it stays there, and mini-batches
    /// or their places.
    pub to_gpu_bytes: u64,
    /// Bytes that were copied from it: gradients, or parameters and state; losses and hits.
    pub from_gpu_bytes: u64,
    /// Convolutions in those passes, and gradients of them, that cuDNN has computed.
    pub cudnn_convolutions: u64,
    /// CUDA graphs that were captured of resident steps, which a GPU takes whole.
    pub graphs: u64,
    /// Resident steps that were asked for as such a graph.
    pub graph_steps: u64,
    /// Resident steps that were asked for kernel by kernel: of each kind the first, and those of which no graph can be
    /// made.
    pub eager_steps: u64,
    /// Why a step last was not asked for as a graph though it was to be, if there was one.
    pub graph_fallback: Option<String>,
    /// Bytes of samples that were copied to it to stay there.
    pub sample_bytes: u64,
    /// Bytes of samples that were there already when they were wanted.
    pub sample_bytes_avoided: u64,
}

impl GpuFigures {
    /// What was done since the figures were `before`. How many GPUs there are, and why a step was last no graph, is as
    /// it is now.
    pub fn since(self, before: &Self) -> Self {
        Self {
            passes: self.passes.saturating_sub(before.passes),
            busy_seconds: self.busy_seconds - before.busy_seconds,
            to_gpu_bytes: self.to_gpu_bytes.saturating_sub(before.to_gpu_bytes),
            from_gpu_bytes: self.from_gpu_bytes.saturating_sub(before.from_gpu_bytes),
            cudnn_convolutions: self.cudnn_convolutions.saturating_sub(before.cudnn_convolutions),
            graphs: self.graphs.saturating_sub(before.graphs),
            graph_steps: self.graph_steps.saturating_sub(before.graph_steps),
            eager_steps: self.eager_steps.saturating_sub(before.eager_steps),
            sample_bytes: self.sample_bytes.saturating_sub(before.sample_bytes),
            sample_bytes_avoided: self.sample_bytes_avoided.saturating_sub(before.sample_bytes_avoided),
            ..self
        }
    }
}

/// How often samples of each class were taken for each class. Matrices of disjoint samples add up with
/// [`ConfusionMatrix::merge`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct ConfusionMatrix {
    classes: usize,
    /// Row after row: the class of a sample, then what it was taken for.
    counts: Vec<u64>,
}

/// What was read from outside and may contradict itself.
#[derive(Deserialize)]
struct Unchecked {
    classes: usize,
    counts: Vec<u64>,
}

impl TryFrom<Unchecked> for ConfusionMatrix {
    type Error = Error;

    fn try_from(Unchecked { classes, counts }: Unchecked) -> Result<Self> {
        let expected = classes.saturating_mul(classes);
        crate::error::check_length("the counts of a confusion matrix", expected, counts.len())?;
        Ok(Self { classes, counts })
    }
}

impl ConfusionMatrix {
    /// Of no samples.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            counts: vec![0; classes * classes],
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Counts a sample.
    ///
    /// # Errors
    /// If one of the two is no class.
    pub fn add(&mut self, label: usize, prediction: usize) -> Result<()> {
        self.add_several(label, prediction, 1)
    }

    fn add_several(&mut self, label: usize, prediction: usize, count: u64) -> Result<()> {
        check_classes(self.classes, label.max(prediction), || self.samples())?;
        self.counts[label * self.classes + prediction] += count;
        Ok(())
    }

    /// Adds pairs that were counted.
    pub(crate) fn add_pairs(&mut self, pairs: &CountedPairs) -> Result<()> {
        let mut pairs = pairs.counts.iter();
        pairs.try_for_each(|((label, prediction), count)| {
            self.add_several(*label as usize, *prediction as usize, *count)
        })
    }

    /// Adds another matrix.
    ///
    /// # Errors
    /// If it has another number of classes.
    pub fn merge(&mut self, other: &ConfusionMatrix) -> Result<()> {
        crate::error::check_length("the other confusion matrix", self.counts.len(), other.counts.len())?;
        self.counts
            .iter_mut()
            .zip(&other.counts)
            .for_each(|(sum, count)| *sum += count);
        Ok(())
    }

    /// Samples of the class `label` that were taken for `prediction`; 0 where one of them is no class.
    pub fn count(&self, label: usize, prediction: usize) -> u64 {
        match label.max(prediction) < self.classes {
            true => self.counts[label * self.classes + prediction],
            false => 0,
        }
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Share of all samples that were taken for what they are, 0 to 1; NaN for no samples.
    pub fn accuracy(&self) -> f64 {
        let correct: u64 = (0..self.classes).map(|class| self.count(class, class)).sum();
        correct as f64 / self.samples() as f64
    }

    /// Of what was taken for `class` the share that is, 0 to 1; NaN if nothing was.
    pub fn precision(&self, class: usize) -> f64 {
        let taken: u64 = (0..self.classes).map(|label| self.count(label, class)).sum();
        self.count(class, class) as f64 / taken as f64
    }

    /// Of the samples of `class` the share that was taken for it, 0 to 1; NaN if there are none.
    pub fn recall(&self, class: usize) -> f64 {
        let there: u64 = (0..self.classes).map(|taken| self.count(class, taken)).sum();
        self.count(class, class) as f64 / there as f64
    }

    /// The harmonic mean of precision and recall of `class`, 2 hits / (2 hits + false ones + missed ones); NaN if there
    /// is nothing of it on either side.
    pub fn f1(&self, class: usize) -> f64 {
        let ends = (0..self.classes).map(|other| self.count(other, class) + self.count(class, other));
        2.0 * self.count(class, class) as f64 / ends.sum::<u64>() as f64
    }
}

fn check_classes(classes: usize, worse: usize, samples: impl Fn() -> u64) -> Result<()> {
    if worse < classes {
        return Ok(());
    }
    Err(Error::Label {
        row: samples() as usize,
        label: u32::try_from(worse).unwrap_or(u32::MAX),
        classes,
    })
}

/// The counts of a confusion matrix that are not 0: no more than samples, however many classes there are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CountedPairs {
    samples: u64,
    /// By the class of a sample and what it was taken for.
    counts: BTreeMap<(u32, u32), u64>,
}

impl CountedPairs {
    /// Counts a sample. Errors if one of the two is none of so many classes.
    pub(crate) fn add(&mut self, classes: usize, label: u32, prediction: u32) -> Result<()> {
        check_classes(classes, label.max(prediction) as usize, || self.samples)?;
        self.samples += 1;
        *self.counts.entry((label, prediction)).or_default() += 1;
        Ok(())
    }
}

/// The area under the curve of true over false positives: the probability that a positive sample has a larger score
/// than a negative one, where equal ones count half (Mann and Whitney, 1947). NaN if there are no positive or no
/// negative ones; scores that are not numbers come last or first, by their sign.
pub fn area_under_curve(scores: impl IntoIterator<Item = (f32, bool)>) -> f64 {
    let mut scores: Vec<(f32, bool)> = scores.into_iter().collect();
    scores.sort_unstable_by(|left, right| left.0.total_cmp(&right.0));
    let (mut negatives, mut positives, mut twice) = (0u64, 0u64, 0u128);
    for equal in scores.chunk_by(|left, right| left.0 == right.0 || left.0.total_cmp(&right.0).is_eq()) {
        let positive = equal.iter().filter(|(_, is_positive)| *is_positive).count() as u64;
        let negative = equal.len() as u64 - positive;
        twice += u128::from(positive) * u128::from(2 * negatives + negative);
        (negatives, positives) = (negatives + negative, positives + positive);
    }
    twice as f64 / (2.0 * positives as f64 * negatives as f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_are_those_of_their_definitions(pairs in prop::collection::vec((0..3usize, 0..3usize), 0..40), cut in 0..40usize) {
            let (mut matrix, mut rest) = (ConfusionMatrix::new(3), ConfusionMatrix::new(3));
            for (index, (label, prediction)) in pairs.iter().enumerate() {
                let matrix = if index < cut { &mut matrix } else { &mut rest };
                matrix.add(*label, *prediction).unwrap();
            }
            matrix.merge(&rest).unwrap();
            let count = |test: &dyn Fn(usize, usize) -> bool| pairs.iter().filter(|(label, taken)| test(*label, *taken)).count() as f64;
            let same = |left: f64, right: f64| left == right || (left.is_nan() && right.is_nan());
            prop_assert_eq!(matrix.samples() as usize, pairs.len());
            prop_assert!(same(matrix.accuracy(), count(&|label, taken| label == taken) / pairs.len() as f64));
            for class in 0..3 {
                let hits = count(&|label, taken| label == class && taken == class);
                let (precision, recall) = (hits / count(&|_, taken| taken == class), hits / count(&|label, _| label == class));
                prop_assert!(same(matrix.precision(class), precision) && same(matrix.recall(class), recall));
                if hits > 0.0 {
                    prop_assert!((matrix.f1(class) - 2.0 / (1.0 / precision + 1.0 / recall)).abs() < 1e-12);
                }
            }
        }

        #[test]
        fn the_area_is_the_share_of_pairs_in_order(scores in prop::collection::vec((-3..3i8, any::<bool>()), 0..30)) {
            let of = |wanted: bool| scores.iter().filter(move |(_, positive)| *positive == wanted).map(|(score, _)| *score);
            let pairs: Vec<f64> = of(true)
                .flat_map(|high| of(false).map(move |low| (high > low) as u8 as f64 + 0.5 * (high == low) as u8 as f64))
                .collect();
            let expected = pairs.iter().sum::<f64>() / pairs.len() as f64;
            let got = area_under_curve(scores.iter().map(|(score, positive)| (f32::from(*score), *positive)));
            prop_assert!((got - expected).abs() < 1e-12 || pairs.is_empty() && got.is_nan());
        }
    }

    #[test]
    fn pairs_are_no_more_than_samples_and_come_to_the_same_matrix() {
        let samples = [(7, 4095), (7, 7), (7, 4095), (0, 4095)];
        let (mut parts, mut whole) = (
            [CountedPairs::default(), CountedPairs::default()],
            ConfusionMatrix::new(4096),
        );
        for (index, (label, prediction)) in samples.into_iter().enumerate() {
            parts[index % 2].add(4096, label, prediction).unwrap();
            whole.add(label as usize, prediction as usize).unwrap();
        }
        assert_eq!(parts.each_ref().map(|part| part.counts.len()), [1, 2]);
        let mut sum = ConfusionMatrix::new(4096);
        parts.iter().for_each(|part| sum.add_pairs(part).unwrap());
        assert_eq!(sum, whole);
        let error = parts[0].add(4096, 4096, 0).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Label {
                    row: 2,
                    label: 4096,
                    classes: 4096
                }
            ),
            "{error:?}"
        );
    }

    #[test]
    fn what_is_no_class_is_refused() {
        let mut matrix = ConfusionMatrix::new(2);
        assert!(matrix.add(0, 2).is_err() && matrix.add(2, 0).is_err());
        assert!(matrix.merge(&ConfusionMatrix::new(3)).is_err());
        assert_eq!((matrix.samples(), matrix.count(5, 0)), (0, 0));
    }

    #[test]
    fn reports_add_up() {
        let mut sum = BatchReport {
            loss_sum: 1.5,
            correct: Some(2),
            samples: 3,
            weight: 3.0,
        };
        sum.merge(&BatchReport {
            loss_sum: 0.5,
            correct: Some(1),
            samples: 1,
            weight: 1.0,
        });
        assert_eq!(
            sum,
            BatchReport {
                loss_sum: 2.0,
                correct: Some(3),
                samples: 4,
                weight: 4.0,
            }
        );
        assert_eq!((sum.mean_loss(), sum.accuracy()), (0.5, Some(0.75)));
        sum.merge(&BatchReport {
            loss_sum: f64::NAN,
            correct: Some(0),
            samples: 1,
            weight: 1.0,
        });
        assert!(!sum.is_finite());
    }

    #[test]
    fn where_one_report_has_no_hits_there_is_no_accuracy() {
        let of_labels = BatchReport {
            loss_sum: 1.0,
            correct: Some(1),
            samples: 2,
            weight: 2.0,
        };
        let of_values = BatchReport {
            correct: None,
            ..of_labels
        };
        let merged = |mut one: BatchReport, other: BatchReport| {
            one.merge(&other);
            (one.samples, one.accuracy())
        };
        let none = BatchReport::default();
        assert_eq!(none.accuracy(), None);
        assert_eq!(
            merged(none, of_labels),
            (2, Some(0.5)),
            "of no samples there is nothing to count"
        );
        assert_eq!(merged(of_labels, none), (2, Some(0.5)));
        assert_eq!(merged(of_labels, of_values), (4, None));
        assert_eq!(merged(of_values, of_labels), (4, None));
    }
}
