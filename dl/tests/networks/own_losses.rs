//! Losses of one's own.

use distdl_dl::{
    Activation, BatchReport, CheckpointOptions, Compression, Dense, Error, Features, Input, Loss, LossFunction,
    NeuralNetwork, Result, SampleTargets, Samples, Scalar, Target, Targets, TopK, TrainingOptions,
};
use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_engine::{Config, Context, Placement};

use crate::{bits, context, failed};

/// The mean squared error again.
#[derive(Debug)]
struct Squared;

impl LossFunction for Squared {
    fn name(&self) -> &'static str {
        "squared"
    }

    fn check_targets(&self, target_length: Option<usize>, output_length: usize) -> Result<()> {
        assert_eq!(target_length.unwrap_or(output_length), output_length);
        Ok(())
    }

    fn gradient<T: Scalar>(&self, outputs: &[T], target: Target<'_, T>, gradient: &mut [T]) -> Result<f64> {
        let share = T::from_f64(1.0 / outputs.len() as f64);
        let mut sum = 0.0;
        for (index, (output, gradient)) in outputs.iter().zip(gradient).enumerate() {
            let wanted = match target {
                Target::Label(label) => T::from_u8(u8::from(label == index)),
                Target::Values(values) => values[index],
            };
            let missing = *output - wanted;
            *gradient = (missing + missing) * share;
            sum += missing.to_f64() * missing.to_f64();
        }
        Ok(sum / outputs.len() as f64)
    }
}

/// The pinball loss of some quantiles, one output each, of one value; its samples weigh 0 where that is not positive.
#[derive(Debug, Clone)]
struct Quantiles {
    shares: Vec<f64>,
    fault: Fault,
}

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    IsAnError,
    Panics,
    WeighsNothingKnown,
    WritesNothing,
}

fn quantiles(fault: Fault) -> Quantiles {
    Quantiles {
        shares: vec![0.25, 0.5, 0.75],
        fault,
    }
}

impl Quantiles {
    fn refusal(&self, problem: String) -> Error {
        let problem = problem.into();
        Error::Loss {
            loss: self.name().into(),
            problem,
        }
    }
}

impl LossFunction for Quantiles {
    fn name(&self) -> &'static str {
        "quantiles"
    }

    fn check(&self, last: Activation, output_length: usize) -> Result<()> {
        match output_length == self.shares.len() && last == Activation::Identity {
            true => Ok(()),
            false => Err(self.refusal(format!("{output_length} outputs, {last:?}"))),
        }
    }

    fn check_targets(&self, target_length: Option<usize>, _: usize) -> Result<()> {
        match target_length {
            Some(1) => Ok(()),
            other => Err(self.refusal(format!("{other:?} values; give one"))),
        }
    }

    fn gradient<T: Scalar>(&self, outputs: &[T], target: Target<'_, T>, gradient: &mut [T]) -> Result<f64> {
        let (wanted, weight) = (target.values()?[0].to_f64(), self.weight(target));
        if wanted > 1.0 {
            match self.fault {
                Fault::IsAnError => return Err(self.refusal("more than 1".to_owned())),
                Fault::Panics => panic!("more than 1"),
                Fault::WritesNothing => return Ok(0.0),
                _ => {}
            }
        }
        let mut sum = 0.0;
        for ((output, share), gradient) in outputs.iter().zip(&self.shares).zip(gradient) {
            let missing = wanted - output.to_f64();
            let slope = if missing > 0.0 { *share } else { share - 1.0 };
            *gradient = T::from_f64(-slope * if weight > 0.0 { weight } else { 0.0 });
            sum += slope * missing;
        }
        Ok(if weight > 0.0 { weight * sum } else { 0.0 } + 0.0 * wanted)
    }

    fn is_weighted(&self) -> bool {
        true
    }

    fn weight<T: Scalar>(&self, target: Target<'_, T>) -> f64 {
        let value = target.values().map_or(0.0, |values| values[0].to_f64());
        match self.fault == Fault::WeighsNothingKnown && value > 1.0 {
            true => f64::NAN,
            false => value.clamp(0.0, 2.0),
        }
    }

    /// Above 1 there is nothing.
    fn prediction<T: Scalar>(&self, outputs: &mut [T]) -> Result<()> {
        let above = outputs.iter_mut().filter(|output| **output > T::ONE);
        above.for_each(|output| *output = T::ONE);
        Ok(())
    }
}

fn features(count: usize) -> Features {
    Features::F32(
        (0..2 * count)
            .map(|index| (index * 7 % 23) as f32 / 11.0 - 1.0)
            .collect(),
    )
}

fn values(values: impl IntoIterator<Item = f32>, length: usize) -> Samples {
    let values: Vec<f32> = values.into_iter().collect();
    let features = features(values.len() / length);
    Samples::new(2, features, SampleTargets::Values { length, values }).unwrap()
}

fn labels(count: u32) -> Samples {
    let labels = (0..count).map(|sample| sample * 5 % 7 % 3).collect();
    Samples::new(2, features(count as usize), SampleTargets::Labels(labels)).unwrap()
}

fn network(loss: Loss) -> NeuralNetwork {
    let builder = NeuralNetwork::new(Input(2)).hidden(Dense::tanh(4));
    builder.output(Dense::linear(3), loss).unwrap()
}

fn options() -> TrainingOptions {
    TrainingOptions {
        batch: 14,
        lanes: 3,
        ..TrainingOptions::default()
    }
}

/// Reports of steps and of an evaluation, and the bits of the parameters.
type Trained = (Vec<BatchReport>, Vec<u32>);

fn train(context: &Context, loss: Loss, samples: &Samples, options: TrainingOptions) -> Result<Trained> {
    let data = context.parallelize(samples.split(6)?, 6);
    let mut training = network(loss).train(&data, options)?;
    let mut reports = Vec::new();
    training.iterate(11, |step| reports.push(step.report))?;
    reports.push(training.error(&data)?);
    let parameters = training.parameters();
    Ok((reports, bits(&parameters)))
}

#[test]
fn a_copy_of_a_loss_has_its_bits_wherever_it_runs() {
    let targets = (0..180).map(|index| (index * 11 % 17) as f32 / 8.0 - 1.0);
    for samples in [labels(60), values(targets, 3)] {
        let alone = |threads, loss, placement| {
            let context = context(threads);
            let options = TrainingOptions { placement, ..options() };
            train(&context, loss, &samples, options).unwrap()
        };
        let expected = alone(1, Loss::MeanSquaredError, None);
        for threads in 1..=3 {
            let placement = Placement {
                lanes: (0..3).map(|lane| lane % threads).collect(),
                shards: (0..5).map(|shard| (shard + 1) % threads).collect(),
            };
            let got = alone(threads, Loss::own(Squared), Some(placement));
            assert_eq!(got, expected, "{threads} threads");
        }
        let cluster = TestCluster::new(3).with_chaos(Chaos::parse("kill=worker:1@step:4").unwrap());
        let run = cluster
            .run(move |context| {
                let (reports, bits) = train(context, Loss::own(Squared), &samples, options()).map_err(failed)?;
                Ok((reports, bits))
            })
            .unwrap();
        assert!(!run.results.is_empty());
        // One that was started in the place of another has not seen the steps before.
        let last = |trained: &Trained| (trained.0.last().copied(), trained.1.clone());
        run.results
            .iter()
            .for_each(|result| assert_eq!(last(result), last(&expected)));
    }
}

#[test]
fn what_samples_weigh_is_what_a_mean_is_divided_by() {
    let loss = Loss::own(quantiles(Fault::None));
    let (outputs, targets) = ([0.5, 1.0, 2.0, 0.0, -1.0, 3.0, 5.0, 5.0, 5.0_f64], [1.0, 0.5, -2.0]);
    let mut gradient = [f64::NAN; 9];
    let report = loss
        .gradient(&outputs, Targets::Values(&targets), 3, &mut gradient)
        .unwrap();
    let first = 0.25 * 0.5 + 0.25 * 1.0;
    let second = 0.5 * (0.25 * 0.5 + 0.5 * 1.5 + 0.25 * 2.5);
    assert_eq!((report.loss_sum, report.weight), (first + second, 1.5));
    assert_eq!((report.samples, report.correct), (3, None));
    assert_eq!(gradient[..3], [-0.25, 0.5, 0.25]);
    assert_eq!(gradient[6..], [0.0; 3]);

    let context = context(2);
    let none = context.parallelize(values((0..60).map(|_| -1.0), 1).split(3).unwrap(), 3);
    let network = network(loss);
    let mut training = network.train(&none, options()).unwrap();
    let before = training.parameters();
    training.iterate(3, |step| assert_eq!(step.report.weight, 0.0)).unwrap();
    assert_eq!(training.parameters(), before);

    let top_k = TrainingOptions {
        compression: Compression::TopK(TopK::default()),
        ..options()
    };
    let refused = network.train(&none, top_k).unwrap_err().to_string();
    assert!(refused.contains("`Compression::TopK` with weights"), "{refused}");
}

#[test]
fn a_loss_with_fewer_targets_than_outputs_is_learnt_and_shows_what_it_wants_to() {
    let context = context(2);
    let targets = (0..60).map(|sample| (sample % 10) as f32 / 10.0 + 0.05);
    let data = context.parallelize(values(targets, 1).split(3).unwrap(), 3);
    let network = network(Loss::own(quantiles(Fault::None)));
    let mut training = network.train(&data, options()).unwrap();
    let before = training.error(&data).unwrap().mean_loss();
    training.iterate(200, |_| ()).unwrap();
    let after = training.error(&data).unwrap();
    assert!(after.mean_loss() < 0.7 * before, "{after:?} after {before}");
    assert_eq!(after.accuracy(), None);
    let mut parameters = training.parameters();
    let bias = parameters.len() - 1;
    parameters[bias] = 7.0;
    let rows = network.predict(&data, &parameters).unwrap().collect().unwrap();
    assert!(
        rows.iter().all(|row| row.len() == 3 && row[2] == 1.0 && row[0] < 1.0),
        "{rows:?}"
    );
    // Labels that nobody has.
    let refused = network.confusion(&data, &parameters).unwrap_err().to_string();
    assert!(refused.contains("give labels, or take `error`"), "{refused}");
}

#[test]
fn what_does_not_suit_is_said_before_the_first_step() {
    let context = Context::new(Config::default()).unwrap();
    let two = NeuralNetwork::new(Input(2)).output(Dense::linear(2), Loss::own(quantiles(Fault::None)));
    let message = two.unwrap_err().to_string();
    assert_eq!(message, "loss quantiles: 2 outputs, Identity");
    let train = |samples: Samples| {
        let data = context.parallelize(samples.split(3).unwrap(), 3);
        let refused = network(Loss::own(quantiles(Fault::None))).train(&data, options());
        refused.unwrap_err().to_string()
    };
    let message = train(values((0..120).map(|_| 0.5), 2));
    assert!(
        message.contains("partition 0: loss quantiles: Some(2) values; give one"),
        "{message}"
    );
    let message = train(labels(60));
    assert!(message.contains("None values; give one"), "{message}");

    /// Takes what a loss takes that says nothing.
    #[derive(Debug)]
    struct Silent;
    impl LossFunction for Silent {
        fn name(&self) -> &'static str {
            "silent"
        }
        fn gradient<T: Scalar>(&self, _: &[T], target: Target<'_, T>, _: &mut [T]) -> Result<f64> {
            target.label().map(|_| 0.0)
        }
    }
    let loss = Loss::own(Silent);
    for (targets, says) in [
        (
            Targets::Labels(&[0]),
            "loss silent: takes as many target values a sample as there are outputs, 2, and was given a label",
        ),
        (Targets::Values(&[0.5]), "was given 1 target values"),
        (Targets::Values(&[0.5; 2]), "wants a label as target and got values"),
    ] {
        let message = loss
            .gradient(&[0.5; 2], targets, 2, &mut [0.0; 2])
            .unwrap_err()
            .to_string();
        assert!(message.contains(says), "{message}");
    }
    for targets in [Targets::Labels(&[0][..]), Targets::Values(&[0.5; 3])] {
        let wrong = Loss::own(Squared).gradient(&[0.5_f64; 4], targets, 2, &mut [0.0; 4]);
        assert!(matches!(wrong, Err(Error::Length { .. })), "{wrong:?}");
    }
    let wrong = Loss::own(Squared).gradient(&[0.5_f32; 2], Targets::Labels(&[1]), 2, &mut [0.0; 1]);
    assert!(matches!(wrong, Err(Error::Length { .. })), "{wrong:?}");
    let wrong = Loss::own(Squared).gradient(&[0.5_f32; 2], Targets::Labels(&[2]), 2, &mut [0.0; 2]);
    assert!(matches!(wrong, Err(Error::Label { label: 2, .. })), "{wrong:?}");
}

#[test]
fn what_goes_wrong_on_the_way_is_an_error() {
    let context = context(2);
    let message = |fault, last: f32| {
        let targets = (0..60).map(|sample| if sample == 37 { last } else { 0.5 });
        let data = context.parallelize(values(targets, 1).split(3).unwrap(), 3);
        let network = network(Loss::own(quantiles(fault)));
        let mut training = network.train(&data, options()).unwrap();
        let errors = [training.error(&data).err(), training.run_epoch(|_| ()).err()];
        errors.map(|error| error.map_or("nothing".to_owned(), |error| error.to_string()))
    };
    for (fault, says) in [
        (Fault::IsAnError, "loss quantiles: more than 1"),
        (Fault::Panics, "more than 1"),
        (
            Fault::WeighsNothingKnown,
            "is NaN; give 0, or a number from 1e-30 to 1e30",
        ),
    ] {
        let messages = message(fault, 1.5);
        assert!(messages.iter().all(|message| message.contains(says)), "{messages:?}");
    }
    if cfg!(debug_assertions) {
        let [evaluated, trained] = message(Fault::WritesNothing, 1.5);
        assert_eq!(evaluated, "nothing");
        assert!(trained.contains("is not finite"), "{trained}");
    }
    let [_, trained] = message(Fault::None, f32::NAN);
    let says = "sample 17 of partition 1 has NaN as target value 0";
    assert!(
        trained.contains("the loss is not finite") && trained.contains(says),
        "{trained}"
    );
}

#[test]
fn words_tell_losses_apart_and_files_hold_nothing_else_of_them() {
    let context = Context::new(Config::default()).unwrap();
    let data = context.parallelize(
        values((0..60).map(|sample| sample as f32 / 60.0), 1).split(3).unwrap(),
        3,
    );
    let folder = tempfile::tempdir().unwrap();
    let begin = |loss: Quantiles| {
        let options = TrainingOptions {
            checkpoint: Some(CheckpointOptions::new(
                folder.path().join("checkpoints").to_str().unwrap(),
            )),
            ..options()
        };
        network(Loss::own(loss)).train(&data, options)
    };
    let mut training = begin(quantiles(Fault::None)).unwrap();
    training.iterate(3, |_| ()).unwrap();
    let resumed = begin(quantiles(Fault::None)).unwrap();
    assert_eq!((resumed.step(), resumed.parameters()), (3, training.parameters()));
    let mut other = quantiles(Fault::None);
    other.shares[0] = 0.1;
    let message = begin(other.clone()).unwrap_err().to_string();
    let says = "part 2 of the network: Own(Quantiles { shares: [0.25, 0.5, 0.75], fault: None }) there";
    assert!(message.contains(says), "{message}");
    assert!(Loss::own(other) != Loss::own(quantiles(Fault::None)));
    assert!(Loss::own(quantiles(Fault::None)) == Loss::own(quantiles(Fault::None)));

    let path = folder.path().join("model.safetensors");
    resumed.network().save(&path, &resumed.parameters()).unwrap();
    let loaded = network(Loss::MeanSquaredError).load(&path).unwrap();
    assert_eq!(loaded, resumed.parameters());
    assert!(serde_json::to_string(&Loss::own(Squared)).is_err());
}
