//! Predictions that stay a dataset.

use distdl_dl::{Dense, Embedding, Features, Input, Loss, NeuralNetwork, SampleTargets, Samples, TrainingOptions};
use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::config::GpuUse;
use distdl_engine::testing::TestCluster;
use distdl_engine::{Config, Context, Dataset};

use crate::{context, failed};

const FEATURES: usize = 3;

fn network() -> NeuralNetwork {
    NeuralNetwork::dense(FEATURES, &[5], 4).unwrap()
}

fn samples(count: usize) -> Samples {
    let features = (0..count * FEATURES).map(|index| (index * 7 % 23) as f32 / 11.0 - 1.0);
    let targets = SampleTargets::Labels(vec![0; count]);
    Samples::new(FEATURES, Features::F32(features.collect()), targets).unwrap()
}

/// Blocks of more rows than are computed at a time, of fewer, and of none.
fn data(context: &Context) -> Dataset<Samples> {
    let blocks = [1300, 7, 0, 501, 500, 3].map(samples);
    context.parallelize(blocks.to_vec(), 3)
}

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter()
        .map(|row| row.iter().map(|value| value.to_bits()).collect())
        .collect()
}

/// What a plain pass over all rows of the data gives, one by one within rounding.
#[test]
fn they_are_what_the_network_gives_for_each_sample_in_order() {
    let (network, context) = (network(), context(2));
    let (data, parameters) = (data(&context), network.initialize(3).unwrap());
    let predictions = network.predict(&data, &parameters).unwrap();
    assert_eq!(predictions.partitions(), 3);
    let rows = predictions.collect().unwrap();
    let of_block = |count: usize| {
        let Features::F32(features) = samples(count).features().clone() else {
            panic!("other features were made");
        };
        let mut workspace = network.workspace(count);
        network
            .predict_batch(&parameters, &features, count, &mut workspace)
            .unwrap()
            .to_vec()
    };
    let expected: Vec<f32> = [1300, 7, 501, 500, 3].into_iter().flat_map(of_block).collect();
    let got: Vec<f32> = rows.concat();
    assert_eq!(got.len(), expected.len());
    assert!(
        got.iter()
            .zip(&expected)
            .all(|(left, right)| (left - right).abs() < 1e-6)
    );
    // As any dataset: what follows is computed where the rows are.
    let of_first = predictions
        .filter(|row| row.iter().all(|value| *value <= row[0]))
        .count()
        .unwrap();
    assert_eq!(
        of_first,
        rows.iter()
            .filter(|row| row.iter().all(|value| *value <= row[0]))
            .count() as u64
    );
}

#[test]
fn threads_and_deaths_do_not_show() {
    let parameters = network().initialize(3).unwrap();
    let of = |context: &Context| network().predict(&data(context), &parameters).unwrap().collect();
    let expected = bits(&of(&context(1)).unwrap());
    assert_eq!(bits(&of(&context(3)).unwrap()), expected);
    let chaos = Chaos::parse("kill=worker:1@report:1").unwrap();
    let cluster = TestCluster::new(2).with_chaos(chaos);
    let run = cluster.run(move |context| {
        network()
            .predict(&data(context), &parameters)
            .map_err(failed)?
            .collect()
    });
    let results = run.unwrap().results;
    assert!(!results.is_empty());
    results.iter().for_each(|rows| assert_eq!(bits(rows), expected));
}

#[test]
fn what_does_not_suit_is_said_when_it_is_met() {
    let context = Context::new(Config::default()).unwrap();
    let (data, builder) = (
        data(&context),
        NeuralNetwork::new(Input(FEATURES)).hidden(Embedding::new(2, 2)),
    );
    let network = builder.output(Dense::linear(2), Loss::SoftmaxCrossEntropy).unwrap();
    let parameters = network.initialize(0).unwrap();
    let message = network.predict(&data, &parameters[1..]).unwrap_err().to_string();
    assert!(message.contains("the parameters: got"), "{message}");
    let predictions = network.predict(&data, &parameters).unwrap();
    let message = predictions.collect().unwrap_err().to_string();
    assert!(
        message.contains("is no index of an embedding") && message.contains("predictions.rs"),
        "{message}"
    );
}

/// Whatever is asked over it.
#[test]
fn samples_of_other_widths_are_refused_with_both() {
    let (network, context) = (network(), Context::new(Config::default()).unwrap());
    let parameters = network.initialize(0).unwrap();
    let targets = SampleTargets::Labels(vec![0; 3]);
    let wide = Samples::new(5, Features::F32(vec![0.5; 15]), targets).unwrap();
    let wide = context.parallelize(vec![samples(2), wide], 2);
    let errors = [
        network.error(&wide, &parameters).unwrap_err().to_string(),
        network.confusion(&wide, &parameters).unwrap_err().to_string(),
        network
            .predict(&wide, &parameters)
            .unwrap()
            .collect()
            .unwrap_err()
            .to_string(),
    ];
    for message in errors {
        assert!(
            message.contains("partition 1 has samples of 5 features, the network takes 3"),
            "{message}"
        );
    }
    let regression = NeuralNetwork::new(Input(FEATURES))
        .output(Dense::linear(4), Loss::L1)
        .unwrap();
    let targets = SampleTargets::Values {
        length: 2,
        values: vec![0.5; 4],
    };
    let narrow = Samples::new(FEATURES, samples(2).features().clone(), targets).unwrap();
    let narrow = context.parallelize(vec![narrow], 1);
    let parameters = regression.initialize(0).unwrap();
    let message = regression.error(&narrow, &parameters).unwrap_err().to_string();
    assert!(
        message.contains("partition 0: 2 target values a sample for 4 outputs"),
        "{message}"
    );
}

/// In four partitions of two blocks, of more rows than are computed at a time: sample 777 of partition 3 is another
/// one, whose feature 1 and label these are.
fn with_one_other(context: &Context, feature: f32, label: u32) -> Dataset<Samples> {
    let blocks = (0..4).flat_map(|partition| {
        [300, 700].map(|count| {
            let is_it = partition == 3 && count == 700;
            let mut features: Vec<f32> = (0..count * FEATURES).map(|place| (place % 9) as f32).collect();
            let mut labels = vec![0; count];
            if is_it {
                (features[477 * FEATURES + 1], labels[477]) = (feature, label);
            }
            Samples::new(FEATURES, Features::F32(features), SampleTargets::Labels(labels)).unwrap()
        })
    });
    context.parallelize(blocks.collect::<Vec<_>>(), 4)
}

/// What training, evaluation, a confusion matrix and predictions say of samples; nothing where there is no error.
fn refusals(network: &NeuralNetwork, data: &Dataset<Samples>) -> [String; 4] {
    let parameters = network.initialize(0).unwrap();
    let says = |error: Option<String>| error.unwrap_or_default();
    let predictions = network.predict(data, &parameters).unwrap();
    [
        says(
            network
                .train(data, TrainingOptions::default())
                .err()
                .map(|error| error.to_string()),
        ),
        says(network.error(data, &parameters).err().map(|error| error.to_string())),
        says(
            network
                .confusion(data, &parameters)
                .err()
                .map(|error| error.to_string()),
        ),
        says(predictions.collect().err().map(|error| error.to_string())),
    ]
}

#[test]
fn samples_without_targets_are_predicted_and_refused_where_a_loss_needs_them() {
    let (network, context) = (network(), context(2));
    let parameters = network.initialize(3).unwrap();
    let labelled = data(&context);
    let bare = labelled.map(|samples| {
        let features = samples.features().clone();
        Samples::new(FEATURES, features, SampleTargets::None).unwrap()
    });
    let predicted = |data: &Dataset<Samples>| network.predict(data, &parameters).unwrap().collect().unwrap();
    assert_eq!(bits(&predicted(&bare)), bits(&predicted(&labelled)));
    let regression = NeuralNetwork::new(Input(FEATURES))
        .output(Dense::linear(4), Loss::L1)
        .unwrap();
    for network in [&network, &regression] {
        let [trained, evaluated, counted, predicted] = refusals(network, &bare);
        for message in [trained, evaluated] {
            let says = "partition 0: samples without targets, which `predict` takes and a loss does not";
            assert!(message.contains(says), "{message}");
        }
        let says = "a confusion matrix takes samples with labels; these have no targets";
        assert!(counted.contains(says), "{counted}");
        assert_eq!(predicted, "");
    }
}

/// As it stands in the documentation of `predict`, with partitions of as many rows as come, also of none.
#[test]
fn predictions_lie_beside_the_rows_that_they_are_of() {
    let (network, context) = (network(), context(2));
    let parameters = network.initialize(3).unwrap();
    let rows = context.range(0..100, 7).map(|id| (id, [id as f32, 1.0, -1.0]));
    let rows = rows.filter(|(id, _)| *id < 30 || *id > 70);
    let samples = rows.values().batch(4).unwrap().try_map(Samples::from_rows);
    let predictions = network.predict(&samples, &parameters).unwrap();
    let of_ids = rows.keys().zip(&predictions).unwrap().collect().unwrap();
    assert_eq!(of_ids.len(), 59);
    for (id, prediction) in of_ids {
        let mut workspace = network.workspace(1);
        let alone = network
            .predict_batch(&parameters, &[id as f32, 1.0, -1.0], 1, &mut workspace)
            .unwrap();
        assert!(
            alone
                .iter()
                .zip(&prediction)
                .all(|(one, other)| (one - other).abs() < 1e-6),
            "{id}"
        );
    }
}

#[test]
fn samples_that_do_not_suit_are_named_by_their_place_in_the_partition() {
    let context = context(2);
    let [trained, evaluated, counted, predicted] = refusals(&network(), &with_one_other(&context, 1.0, 7));
    for message in [trained, evaluated, counted] {
        let says = "sample 777 of partition 3 has the label 7, and the network has 4 outputs";
        assert!(message.contains(says), "{message}");
    }
    assert_eq!(predicted, "", "labels do not matter there");
    let builder = NeuralNetwork::new(Input(FEATURES)).hidden(Embedding::new(9, 2));
    let looking_up = builder.output(Dense::linear(4), Loss::SoftmaxCrossEntropy).unwrap();
    assert_eq!(refusals(&looking_up, &with_one_other(&context, 8.0, 0)), [""; 4]);
    for wrong in [9.0, 2.5, -1.0, f32::NAN] {
        for message in refusals(&looking_up, &with_one_other(&context, wrong, 0)) {
            let says = format!(
                "sample 777 of partition 3 has {wrong} as feature 1, which is no index of an embedding of 9 vectors"
            );
            assert!(message.contains(&says), "{message}");
        }
    }
    let [_, _, counted, _] = refusals(&network(), &with_one_other(&context, f32::NAN, 0));
    let says = "sample 777 of partition 3 has NaN as an output of the network, so it is of no class";
    assert!(counted.contains(says), "{counted}");
}

#[test]
fn blocks_without_samples_are_of_any_kind() {
    let targets = SampleTargets::Values {
        length: 7,
        values: Vec::new(),
    };
    let none = Samples::new(FEATURES + 2, Features::F32(Vec::new()), targets).unwrap();
    let context = context(2);
    let data = context.parallelize(vec![none.clone(), samples(300), samples(200), none.clone(), none], 5);
    assert_eq!(refusals(&network(), &data), [""; 4]);
    let options = TrainingOptions {
        batch: 50,
        ..TrainingOptions::default()
    };
    let mut training = network().train(&data, options).unwrap();
    assert_eq!(training.run_epoch(|_| ()).unwrap().samples, 500);
}

/// They are another computation where the model is another one.
#[test]
fn a_checkpoint_of_one_model_is_none_of_another() {
    let (network, folder) = (network(), tempfile::tempdir().unwrap());
    let found = |seed: u64| {
        let context = Context::new(Config::default()).unwrap();
        let parameters = network.initialize(seed).unwrap();
        let predictions = network.predict(&data(&context), &parameters).unwrap();
        let kept = predictions.checkpoint(folder.path().to_str().unwrap()).unwrap();
        assert_eq!(bits(&kept.collect().unwrap()), bits(&predictions.collect().unwrap()));
        bits(&kept.collect().unwrap())
    };
    let first = found(3);
    assert!(found(4) != first);
    assert_eq!(found(3), first);
}

/// Nor does it show how many threads have computed them.
#[test]
fn what_is_remembered_of_one_model_is_not_taken_for_that_of_another() {
    let (network, folder) = (network(), tempfile::tempdir().unwrap());
    let computed = |seed: u64, threads: usize| {
        let config = Config::default().with_threads(threads).with_gpu(GpuUse::Off);
        let context = Context::new(config.with_cache_folder(folder.path())).unwrap();
        let parameters = network.initialize(seed).unwrap();
        let predictions = network.predict(&data(&context), &parameters).unwrap();
        let remembered = predictions.memoize("predictions", 1).unwrap();
        assert_eq!(
            bits(&remembered.collect().unwrap()),
            bits(&predictions.collect().unwrap())
        );
        remembered.partitions_computed()
    };
    assert_eq!(
        [computed(3, 1), computed(3, 3), computed(4, 1), computed(3, 2)],
        [3, 0, 3, 0]
    );
}

#[test]
fn processes_with_different_models_find_each_other_out() {
    type Evaluate = fn(&NeuralNetwork, &Dataset<Samples>, &[f32]) -> distdl_dl::Result<()>;
    let ways: [(&str, Evaluate); 3] = [
        ("predict", |network, data, parameters| {
            Ok(network.predict(data, parameters)?.count().map(drop)?)
        }),
        ("error", |network, data, parameters| {
            network.error(data, parameters).map(drop)
        }),
        ("confusion", |network, data, parameters| {
            network.confusion(data, parameters).map(drop)
        }),
    ];
    let smoothed = || {
        let network = NeuralNetwork::new(Input(FEATURES)).hidden(Dense::tanh(5));
        network.output(Dense::linear(4), Loss::SoftmaxCrossEntropy).unwrap()
    };
    for (what, evaluate) in ways {
        for [seed, activation] in [[1, 0], [0, 1]] {
            let run = TestCluster::new(2).run_lives(move |context, life| {
                let parameters = network().initialize(u64::from(life.slot) * seed).unwrap();
                let network = match u64::from(life.slot) * activation {
                    0 => network(),
                    _ => smoothed(),
                };
                evaluate(&network, &data(context), &parameters).map_err(failed)
            });
            let found_out = run.err().map(|error| error.to_string());
            let error = found_out.unwrap_or_else(|| panic!("{what}: not found out"));
            assert!(error.contains("diverged"), "{what}: {error}");
        }
    }
}

#[test]
fn of_classes_of_equal_outputs_the_first_is_what_a_sample_is_taken_for() {
    let (network, context) = (network(), context(1));
    let zeros = vec![0.0; network.parameter_count()];
    let confusion = network.confusion(&data(&context), &zeros).unwrap();
    assert_eq!(confusion.count(0, 0), confusion.samples());
}
