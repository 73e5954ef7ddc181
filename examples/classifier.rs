//! Trains on rows of one's own: `cargo run --release --example classifier -- --data points.csv`.
//!
//! A CSV file with the index of a class in its first column and numbers in the others becomes samples; a fifth of them
//! is held back, and training ends when these get no better. The best model and what the features are normalised by are
//! saved, read again, and asked for predictions. Without a file, points of three spirals are written to one first.

use std::f32::consts::TAU;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, value_parser};
use distdl::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::json;

/// Trains a dense classifier on a CSV file: the index of a class in the first column, numbers in the others.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// File, or pattern of files, with a line of names each. By default a file of three spirals is made in the output
    /// folder.
    #[arg(long)]
    data: Option<String>,
    /// Folder for the model and the normalisation.
    #[arg(long, default_value = "target/classifier")]
    output: PathBuf,
    /// Epochs at most.
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u64).range(1..=1_000_000))]
    epochs: u64,
    /// Epochs without a better validation loss after which training ends.
    #[arg(long, default_value_t = 20)]
    patience: u32,
    /// Logical streams of mini-batches: as many threads as can work.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u64).range(1..=1024))]
    lanes: u64,
}

/// Records of a block of samples.
const BLOCK: usize = 256;
/// A class, and what is known of a point.
type Row = (u32, Vec<f32>);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| classify(context, &arguments))
}

fn classify(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let (json, lanes, output) = (
        context.config().json,
        arguments.lanes as usize,
        arguments.output.clone(),
    );
    let folder = output.clone();
    context.once(move || fs::create_dir_all(&folder))?;
    let file = match &arguments.data {
        Some(file) => file.clone(),
        None => spirals(context, output.join("spirals.csv"))?,
    };
    let rows = context.csv::<Row>(&file, CsvOptions::default(), lanes)?;
    let samples =
        |rows: Vec<Row>| Samples::from_labelled_rows(rows.into_iter().map(|(class, features)| (features, class)));
    let data = rows.batch(BLOCK)?.try_map(samples).cache();
    let classes = rows.map(|(class, _)| class).max()?.ok_or("the file has no rows")? as usize + 1;
    let splits = data.split_samples(&[0.8, 0.2], context.config().seed)?;
    let normalization = Normalization::fit(&splits[0])?;
    let normalized = splits.iter().map(|split| normalization.transform(split).cache());
    let [train, validation] = &normalized.collect::<Vec<_>>()[..] else {
        return Err("two parts were asked for".into());
    };

    let network = NeuralNetwork::new(Input(normalization.mean().len()))
        .hidden(Dense::relu(64))
        .residual(|block| block.hidden(Dense::relu(64)).hidden(Dense::linear(64)))
        .output(Dense::linear(classes), Loss::SoftmaxCrossEntropy)?;
    let options = TrainingOptions {
        batch: 64,
        lanes,
        schedule: Some(Schedule::Constant(0.003)),
        optimizer: Arc::new(Adam::default()),
        ..TrainingOptions::default()
    };
    let mut training = network.train(train, options)?;
    let mut best = BestModels::new(1).with_patience(arguments.patience);
    while best.goes_on() && training.epoch() < arguments.epochs {
        let learnt = training.run_epoch(|_| ())?.mean_loss();
        let held_back = training.error(validation)?;
        best.show(held_back.mean_loss(), &mut training)?;
        let (epoch, loss, accuracy) = (
            training.epoch(),
            held_back.mean_loss(),
            held_back.accuracy().unwrap_or(f64::NAN),
        );
        match json {
            true => println!(
                "{}",
                json!({ "epoch": epoch, "train_loss": learnt, "validation_loss": loss, "validation_accuracy": accuracy })
            ),
            false => println!(
                "epoch {epoch:>3}  loss {learnt:.4}, of what was held back {loss:.4}, of which {:.1}% are right",
                100.0 * accuracy
            ),
        }
    }

    let model = best
        .models()
        .first()
        .ok_or("no epoch ended with a loss that is a number")?;
    let (step, learnt) = (model.step, model.parameters.clone());
    let path = output.join("model.safetensors");
    let (of_model, network_there, predicted) = (path.clone(), network.clone(), output.join("predictions"));
    let written = serde_json::to_string(&normalization)?;
    let described = output.join("normalization.json");
    let description = described.clone();
    context.once(move || -> Result<(), Failure> {
        network_there.save(&of_model, &learnt)?;
        Ok(fs::write(&description, &written)?)
    })?;

    // As another program would: the model is read, and rows are normalised as those were that it has learnt from.
    let parameters = network.load(&path)?;
    let normalization: Normalization = serde_json::from_str(&fs::read_to_string(&described)?)?;
    let validation = &normalization.transform(&splits[1]).cache();
    let predicted = predicted
        .to_str()
        .ok_or("the output folder has a name that is not UTF-8")?;
    network.predict(validation, &parameters)?.save_as_json_lines_file_with(
        predicted,
        SaveOptions {
            existing: Existing::Replace,
            ..SaveOptions::default()
        },
    )?;
    let found = network.confusion(validation, &parameters)?;
    match json {
        true => println!(
            "{}",
            json!({ "best_step": step, "validation_accuracy": found.accuracy() })
        ),
        false => println!("the model of step {step} has {:.1}% right", 100.0 * found.accuracy()),
    }
    Ok(())
}

/// Writes points of three arms of a spiral, and says where.
fn spirals(context: &Context, file: PathBuf) -> Result<String, Failure> {
    let (seed, path) = (context.config().seed, file.clone());
    context.once(move || {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let mut uniform = || (generator.next_u32() >> 8) as f32 / (1 << 24) as f32;
        let mut text = String::from("class,x,y\n");
        for point in 0..3000 {
            let (class, along) = (point % 3, uniform());
            let angle = TAU * (along + class as f32 / 3.0) + 0.3 * (uniform() - 0.5);
            text += &format!("{class},{},{}\n", along * angle.cos(), along * angle.sin());
        }
        fs::write(&path, text)
    })?;
    Ok(file
        .to_str()
        .ok_or("the output folder has a name that is not UTF-8")?
        .to_owned())
}
