//! Mini-batches: in which order a lane walks through its samples, and gathering them into rows.

use crate::error::{Error, Result};
use crate::kernels::gather;
use crate::loss::Targets;
use crate::rng::{Purpose, Stream};
use crate::samples::{Row, RowFeatures, RowTarget, SampleShape, Samples};
use crate::scalar::{Scalar, try_zeros};
use std::borrow::Borrow;
use std::collections::TryReserveError;

/// The order in which `lane` walks through its `length` samples in `epoch`: a permutation of `0..length`, and a
/// function of these four numbers only (Fisher and Yates's shuffle).
pub fn shuffle(seed: u64, epoch: u64, lane: u64, length: u32) -> Vec<u32> {
    let mut stream = Stream::new(seed, Purpose::SampleOrder, [epoch, lane]);
    let mut order: Vec<u32> = (0..length).collect();
    for last in (1..length).rev() {
        order.swap(last as usize, stream.next_below(last + 1) as usize);
    }
    order
}

/// A mini-batch in buffers that are allocated once, for up to a number of rows.
///
/// ```
/// use distdl_dl::{Batch, NeuralNetwork, Samples};
///
/// let network = NeuralNetwork::dense(2, &[4], 2)?;
/// let parameters = network.initialize(1)?; // or those of a training
/// let samples = Samples::from_labelled_rows([([0.5, 1.0], 0), ([1.0, 0.5], 1), ([0.0, 2.0], 0)])?;
/// let mut batch = Batch::new(&samples, 2);
/// batch.gather(&[&samples], [0, 2].into_iter())?;
/// let (mut workspace, mut gradient) = (network.workspace(2), vec![0.0; network.parameter_count()]);
/// let (features, targets, rows) = (batch.features(), batch.targets(), batch.rows());
/// let report = network.gradient(&parameters, features, targets, rows, &mut workspace, &mut gradient)?;
/// assert_eq!(report.samples, 2);
/// for tensor in network.parameter_layout().entries() {
///     println!("{}: {:?}", tensor.name, &gradient[tensor.range.clone()]); // the sum over both rows
/// }
/// # Ok::<(), distdl_dl::Error>(())
/// ```
#[derive(Debug)]
pub struct Batch<T: Scalar = f32> {
    feature_length: usize,
    rows_max: usize,
    rows: usize,
    features: Vec<T>,
    targets: BatchTargets<T>,
}

#[derive(Debug)]
enum BatchTargets<T> {
    Labels(Vec<u32>),
    Values { length: usize, values: Vec<T> },
}

impl<T: Scalar> Batch<T> {
    /// An empty batch for up to `rows_max` rows of the kind of `samples`.
    pub fn new(samples: &Samples, rows_max: usize) -> Self {
        Self::of(samples.shape(), rows_max)
    }

    /// An empty batch for samples of a shape. Errors if there is no memory for it.
    pub(crate) fn try_of(shape: SampleShape, rows_max: usize) -> Result<Self, TryReserveError> {
        let mut batch = Self::of(shape, 0);
        batch.features = try_zeros(rows_max, shape.feature_length)?;
        match &mut batch.targets {
            BatchTargets::Labels(labels) => *labels = try_zeros(rows_max, 1)?,
            BatchTargets::Values { length, values } => *values = try_zeros(rows_max, *length)?,
        }
        batch.rows_max = rows_max;
        Ok(batch)
    }

    fn of(shape: SampleShape, rows_max: usize) -> Self {
        let targets = match shape.target_length {
            None => BatchTargets::Labels(vec![0; rows_max]),
            Some(length) => BatchTargets::Values {
                length,
                values: vec![T::ZERO; rows_max * length],
            },
        };
        let features = vec![T::ZERO; rows_max * shape.feature_length];
        Batch {
            feature_length: shape.feature_length,
            rows_max,
            rows: 0,
            features,
            targets,
        }
    }

    /// Whether so many rows of this kind have room.
    pub(crate) fn has_room(&self, shape: SampleShape, rows: usize) -> bool {
        let target_length = match &self.targets {
            BatchTargets::Labels(_) => None,
            BatchTargets::Values { length, .. } => Some(*length),
        };
        rows <= self.rows_max && (self.feature_length, target_length) == (shape.feature_length, shape.target_length)
    }

    /// Fills the batch with the samples at `indices`, which count through all `blocks` as if they were one. Allocates
    /// nothing.
    ///
    /// Errors, and leaves the batch empty, if there are too many indices, one is out of range, or a block is of another
    /// kind than the batch was made for.
    pub fn gather<S: Borrow<Samples>>(
        &mut self,
        blocks: &[S],
        indices: impl ExactSizeIterator<Item = u32>,
    ) -> Result<()> {
        self.gather_from(&mut Blocks(blocks), indices)
    }

    /// As [`gather`](Self::gather), from whatever gives rows.
    pub(crate) fn gather_from(
        &mut self,
        source: &mut impl RowSource,
        indices: impl ExactSizeIterator<Item = u32>,
    ) -> Result<()> {
        self.rows = 0;
        let rows = indices.len();
        if rows > self.rows_max {
            return Err(Error::Rows {
                rows,
                rows_max: self.rows_max,
            });
        }
        for (row, index) in indices.enumerate() {
            self.set_row(row, &source.row(index)?)?;
        }
        self.rows = rows;
        Ok(())
    }

    /// Number of rows gathered last.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The features, rows x feature length.
    pub fn features(&self) -> &[T] {
        &self.features[..self.rows * self.feature_length]
    }

    /// The features, to be changed in place.
    pub(crate) fn features_mut(&mut self) -> &mut [T] {
        &mut self.features[..self.rows * self.feature_length]
    }

    /// The targets of the rows.
    pub fn targets(&self) -> Targets<'_, T> {
        match &self.targets {
            BatchTargets::Labels(labels) => Targets::Labels(&labels[..self.rows]),
            BatchTargets::Values { length, values } => Targets::Values(&values[..self.rows * length]),
        }
    }

    fn set_row(&mut self, row: usize, sample: &Row<'_>) -> Result<()> {
        let length = self.feature_length;
        let features = &mut self.features[row * length..(row + 1) * length];
        match sample.features {
            RowFeatures::U8(bytes, scale) => {
                check_features(bytes.len(), length)?;
                gather::scale_bytes(bytes, scale, features)?;
            }
            RowFeatures::F32(values) => {
                check_features(values.len(), length)?;
                gather::copy_values(values, features)?;
            }
        }
        match (&mut self.targets, sample.target) {
            (BatchTargets::Labels(to), RowTarget::Label(label)) => to[row] = label,
            (BatchTargets::Values { length, values: to }, RowTarget::Values(from)) if *length == from.len() => {
                gather::copy_values(from, &mut to[row * *length..(row + 1) * *length])?;
            }
            _ => {
                return Err(Error::Samples(
                    "a block's targets are of another kind than the batch is made for".into(),
                ));
            }
        }
        Ok(())
    }
}

fn check_features(got: usize, length: usize) -> Result<()> {
    if got == length {
        return Ok(());
    }
    Err(Error::Samples(format!(
        "a block has {got} features a row, the batch is made for {length}"
    )))
}

/// Samples that are counted through, wherever they lie.
pub(crate) trait RowSource {
    /// The sample of an index.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    fn row(&mut self, index: u32) -> Result<Row<'_>>;
}

/// Blocks as if they were one.
struct Blocks<'a, S>(&'a [S]);

impl<S: Borrow<Samples>> RowSource for Blocks<'_, S> {
    fn row(&mut self, index: u32) -> Result<Row<'_>> {
        let mut within = index as usize;
        for block in self.0 {
            let block = block.borrow();
            if within < block.len() {
                return Ok(block.row(within));
            }
            within -= block.len();
        }
        Err(Error::SampleIndex {
            index,
            length: self.0.iter().map(|block| block.borrow().len()).sum(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::samples::{Features, SampleTargets};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn labelled(first: u8, count: usize) -> Samples {
        let bytes = (0..count)
            .flat_map(|i| [first + i as u8, 2 * (first + i as u8)])
            .collect();
        let labels = (0..count as u32).map(|label| u32::from(first) + label).collect();
        Samples::new(2, Features::U8 { bytes, scale: 0.5 }, SampleTargets::Labels(labels)).unwrap()
    }

    fn valued() -> Samples {
        let targets = SampleTargets::Values {
            length: 2,
            values: vec![1.0, 2.0, 3.0, 4.0],
        };
        Samples::new(1, Features::F32(vec![7.0, 8.0]), targets).unwrap()
    }

    #[test]
    fn rows_come_from_all_blocks_in_the_order_asked_for() {
        let blocks = [
            Arc::new(labelled(0, 3)),
            Arc::new(labelled(3, 0)),
            Arc::new(labelled(3, 2)),
        ];
        let mut batch = Batch::<f32>::new(&blocks[0], 4);
        batch.gather(&blocks, [4, 0, 2].into_iter()).unwrap();
        assert_eq!(batch.rows(), 3);
        assert_eq!(batch.features(), [2.0, 4.0, 0.0, 0.0, 1.0, 2.0]);
        assert!(matches!(batch.targets(), Targets::Labels([4, 0, 2])));
    }

    #[test]
    fn values_are_gathered_too() {
        let mut batch = Batch::<f64>::new(&valued(), 2);
        batch.gather(&[valued()], [1, 0].into_iter()).unwrap();
        assert_eq!(batch.features(), [8.0, 7.0]);
        assert!(matches!(batch.targets(), Targets::Values([3.0, 4.0, 1.0, 2.0])));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_leaves_the_batch_empty() {
        let mut batch = Batch::<f32>::new(&labelled(0, 3), 2);
        batch.gather(&[labelled(0, 3)], 0..2).unwrap();
        assert!(matches!(
            batch.gather(&[labelled(0, 3)], 0..3),
            Err(Error::Rows { rows: 3, rows_max: 2 })
        ));
        assert!(matches!(
            batch.gather(&[labelled(0, 3)], 2..4),
            Err(Error::SampleIndex { index: 3, length: 3 })
        ));
        assert!(matches!(batch.gather(&[valued()], 0..1), Err(Error::Samples(_))));
        assert_eq!((batch.rows(), batch.features().len()), (0, 0));
        let one_feature = Samples::new(1, Features::F32(vec![0.0]), SampleTargets::Labels(vec![0])).unwrap();
        assert!(matches!(
            Batch::<f32>::new(&valued(), 1).gather(&[one_feature], 0..1),
            Err(Error::Samples(_))
        ));
    }

    proptest! {
        #[test]
        fn an_order_is_a_permutation(seed: u64, epoch in 0u64..5, lane in 0u64..5, length in 0u32..300) {
            let mut order = shuffle(seed, epoch, lane, length);
            prop_assert_eq!(&order, &shuffle(seed, epoch, lane, length));
            order.sort_unstable();
            prop_assert_eq!(order, (0..length).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_order_depends_on_seed_epoch_and_lane() {
        let orders =
            [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)].map(|(seed, epoch, lane)| shuffle(seed, epoch, lane, 100));
        for (index, order) in orders.iter().enumerate() {
            assert!(orders[..index].iter().all(|other| other != order));
        }
    }

    #[test]
    fn every_place_is_equally_likely() {
        let mut counts = [[0u32; 5]; 5];
        for seed in 0..20_000 {
            shuffle(seed, 0, 0, 5)
                .iter()
                .enumerate()
                .for_each(|(place, &value)| counts[place][value as usize] += 1);
        }
        assert!(
            counts.iter().flatten().all(|&count| (3_700..4_300).contains(&count)),
            "{counts:?}"
        );
    }
}
