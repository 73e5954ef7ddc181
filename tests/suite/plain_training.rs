//! Training as one plain loop over drawn networks, data and options.

use distdl::dl::{Features, SampleTargets, Targets, shuffle};
use distdl::engine::{Placement, tree};
use distdl::{BatchReport, Context, Dataset, Dense, Input, Loss, NeuralNetwork, Samples, Schedule, TrainingOptions};
use proptest::prelude::*;

/// Everything that may show in trained parameters.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) inputs: usize,
    pub(crate) hidden: Vec<(usize, bool)>,
    pub(crate) classes: usize,
    pub(crate) squared: bool,
    pub(crate) bytes: bool,
    /// Samples of each partition.
    pub(crate) partitions: Vec<usize>,
    pub(crate) lanes: usize,
    pub(crate) batch: usize,
    pub(crate) schedule: Schedule,
    pub(crate) seed: u64,
    pub(crate) epochs: u64,
}

impl Case {
    pub(crate) fn network(&self) -> NeuralNetwork {
        let mut builder = NeuralNetwork::new(Input(self.inputs));
        for (width, relu) in &self.hidden {
            builder = builder.hidden(if *relu {
                Dense::relu(*width)
            } else {
                Dense::tanh(*width)
            });
        }
        let loss = if self.squared {
            Loss::MeanSquaredError
        } else {
            Loss::SoftmaxCrossEntropy
        };
        builder.output(Dense::linear(self.classes), loss).unwrap()
    }

    /// The features of a sample as the network sees them.
    pub(crate) fn features(&self, sample: usize) -> Vec<f32> {
        let byte = |index: usize| self.byte(sample, index);
        (0..self.inputs)
            .map(|index| {
                if self.bytes {
                    f32::from(byte(index)) * SCALE
                } else {
                    value(byte(index))
                }
            })
            .collect()
    }

    pub(crate) fn byte(&self, sample: usize, index: usize) -> u8 {
        (((sample * 31 + index * 17 + self.seed as usize % 1000) * 2654435761) >> 7) as u8
    }

    pub(crate) fn target(&self, sample: usize) -> Vec<f32> {
        (0..self.classes)
            .map(|class| value(self.byte(sample, 100 + class)))
            .collect()
    }

    pub(crate) fn label(&self, sample: usize) -> u32 {
        (sample * 7 % 11 % self.classes) as u32
    }

    pub(crate) fn samples(&self, range: std::ops::Range<usize>) -> Samples {
        let features = match self.bytes {
            true => Features::U8 {
                bytes: range
                    .clone()
                    .flat_map(|sample| (0..self.inputs).map(move |index| self.byte(sample, index)))
                    .collect(),
                scale: SCALE,
            },
            false => Features::F32(range.clone().flat_map(|sample| self.features(sample)).collect()),
        };
        let targets = match self.squared {
            true => SampleTargets::Values {
                length: self.classes,
                values: range.flat_map(|sample| self.target(sample)).collect(),
            },
            false => SampleTargets::Labels(range.map(|sample| self.label(sample)).collect()),
        };
        Samples::new(self.inputs, features, targets).unwrap()
    }

    /// One block a partition, some of them empty.
    pub(crate) fn data(&self, context: &Context) -> Dataset<Samples> {
        let mut start = 0;
        let blocks = self.partitions.iter().map(|length| {
            start += length;
            self.samples(start - length..start)
        });
        context.parallelize(blocks.collect::<Vec<_>>(), self.partitions.len())
    }

    pub(crate) fn options(&self, placement: Option<Placement>) -> TrainingOptions {
        TrainingOptions {
            batch: self.batch,
            lanes: self.lanes,
            schedule: Some(self.schedule.clone()),
            seed: Some(self.seed),
            placement,
            ..TrainingOptions::default()
        }
    }

    /// The samples of each lane, in the order of its partitions.
    pub(crate) fn lane_samples(&self) -> Vec<Vec<usize>> {
        let mut lanes = vec![Vec::new(); self.lanes];
        let mut start = 0;
        for (partition, length) in self.partitions.iter().enumerate() {
            lanes[partition % self.lanes].extend(start..start + length);
            start += length;
        }
        lanes
    }
}

pub(crate) const SCALE: f32 = 1.0 / 255.0;

pub(crate) fn value(byte: u8) -> f32 {
    f32::from(byte) / 100.0 - 1.2
}

/// Whose turn it is, from the beginning of an epoch on: sample `i` of a lane of `n` has its turn at `(i + 1/2) / n`.
fn turns(lanes: &[Vec<usize>]) -> Vec<usize> {
    let place = |index: usize, length: usize| (index as f64 + 0.5) / length as f64;
    let of_lane = |(lane, samples): (usize, &Vec<usize>)| {
        let length = samples.len();
        (0..length).map(move |index| (place(index, length), lane))
    };
    let mut turns: Vec<(f64, usize)> = lanes.iter().enumerate().flat_map(of_lane).collect();
    turns.sort_by(|left, right| left.0.total_cmp(&right.0).then(left.1.cmp(&right.1)));
    turns.into_iter().map(|(_, lane)| lane).collect()
}

pub(crate) struct Plain {
    pub(crate) parameters: Vec<f32>,
    pub(crate) reports: Vec<BatchReport>,
    /// The step whose loss was not finite.
    pub(crate) stopped: Option<u64>,
}

/// Training in one plain loop: deal the samples, sum the lanes' gradients along the tree, take a step.
pub(crate) fn plain(case: &Case) -> Plain {
    let network = case.network();
    let mut parameters = network.initialize(case.seed).unwrap();
    let lanes = case.lane_samples();
    let turns = turns(&lanes);
    let steps = turns.len().div_ceil(case.batch);
    let mut reports = Vec::new();
    for epoch in 0..case.epochs {
        let orders: Vec<Vec<usize>> = (0..case.lanes)
            .map(|lane| {
                let order = shuffle(case.seed, epoch, lane as u64, lanes[lane].len() as u32);
                order.into_iter().map(|place| lanes[lane][place as usize]).collect()
            })
            .collect();
        let mut orders: Vec<_> = orders.into_iter().map(Vec::into_iter).collect();
        for (step_of_epoch, turns) in turns.chunks(case.batch).enumerate() {
            let step = epoch * steps as u64 + step_of_epoch as u64;
            let parts: Vec<(Vec<f32>, BatchReport)> = (0..case.lanes)
                .map(|lane| {
                    let count = turns.iter().filter(|turn| **turn == lane).count();
                    let taken: Vec<usize> = orders[lane].by_ref().take(count).collect();
                    gradient(case, &network, &parameters, &taken)
                })
                .collect();
            let report = tree::fold(0..case.lanes, &mut |lane| parts[lane].1, &mut |mut left, right| {
                left.merge(&right);
                left
            });
            let report = report.unwrap();
            if !report.is_finite() {
                return Plain {
                    parameters,
                    reports,
                    stopped: Some(step),
                };
            }
            let rate = case.schedule.learning_rate(step) * (1.0 / report.samples.max(1) as f32);
            for (index, parameter) in parameters.iter_mut().enumerate() {
                let sum = tree::fold(0..case.lanes, &mut |lane| parts[lane].0[index], &mut |left, right| {
                    left + right
                });
                *parameter -= rate * sum.unwrap();
            }
            reports.push(report);
        }
    }
    Plain {
        parameters,
        reports,
        stopped: None,
    }
}

pub(crate) fn gradient(
    case: &Case,
    network: &NeuralNetwork,
    parameters: &[f32],
    samples: &[usize],
) -> (Vec<f32>, BatchReport) {
    let mut gradient = vec![0.0; parameters.len()];
    if samples.is_empty() {
        return (gradient, BatchReport::default());
    }
    let features: Vec<f32> = samples.iter().flat_map(|sample| case.features(*sample)).collect();
    let labels: Vec<u32> = samples.iter().map(|sample| case.label(*sample)).collect();
    let values: Vec<f32> = samples.iter().flat_map(|sample| case.target(*sample)).collect();
    let targets = if case.squared {
        Targets::Values(&values)
    } else {
        Targets::Labels(&labels)
    };
    let mut workspace = network.workspace(samples.len());
    let rows = samples.len();
    let report = network.gradient(parameters, &features, targets, rows, &mut workspace, &mut gradient);
    (gradient, report.unwrap())
}

pub(crate) fn case() -> impl Strategy<Value = Case> {
    let network = (
        1..6usize,
        prop::collection::vec((1..6usize, any::<bool>()), 0..3),
        2..5usize,
        any::<bool>(),
        any::<bool>(),
    );
    let schedule = prop_oneof![
        Just(Schedule::Constant(0.2)),
        Just(Schedule::StepDecay {
            initial: 0.4,
            factor: 0.5,
            steps: 3
        }),
    ];
    let data = (1..=5usize).prop_flat_map(|lanes| (Just(lanes), prop::collection::vec(0..9usize, lanes..lanes + 4)));
    (network, data, 0..64usize, schedule, any::<u64>(), 1..=2u64).prop_map(
        |((inputs, hidden, classes, squared, bytes), (lanes, mut partitions), batch, schedule, seed, epochs)| {
            // At least as many samples as lanes, so that there is a batch that can be dealt.
            partitions[0] += lanes;
            let samples: usize = partitions.iter().sum();
            let batch = lanes + batch % (samples - lanes + 1);
            Case {
                inputs,
                hidden,
                classes,
                squared,
                bytes,
                partitions,
                lanes,
                batch,
                schedule,
                seed,
                epochs,
            }
        },
    )
}

/// A case to vary.
pub(crate) fn plain_case() -> Case {
    Case {
        inputs: 3,
        hidden: vec![(4, true)],
        classes: 3,
        squared: false,
        bytes: false,
        partitions: vec![8, 7, 9],
        lanes: 2,
        batch: 6,
        schedule: Schedule::Constant(0.1),
        seed: 7,
        epochs: 2,
    }
}
