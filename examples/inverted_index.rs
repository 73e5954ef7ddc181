//! Says in which files words are: `cargo run --release --example inverted_index -- lineage shuffle`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use distdl::prelude::*;

/// Makes an index of the words of text files, and looks words up in it.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Words to look up [default: the ten that are in the most files].
    words: Vec<String>,
    /// Path or pattern of the files, such as 'src/**/*.rs' [default: this project's own sources].
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/*/src/**/*.rs"))]
    files: String,
    /// Partitions of the index.
    #[arg(long, default_value_t = 8)]
    partitions: usize,
}

/// A file, and how often the word is in it.
type Place = (String, u64);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| look_up(context, &arguments))
}

fn look_up(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let index = index(context, arguments)?;
    let mut wanted = arguments.words.clone();
    if wanted.is_empty() {
        let spread = index.map(|(word, places)| (places.len(), word));
        wanted.extend(spread.top(10)?.into_iter().map(|(_, word)| word));
    }
    let mut output = std::io::stdout();
    for word in wanted {
        // The index lies by the hash of words: one partition is read.
        let places = index.lookup(&word.to_lowercase())?.concat();
        if context.config().json {
            let files: Vec<&str> = places.iter().map(|(file, _)| file.as_str()).collect();
            writeln!(output, "{}", serde_json::json!({ "word": word, "files": files }))?;
            continue;
        }
        writeln!(output, "{word}: {} files", places.len())?;
        for (file, count) in places {
            writeln!(output, "{count:>8}  {file}")?;
        }
    }
    Ok(())
}

/// Each word with the files that it is in, most frequent first.
fn index(context: &Context, arguments: &Arguments) -> Result<Dataset<(String, Vec<Place>)>, Failure> {
    let files = context.objects(&arguments.files, arguments.partitions)?;
    let counts = files
        .flat_map(|(file, bytes)| words(&String::from_utf8_lossy(&bytes)).map(move |word| ((word, file.clone()), 1)))
        .reduce_by_key_into(|left, right| left + right, arguments.partitions);
    let index = counts
        .map(|((word, file), count)| (word, (file, count)))
        .group_by_key_into(arguments.partitions)
        .map_values(|mut places| {
            places.sort_by(|left: &Place, right| right.1.cmp(&left.1).then(left.0.cmp(&right.0)));
            places
        });
    Ok(index.set_name("index").cache())
}

fn words(text: &str) -> impl Iterator<Item = String> + use<> {
    let words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
    let words: Vec<String> = words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    words.into_iter()
}
