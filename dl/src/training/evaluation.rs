//! Evaluation over a dataset: each partition where its task runs, some rows at a time.

use std::sync::Arc;

use distdl_engine::{Dataset, Determinacy};
use distdl_storage::Record;

use super::Training;
use super::device::{BlockRows, Evaluates, EvaluationDevice, LaneDevices, SampleBlock};
use super::devices::Devices;
use super::failed::Failed;
use super::look::{check_features, check_row_features, check_row_labels, check_row_targets, check_targets, not_finite};
use crate::batch::Batch;
use crate::error::{Error, Result, check_length};
use crate::metrics::{BatchReport, ConfusionMatrix, CountedPairs};
use crate::model_file::parameters_hash;
use crate::network::{NeuralNetwork, Workspace};
use crate::samples::{SampleShape, SampleTargets, Samples};

/// Rows that are handled at a time, at most.
const ROWS: usize = 500;
/// What the outputs of all layers for the rows that are handled at a time may take, in bytes, if one row takes no more.
const OUTPUT_BYTES_MAX: usize = 256 << 20;

/// Most classes of a confusion matrix, which then has 128 MiB.
const CLASSES_MAX: usize = 4096;

impl NeuralNetwork {
    /// Loss and hits over a dataset.
    ///
    /// ```
    /// # use distdl_dl::{Features, NeuralNetwork, SampleTargets, Samples};
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// # let points: Vec<f32> = (0..200).map(|point| point as f32 / 100.0 - 1.0).collect();
    /// # let labels = points.iter().map(|point| u32::from(*point > 0.0)).collect();
    /// # let samples = Samples::new(1, Features::F32(points), SampleTargets::Labels(labels))?;
    /// # let data = context.parallelize(samples.split(2)?, 2).cache();
    /// # let network = NeuralNetwork::dense(1, &[8], 2)?;
    /// let report = network.error(&data, &vec![0.0; network.parameter_count()])?;
    /// assert!((report.mean_loss() - 2.0_f64.ln()).abs() < 1e-6, "both classes are equally likely");
    /// assert_eq!(report.samples, 200);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If the samples do not suit the network, or as any action. If the loss is not finite, and a number of the data is
    /// not: it names the first, for which all of the data is passed over once more. Where the data is finite, as of a
    /// network that has diverged, the [report](BatchReport::is_finite) says what the loss is. If a GPU must compute
    /// (`device.gpu` is `on`), also if a layer has no kernels for GPUs, or the last one of a process is lost or has too
    /// little memory.
    pub fn error(&self, data: &Dataset<Samples>, parameters: &[f32]) -> Result<BatchReport> {
        error(self, data, parameters, &Devices::choose(data, self, Evaluates::Once)?)
    }

    /// The network's outputs for every sample of a dataset, as a dataset with the same partitions and order, computed
    /// when an action asks for them; probabilities where the loss takes logits. Each record is a row of as many as the
    /// network has outputs. So they can be saved, joined or counted where they are, however many they are. A block of
    /// samples is computed at a time.
    ///
    /// A GPU gives other bits than the CPU, and in another precision other ones: of results that are
    /// [memoized](Dataset::memoize), or found by [`checkpoint`](Dataset::checkpoint), those of the CPU, of GPUs, of
    /// each `device.precision`, and with cuDNN or without are told apart; those of GPUs of other models are not,
    /// nor what processes of one program have fetched from each other that compute on unlike devices. Where
    /// `device.gpu` is `auto` and a GPU may be lost on the way, or other processes have none, [say
    /// so](Dataset::with_determinacy) if what follows depends on bits. The dataset keeps its workspaces on GPUs as long
    /// as it lives.
    ///
    /// ```
    /// # use distdl_dl::{Dense, Features, Input, Loss, NeuralNetwork, SampleTargets, Samples};
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let points = Samples::new(1, Features::F32(vec![0.0, 1.0, -1.0]), SampleTargets::Labels(vec![0, 0, 1]))?;
    /// let data = context.parallelize(points.split(2)?, 2);
    /// let network = NeuralNetwork::new(Input(1)).output(Dense::linear(2), Loss::SoftmaxCrossEntropy)?;
    /// // Logits of 0 and x ln 3.
    /// let outputs = network.predict(&data, &[0.0, 3.0_f32.ln(), 0.0, 0.0])?;
    /// let percent = outputs.map(|row| [row[0], row[1]].map(|share| (100.0 * share).round() as i32)).collect()?;
    /// assert_eq!(percent, [[50, 50], [25, 75], [75, 25]], "in the order of the samples");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Samples need no targets for that ([`SampleTargets::None`]). Rows that are known by something, as by an id,
    /// become blocks of samples, and there is a prediction for each row, in the same partition: [`zip`](Dataset::zip)
    /// puts it beside its id. That needs as many of both in each partition, so no row is left out in between; how long
    /// the blocks are is no matter.
    ///
    /// ```
    /// # use distdl_dl::{Dense, Input, Loss, NeuralNetwork, Samples};
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// # let network = NeuralNetwork::new(Input(1)).output(Dense::linear(1), Loss::MeanSquaredError)?;
    /// let rows = context.parallelize(vec![(17_u64, [0.5_f32]), (3, [1.0]), (99, [3.0])], 2);
    /// let samples = rows.values().batch(1000)?.try_map(Samples::from_rows);
    /// let predictions = network.predict(&samples, &[2.0, 0.0])?; // twice the feature
    /// let of_ids = rows.keys().zip(&predictions)?.map(|(id, outputs)| (id, outputs[0]));
    /// assert_eq!(of_ids.collect()?, [(17, 1.0), (3, 2.0), (99, 6.0)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If there are not as many parameters as the network has, or a GPU must compute (`device.gpu` is `on`) and a layer
    /// has no kernels for GPUs. The actions on what is returned fail if the samples do not suit the network, or the
    /// last GPU is lost that must compute.
    #[track_caller]
    pub fn predict(&self, data: &Dataset<Samples>, parameters: &[f32]) -> Result<Dataset<Vec<f32>>> {
        predict(self, data, parameters, &Devices::choose(data, self, Evaluates::Once)?)
    }

    /// What the samples of a dataset are taken for: the class of the largest output, the first of equal ones.
    ///
    /// # Errors
    /// If the targets are values and not labels, an output is NaN, or there are more than 4096 classes; otherwise as
    /// [`error`](Self::error).
    pub fn confusion(&self, data: &Dataset<Samples>, parameters: &[f32]) -> Result<ConfusionMatrix> {
        confusion(self, data, parameters, &Devices::choose(data, self, Evaluates::Once)?)
    }
}

impl Training {
    /// Loss and hits of the parameters as they are over a dataset.
    ///
    /// # Errors
    /// As [`NeuralNetwork::error`]; in a program of several processes also once [`iterate`](Self::iterate) has failed.
    pub fn error(&self, data: &Dataset<Samples>) -> Result<BatchReport> {
        self.check_unity()?;
        let parameters = self.parameters();
        error(&self.plan.network, data, &parameters, &self.devices)
    }

    /// The outputs of the network with the parameters as they are, for each sample of a dataset:
    /// [`NeuralNetwork::predict`]. Samples of a dataset that is determinate and have room on a GPU stay there, as long
    /// as the training; no evaluation of it copies them again. A GPU that the training has lost is not looked for
    /// again.
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn predict(&self, data: &Dataset<Samples>) -> Result<Dataset<Vec<f32>>> {
        self.check_unity()?;
        predict(&self.plan.network, data, &self.parameters(), &self.devices)
    }

    /// What the samples of a dataset are taken for with the parameters as they are: [`NeuralNetwork::confusion`].
    ///
    /// # Errors
    /// As there.
    pub fn confusion(&self, data: &Dataset<Samples>) -> Result<ConfusionMatrix> {
        self.check_unity()?;
        confusion(&self.plan.network, data, &self.parameters(), &self.devices)
    }
}

/// Loss and hits over a dataset, on these devices.
fn error(
    network: &NeuralNetwork,
    data: &Dataset<Samples>,
    parameters: &[f32],
    devices: &Devices,
) -> Result<BatchReport> {
    let reports = over_batches(
        network,
        data,
        parameters,
        devices,
        BatchReport::default,
        |total: &mut BatchReport, evaluator, rows| {
            total.merge(&evaluator.report(rows)?);
            Ok(())
        },
    )?;
    let mut total = BatchReport::default();
    reports.iter().for_each(|report| total.merge(report));
    if total.is_finite() {
        return Ok(total);
    }
    // Of data that is finite it says how far the network has diverged.
    match not_finite(data)? {
        None => Ok(total),
        Some(input) => Err(Error::Data(format!(
            "the loss is {}, and {input}: mend the data, or leave such samples out",
            total.loss_sum
        ))),
    }
}

/// Outputs for every sample of a dataset, on these devices.
#[track_caller]
fn predict(
    network: &NeuralNetwork,
    data: &Dataset<Samples>,
    parameters: &[f32],
    devices: &Devices,
) -> Result<Dataset<Vec<f32>>> {
    check_length("the parameters", network.parameter_count(), parameters.len())?;
    // Processes may compute on other devices than each other, and each remembers what it has under the words of its own.
    let computed_with = devices.words(data.context().config());
    let (devices, first) = (devices.lanes(), first_block(data));
    let model = words(network, parameters);
    let (network, parameters) = (network.clone(), Arc::new(parameters.to_vec()));
    let rows = data.map_partitions_with_parameters_of_process(model, &computed_with, move |partition, blocks| {
        let block = SampleBlock { partition, ..first };
        let mut rows = Some(PartitionRows::new(&network, &parameters, block, devices.clone()));
        blocks.flat_map(move |samples| {
            let mut outputs = Vec::with_capacity(samples.len());
            // Behind an error nothing is wanted.
            let Some(ready) = &mut rows else { return Vec::new() };
            match ready.each(&samples, &mut |evaluator, rows| evaluator.predict(rows, &mut outputs)) {
                Ok(()) => outputs.into_iter().map(Ok).collect(),
                Err(error) => {
                    rows = None;
                    vec![Err(error.to_string())]
                }
            }
        })
    });
    Ok(rows.try_map(|row| row))
}

/// What the samples of a dataset are taken for, on these devices.
fn confusion(
    network: &NeuralNetwork,
    data: &Dataset<Samples>,
    parameters: &[f32],
    devices: &Devices,
) -> Result<ConfusionMatrix> {
    let classes = network.output_length();
    if classes > CLASSES_MAX {
        return Err(Error::Options(format!(
            "a confusion matrix of {classes} classes would hold {classes} x {classes} counts; take `predict` beyond \
             {CLASSES_MAX} classes"
        )));
    }
    let counted = over_batches(
        network,
        data,
        parameters,
        devices,
        CountedPairs::default,
        move |pairs: &mut CountedPairs, evaluator, rows| {
            let labels = match rows.samples.targets() {
                SampleTargets::Labels(labels) => labels,
                SampleTargets::Values { .. } => {
                    return Err(no_labels(
                        "values, of which there is a loss and no hit; give labels, or take `error`",
                    ));
                }
                SampleTargets::None => return Err(no_labels("no targets; give labels, or take `predict`")),
            };
            rows.check(&evaluator.network, check_row_labels)?;
            // As they are: different logits may be equal probabilities.
            let outputs = evaluator.outputs(rows)?;
            for (row, outputs) in rows.rows.clone().zip(outputs.chunks_exact(classes)) {
                if outputs.iter().any(|output| output.is_nan()) {
                    let what = "has NaN as an output of the network, so it is of no class; check the parameters, and the input for \
                                extreme values";
                    return Err(rows.unsuitable(row, what));
                }
                let first = |best: usize, index: usize| if outputs[index] > outputs[best] { index } else { best };
                pairs.add(classes, labels[row], (0..classes).fold(0, first) as u32)?;
            }
            Ok(())
        },
    )?;
    let mut sum = ConfusionMatrix::new(classes);
    counted.iter().try_for_each(|pairs| sum.add_pairs(pairs))?;
    Ok(sum)
}

/// The error of samples that have something else.
fn no_labels(have: &str) -> Error {
    Error::Data(format!(
        "a confusion matrix takes samples with labels; these have {have}"
    ))
}

/// What the outputs of a model follow from: processes of a cluster compare it.
fn words(network: &NeuralNetwork, parameters: &[f32]) -> String {
    format!("{:?} {}", network.words(), parameters_hash(parameters))
}

/// The first block of a dataset.
fn first_block(data: &Dataset<Samples>) -> SampleBlock {
    SampleBlock {
        dataset: data.id(),
        partition: 0,
        index: 0,
        samples_before: 0,
        is_determinate: data.determinacy() == Determinacy::Determinate,
    }
}

/// Rows of a network that are handled at a time.
fn rows_of(network: &NeuralNetwork) -> usize {
    let row_bytes = network.row_length().saturating_mul(size_of::<f32>());
    (OUTPUT_BYTES_MAX / row_bytes.max(1)).clamp(1, ROWS)
}

/// Brings the samples of every partition, some rows at a time, to `add`, which adds what they come to to the
/// partition's result, `new` to begin with.
fn over_batches<R: Record>(
    network: &NeuralNetwork,
    data: &Dataset<Samples>,
    parameters: &[f32],
    devices: &Devices,
    new: impl Fn() -> R + Send + Sync + 'static,
    add: impl Fn(&mut R, &mut Evaluator, &mut BlockRows<'_>) -> Result<()> + Send + Sync + 'static,
) -> Result<Vec<R>> {
    // Nobody else is there to compare it, and to hash all parameters takes time.
    let model = match data.context().is_in_cluster() {
        true => words(network, parameters),
        false => String::new(),
    };
    let failed = Failed::default();
    let (network, parameters, kept) = (network.clone(), Arc::new(parameters.to_vec()), failed.clone());
    let (devices, first) = (devices.lanes(), first_block(data));
    let results = data.run_partitions_with_parameters(model, move |partition, blocks| {
        let block = SampleBlock { partition, ..first };
        let mut rows = PartitionRows::new(&network, &parameters, block, devices.clone());
        let mut result = new();
        for samples in blocks {
            let added = rows.each(&samples, &mut |evaluator, rows| add(&mut result, evaluator, rows));
            added.map_err(|error| kept.keep(error))?;
        }
        Ok(result)
    });
    results.map_err(|error| failed.resolve(error))
}

/// The samples of a partition, some rows at a time, and what evaluates them.
struct PartitionRows {
    evaluator: Evaluator,
    batch: Option<Batch>,
    /// The block that comes next.
    block: SampleBlock,
}

impl PartitionRows {
    /// From this block of the partition on.
    fn new(
        network: &NeuralNetwork,
        parameters: &Arc<Vec<f32>>,
        block: SampleBlock,
        devices: Option<Arc<dyn LaneDevices>>,
    ) -> Self {
        Self {
            evaluator: Evaluator {
                network: network.clone(),
                rows_max: rows_of(network),
                parameters: Arc::clone(parameters),
                partition: block.partition,
                devices,
                shape: None,
                device: None,
                workspace: None,
                outputs: Vec::new(),
            },
            batch: None,
            block,
        }
    }

    /// Brings the rows of a block to `add`, in order.
    fn each(
        &mut self,
        samples: &Samples,
        add: &mut dyn FnMut(&mut Evaluator, &mut BlockRows<'_>) -> Result<()>,
    ) -> Result<()> {
        // An error does not make the next block this one.
        let block = self.block;
        self.block.index += 1;
        self.block.samples_before += samples.len();
        if samples.is_empty() {
            return Ok(());
        }
        let rows_max = self.evaluator.rows_max;
        let rows = samples.len().min(rows_max);
        let Evaluator { network, partition, .. } = &self.evaluator;
        check_features(network, *partition, samples.feature_length())?;
        self.evaluator.begin(samples.shape());
        // Many blocks of few rows share one, which grows as far as it must.
        let kept = self.batch.take().filter(|batch| batch.has_room(samples.shape(), rows));
        let batch = self.batch.insert(kept.unwrap_or_else(|| Batch::new(samples, rows)));
        for start in (0..samples.len()).step_by(rows_max) {
            let rows = start..samples.len().min(start + rows_max);
            add(&mut self.evaluator, &mut BlockRows::new(block, samples, rows, batch))?;
        }
        Ok(())
    }
}

/// What evaluates the batches of a partition.
struct Evaluator {
    network: NeuralNetwork,
    rows_max: usize,
    parameters: Arc<Vec<f32>>,
    partition: usize,
    /// Where devices come from; `None` once the CPU computes.
    devices: Option<Arc<dyn LaneDevices>>,
    /// That of the samples.
    shape: Option<SampleShape>,
    /// What computes instead of the CPU, for samples of that shape.
    device: Option<Box<dyn EvaluationDevice>>,
    /// The CPU's, once it is needed.
    workspace: Option<Workspace>,
    outputs: Vec<f32>,
}

impl Evaluator {
    /// Samples of this shape come next.
    fn begin(&mut self, shape: SampleShape) {
        let before = self.shape.replace(shape);
        if before.is_none_or(|before| before.target_length != shape.target_length) {
            self.device = None;
        }
    }

    /// Loss and hits.
    fn report(&mut self, rows: &mut BlockRows<'_>) -> Result<BatchReport> {
        if let Some(shape) = self.shape {
            check_targets(&self.network, self.partition, shape.target_length)?;
        }
        rows.check(&self.network, check_row_features)?;
        rows.check(&self.network, check_row_targets)?;
        while let Some(device) = self.device()? {
            if let Some(report) = device.report(rows)? {
                return Ok(report);
            }
            self.device = None;
        }
        let batch = rows.batch()?;
        let (network, rows, rows_max) = (&self.network, batch.rows(), self.rows_max);
        let workspace = self.workspace.get_or_insert_with(|| network.workspace(rows_max));
        network.error_batch(&self.parameters, batch.features(), batch.targets(), rows, workspace)
    }

    /// Outputs of the last layer, rows x output length.
    fn outputs(&mut self, rows: &mut BlockRows<'_>) -> Result<&mut [f32]> {
        rows.check(&self.network, check_row_features)?;
        let length = self.network.output_length();
        let mut outputs = std::mem::take(&mut self.outputs);
        while let Some(device) = self.device()? {
            outputs.resize(rows.rows.len() * length, 0.0);
            if device.outputs(rows, &mut outputs)? {
                self.outputs = outputs;
                return Ok(&mut self.outputs);
            }
            self.device = None;
        }
        self.outputs = outputs;
        let (batch, network, rows_max) = (rows.batch()?, &self.network, self.rows_max);
        let rows = batch.rows();
        let workspace = self.workspace.get_or_insert_with(|| network.workspace(rows_max));
        network.outputs(&self.parameters, batch.features(), rows, workspace)
    }

    /// Adds what a user wants to see of the outputs, row by row.
    fn predict(&mut self, rows: &mut BlockRows<'_>, predictions: &mut Vec<Vec<f32>>) -> Result<()> {
        let (loss, width) = (self.network.loss().clone(), self.network.output_length());
        let outputs = self.outputs(rows)?;
        loss.prediction(width, outputs)?;
        predictions.extend(outputs.chunks_exact(width).map(<[f32]>::to_vec));
        Ok(())
    }

    /// What computes instead of the CPU, if there is anything.
    fn device(&mut self) -> Result<Option<&mut Box<dyn EvaluationDevice>>> {
        if self.device.is_none()
            && let (Some(devices), Some(shape)) = (&self.devices, self.shape)
        {
            self.device = devices.evaluation(&self.network, &self.parameters, self.rows_max, shape, self.partition)?;
            if self.device.is_none() {
                self.devices = None;
            }
        }
        Ok(self.device.as_mut())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn wide_networks_are_evaluated_by_fewer_rows() {
        let rows = |width| rows_of(&NeuralNetwork::dense(10, &[width], 2).unwrap());
        assert_eq!([rows(100), rows(1 << 20), rows(1 << 27)], [500, 63, 1]);
        // Nothing is allocated for that.
        let error = NeuralNetwork::dense(1 << 20, &[1 << 36], 2).unwrap().initialize(0);
        assert!(error.is_err_and(|error| error.to_string().contains("no memory")));
    }
}
