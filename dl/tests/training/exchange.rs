//! Training with older parameters and with gradients in fewer bytes: with any number of threads, over processes that
//! die, from a checkpoint.

use std::sync::Arc;

use distdl_dl::{
    Adam, CheckpointOptions, Compression, Error, Features, NeuralNetwork, SampleTargets, Samples, Schedule, TopK,
    TrainingOptions,
};
use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_engine::{Config, Context, Placement, Staleness};

use crate::{bits, context, failed};

const STEPS: u64 = 18;

fn samples() -> Samples {
    let features = (0..41 * 6).map(|index| ((index / 6 * 7 + index % 6 * 3) % 11) as f32 / 11.0);
    let features: Vec<f32> = features.collect();
    // What a sample is follows from one of its features.
    let labels = features.chunks_exact(6).map(|sample| (sample[2] * 3.0) as u32);
    let labels = SampleTargets::Labels(labels.collect());
    Samples::new(6, Features::F32(features), labels).unwrap()
}

fn options(staleness: Staleness, compression: Compression) -> TrainingOptions {
    TrainingOptions {
        batch: 6,
        lanes: 4,
        schedule: Some(Schedule::Constant(0.02)),
        optimizer: Arc::new(Adam::default()),
        staleness,
        compression,
        ..TrainingOptions::default()
    }
}

/// Every way to read with every way to send, as far as results are the same whatever happens.
fn determinate() -> Vec<TrainingOptions> {
    let top_k = Compression::TopK(TopK {
        share: 0.2,
        flush_every: 7,
    });
    let kinds = [Staleness::Synchronous, Staleness::FixedLag(2)]
        .into_iter()
        .flat_map(|staleness| {
            [Compression::None, Compression::Bf16, top_k].map(|compression| (staleness, compression))
        });
    kinds
        .map(|(staleness, compression)| options(staleness, compression))
        .collect()
}

/// Bits of the parameters, and the loss of each step.
type Trained = (Vec<u32>, Vec<f64>);

/// Trains to the end.
fn train(context: &Context, options: TrainingOptions) -> distdl_dl::Result<Trained> {
    train_for(STEPS, context, options)
}

fn train_for(steps: u64, context: &Context, options: TrainingOptions) -> distdl_dl::Result<Trained> {
    let data = context.parallelize(samples().split(4)?, 4);
    let mut training = NeuralNetwork::dense(6, &[5], 3)?.train(&data, options)?;
    let mut losses = Vec::new();
    training.iterate(steps - training.step(), |step| losses.push(step.report.mean_loss()))?;
    let bits = bits(&training.parameters());
    Ok((bits, losses))
}

fn alone(threads: usize, options: TrainingOptions) -> Trained {
    let context = context(threads);
    train(&context, options).unwrap()
}

#[test]
fn parameters_that_are_set_are_read_as_late_as_those_that_a_training_began_with() {
    let (context, network) = (context(2), NeuralNetwork::dense(6, &[5], 3).unwrap());
    let data = context.parallelize(samples().split(4).unwrap(), 4);
    let given: Vec<f32> = network.initialize(99).unwrap();
    let lagging = options(Staleness::FixedLag(2), Compression::None);
    let begin = |initial_parameters| {
        let options = TrainingOptions {
            initial_parameters,
            ..lagging.clone()
        };
        network.train(&data, options).unwrap()
    };
    let (mut begun, mut set) = (begin(Some(given.as_slice().into())), begin(None));
    set.set_parameters(given).unwrap();
    for training in [&mut begun, &mut set] {
        training.iterate(9, |_| ()).unwrap();
    }
    assert_eq!(bits(&set.parameters()), bits(&begun.parameters()));
}

#[test]
fn threads_shards_and_deaths_do_not_show() {
    let mut seen = Vec::new();
    for (index, options) in determinate().into_iter().enumerate() {
        let expected = alone(1, options.clone());
        for threads in 2..=4 {
            let placement = Placement {
                lanes: (0..4).map(|lane| (lane + index) % threads).collect(),
                shards: (0..1 + (index + threads) % 5).map(|shard| shard % threads).collect(),
            };
            let placed = TrainingOptions {
                placement: Some(placement),
                ..options.clone()
            };
            assert_eq!(alone(threads, placed), expected, "{options:?}");
        }
        for shared_memory in [false, true] {
            for (kill, at) in [(index % 3, 3 + index as u64), ((index + 1) % 3, 12)] {
                let chaos = Chaos::parse(&format!("kill=worker:{kill}@step:{at}")).unwrap();
                let cluster = TestCluster {
                    shared_memory,
                    ..TestCluster::new(3).with_chaos(chaos)
                };
                let own = options.clone();
                let run = cluster
                    .run(move |context| train(context, own.clone()).map_err(failed))
                    .unwrap();
                assert!(!run.results.is_empty());
                run.results
                    .iter()
                    .for_each(|got| assert_eq!(*got, expected, "{options:?}"));
            }
        }
        assert!(!seen.contains(&expected), "{options:?} does what another one did");
        seen.push(expected);
    }
}

/// What two processes without shared memory train, and how many bytes one of them has sent while it computed.
fn trained_by_two(options: TrainingOptions) -> (Trained, u64) {
    let cluster = TestCluster {
        shared_memory: false,
        ..TestCluster::new(2)
    };
    let run = cluster.run(move |context| {
        let trained = train_layers(context, options.clone()).map_err(failed)?;
        Ok((trained, context.metrics().exchanged_early_bytes()))
    });
    let mut results = run.unwrap().results.into_iter();
    let ((trained, first), (other, second)) = (results.next().unwrap(), results.next().unwrap());
    assert_eq!(trained, other);
    (trained, first + second)
}

/// Three steps of layers that are large enough to be sent by themselves.
fn train_layers(context: &Context, options: TrainingOptions) -> distdl_dl::Result<Trained> {
    let data = context.parallelize(samples().split(4)?, 4);
    let mut training = NeuralNetwork::dense(6, &[200, 200, 100], 3)?.train(&data, options)?;
    let mut losses = Vec::new();
    training.iterate(3, |step| losses.push(step.report.mean_loss()))?;
    let bits = bits(&training.parameters());
    Ok((bits, losses))
}

#[test]
fn gradients_of_later_layers_leave_before_the_others_are_computed() {
    let early = |options: TrainingOptions| {
        let context = Context::new(Config::default()).unwrap();
        let (trained, early) = trained_by_two(options.clone());
        assert_eq!(trained, train_layers(&context, options).unwrap());
        early
    };
    let all = |compression| TrainingOptions {
        batch: 8,
        ..options(Staleness::Synchronous, compression)
    };
    let (whole, half) = (early(all(Compression::None)), early(all(Compression::Bf16)));
    // The two layers of 200 and 100 outputs, half of them to the other process, by each of the two.
    assert!(whole >= 3 * 4 * (200 * 100 + 200 * 200), "{whole}");
    assert_eq!(half * 2, whole);
    // What is changed once the whole gradient is there cannot leave before.
    assert_eq!(
        early(TrainingOptions {
            lane_gradient_norm_max: Some(0.1),
            ..all(Compression::None)
        }),
        0
    );
    assert_eq!(
        early(TrainingOptions {
            micro_batch: Some(1),
            ..all(Compression::None)
        }),
        0
    );
}

#[test]
fn training_goes_on_from_a_checkpoint_as_if_nothing_had_happened() {
    for own in determinate() {
        let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let with = |folder: &tempfile::TempDir| TrainingOptions {
            checkpoint: Some(CheckpointOptions {
                every_steps: 5,
                at_end: false,
                ..CheckpointOptions::new(folder.path().to_str().unwrap())
            }),
            ..own.clone()
        };
        let (expected, _) = alone(2, with(&whole));
        let context = Context::new(Config::default()).unwrap();
        let data = context.parallelize(samples().split(4).unwrap(), 4);
        let network = NeuralNetwork::dense(6, &[5], 3).unwrap();
        network.train(&data, with(&cut)).unwrap().iterate(11, |_| ()).unwrap();
        let (bits, losses) = alone(1, with(&cut));
        assert_eq!((bits, losses.len()), (expected, 8), "{own:?} from step 10");
    }
}

/// What lanes keep back is lost with them, so steps that it was kept back from are taken again.
#[test]
fn what_top_k_keeps_back_is_not_lost_by_an_error() {
    let is_top_k = |own: &TrainingOptions| matches!(own.compression, Compression::TopK(_));
    for own in determinate().into_iter().filter(is_top_k) {
        let context = context(2);
        let data = context.parallelize(samples().split(4).unwrap(), 4);
        let network = NeuralNetwork::dense(6, &[5], 3).unwrap();
        let mut training = network.train(&data, own.clone()).unwrap();
        // All is sent at step 7.
        let failed = training.iterate(STEPS, |step| assert_ne!(step.step, 11, "the program's own"));
        assert!(failed.unwrap_err().to_string().contains("the program's own"));
        assert_eq!(training.step(), 7, "{own:?}");
        training.iterate(STEPS - 7, |_| ()).unwrap();
        let bits = bits(&training.parameters());
        assert_eq!(bits, alone(2, own.clone()).0, "{own:?}");
    }
}

#[test]
fn a_checkpoint_of_another_exchange_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let with = |own: TrainingOptions| TrainingOptions {
        checkpoint: Some(CheckpointOptions::new(folder.path().to_str().unwrap())),
        ..own
    };
    alone(1, with(options(Staleness::FixedLag(2), Compression::Bf16)));
    let context = Context::new(Config::default()).unwrap();
    let refusal = train(&context, with(options(Staleness::Synchronous, Compression::None))).unwrap_err();
    let words = [
        "staleness: FixedLag(2), anew every 500 steps there, Synchronous here",
        "compression: Bf16 there, None here",
    ];
    words
        .iter()
        .for_each(|words| assert!(refusal.to_string().contains(words), "{refusal}"));
}

#[test]
fn top_k_of_all_is_no_compression() {
    // Where all is sent in every step, nothing is kept back.
    let all = |compression| alone(2, options(Staleness::Synchronous, compression)).0;
    let whole = Compression::TopK(TopK {
        share: 1.0,
        ..TopK::default()
    });
    assert_eq!(all(whole), all(Compression::None));
    let each = Compression::TopK(TopK {
        share: 0.01,
        flush_every: 1,
    });
    assert_eq!(all(each), all(Compression::None));
}

#[test]
fn whatever_is_read_and_sent_the_loss_falls() {
    let mut all = determinate();
    all.push(options(Staleness::Bounded(3), Compression::None));
    all.push(options(Staleness::Asynchronous, Compression::Bf16));
    for own in all {
        let context = context(2);
        let (_, losses) = train_for(600, &context, own.clone()).unwrap();
        // Updates that come in any order may make a step that has no samples.
        let mean = |losses: &[f64]| {
            let losses: Vec<f64> = losses.iter().copied().filter(|loss| !loss.is_nan()).collect();
            losses.iter().sum::<f64>() / losses.len() as f64
        };
        let (first, last) = (mean(&losses[..100]), mean(&losses[500..]));
        assert!(last < 0.8 * first, "{own:?}: from {first} to {last}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let context = Context::new(Config::default()).unwrap();
    let top_k = |share, flush_every| Compression::TopK(TopK { share, flush_every });
    for (staleness, compression, words) in [
        (Staleness::Synchronous, top_k(0.0, 1), "above 0 and at most 1"),
        (Staleness::Synchronous, top_k(f32::NAN, 1), "above 0 and at most 1"),
        (Staleness::Synchronous, top_k(0.1, 0), "give 1 or more"),
        (Staleness::Asynchronous, top_k(0.1, 9), "depend on time"),
        (Staleness::Bounded(1), top_k(0.1, 9), "depend on time"),
        (Staleness::Bounded(65), Compression::None, "at most 64"),
    ] {
        let error = train(&context, options(staleness, compression))
            .unwrap_err()
            .to_string();
        assert!(error.contains(words), "{error}");
    }
    // What was kept back would be cut off when it is sent.
    let limited = TrainingOptions {
        gradient_norm_max: Some(1.0),
        ..options(Staleness::Synchronous, top_k(0.1, 9))
    };
    let error = train(&context, limited).unwrap_err().to_string();
    assert!(error.contains("lane_gradient_norm_max"), "{error}");
}

/// Lanes that wait for nobody fill the places of steps as fast as they compute: with nothing, where they have nothing.
#[test]
fn a_lane_that_would_fill_asynchronous_steps_with_nothing_is_refused() {
    let context = context(2);
    let dealt = |lengths: &[usize]| {
        let mut first = 0;
        let blocks = lengths.iter().map(|length| {
            first += length;
            samples().slice(first - length..first).unwrap()
        });
        context.parallelize(blocks.collect::<Vec<_>>(), lengths.len())
    };
    let begin = |staleness, lengths: &[usize]| {
        let network = NeuralNetwork::dense(6, &[5], 3).unwrap();
        network.train(&dealt(lengths), options(staleness, Compression::None))
    };
    // Of 41 samples 6 whole steps are made.
    for (lane, lengths) in [(3, [21, 10, 10, 0]), (1, [24, 5, 6, 6])] {
        let error = begin(Staleness::Asynchronous, &lengths).unwrap_err();
        let says = format!("lane {lane} has {} of the 41 samples", lengths[lane]);
        assert!(
            matches!(error, Error::Data(_)) && error.to_string().contains(&says),
            "{error:?}"
        );
        begin(Staleness::Bounded(2), &lengths).unwrap();
    }
    let mut training = begin(Staleness::Asynchronous, &[23, 6, 6, 6]).unwrap();
    let error = training.change_data(&dealt(&[21, 10, 10, 0])).unwrap_err();
    assert!(error.to_string().contains("lane 3 has 0"), "{error:?}");
    training.iterate(3, |_| ()).unwrap();
}

/// A program that looks at what kind of error it was must go on alike in all processes.
#[test]
fn all_processes_get_the_same_error_whoever_came_to_it() {
    let run = TestCluster::new(3).run(|context| {
        let options = TrainingOptions {
            schedule: Some(Schedule::Constant(1e20)),
            ..options(Staleness::Synchronous, Compression::None)
        };
        let data = context.parallelize(samples().split(4).map_err(failed)?, 4);
        let network = NeuralNetwork::dense(6, &[5], 3).map_err(failed)?;
        let mut training = network.train(&data, options).map_err(failed)?;
        let error = training.iterate(30, |_| ()).err();
        // Processes may differ in what they have come to, so nothing goes on with it.
        for over in [training.error(&data).err(), training.iterate(1, |_| ()).err()] {
            let text = over.map(|error| error.to_string()).unwrap_or_default();
            assert!(text.contains("make the training anew"), "{text}");
        }
        Ok(error.map(|error| (matches!(error, Error::NotFinite { .. }), error.to_string())))
    });
    let results = run.unwrap().results;
    assert_eq!(results.len(), 3);
    let (is_typed, text) = results[0].clone().expect("such a learning rate is too large");
    assert!(is_typed, "{text}");
    assert!(results.iter().all(|result| *result == results[0]), "{results:?}");
}

/// Or they would come to a model that is nobody's.
#[test]
fn processes_that_train_otherwise_find_each_other_out() {
    type Change = fn(&mut TrainingOptions);
    let plain = || options(Staleness::Synchronous, Compression::None);
    let changes: [(&str, Change); 5] = [
        ("nothing", |_| ()),
        ("schedule", |options| options.schedule = Some(Schedule::Constant(0.3))),
        ("optimizer", |options| {
            options.optimizer = Arc::new(Adam {
                betas: (0.5, 0.999),
                ..Adam::default()
            });
        }),
        ("limit", |options| options.lane_gradient_norm_max = Some(0.1)),
        ("batch", |options| options.micro_batch = Some(1)),
    ];
    for (what, change) in changes {
        let run = TestCluster::new(2).run_lives(move |context, life| {
            let mut options = plain();
            if life.slot == 1 {
                change(&mut options);
            }
            train_for(2, context, options).map_err(failed)
        });
        let error = run.err().map(|error| error.to_string());
        let is_found_out = error.as_ref().is_some_and(|error| error.contains("diverged"));
        assert_eq!(is_found_out, what != "nothing", "{what}: {error:?}");
    }
}

#[test]
fn processes_that_lower_the_rate_otherwise_find_each_other_out() {
    let run = TestCluster::new(2).run_lives(|context, life| {
        let data = context.parallelize(samples().split(4).map_err(failed)?, 4);
        let network = NeuralNetwork::dense(6, &[5], 3).map_err(failed)?;
        let mut training = network.train(&data, options(Staleness::Synchronous, Compression::None));
        let training = training.as_mut().unwrap();
        training.set_rate_factor(1.0 / (1 + life.slot) as f32).map_err(failed)?;
        training.iterate(2, |_| ()).map(drop).map_err(failed)
    });
    let error = run.err().unwrap().to_string();
    assert!(error.contains("diverged"), "{error}");
}
