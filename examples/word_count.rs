//! Counts the words of text files: `cargo run --release --example word_count -- 'docs/*.md' README.md`.

use std::cmp::Reverse;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use distdl::prelude::*;

/// Counts the words of text files and prints the most frequent ones.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Paths, `file://` URLs or patterns such as 'docs/**/*.md', plain or gzip [default: this project's own texts].
    files: Vec<String>,
    /// How many words to print.
    #[arg(long, default_value_t = 20)]
    top: usize,
    /// Into how many partitions each pattern's files are cut.
    #[arg(long, default_value_t = 8)]
    partitions: usize,
    /// Folder to create for all counts, as text files `part-00000` and so on.
    #[arg(long)]
    save_to: Option<String>,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    if arguments.files.is_empty() {
        let own = ["*.md", "docs/*.md", "src/*.rs", "*/src/**/*.rs"];
        arguments.files = own
            .map(|files| format!("{}/{files}", env!("CARGO_MANIFEST_DIR")))
            .into();
    }
    distdl::run(arguments.flags.config(), |context| count(context, &arguments))
}

fn count(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let mut lines = context.parallelize(Vec::new(), 1);
    for files in &arguments.files {
        lines = lines.union(&context.text_file(files, arguments.partitions)?);
    }
    let counts = lines
        .flat_map(|line| words(&line))
        .map(|word| (word, 1u64))
        .reduce_by_key_into(|left, right| left + right, arguments.partitions)
        .cache();
    // Largest count first; words of one count in the order of the alphabet.
    let most_frequent = counts.map(|(word, count)| (count, Reverse(word))).top(arguments.top)?;
    let mut output = std::io::stdout();
    for (count, Reverse(word)) in most_frequent {
        if context.config().json {
            writeln!(output, "{}", serde_json::json!({ "word": word, "count": count }))?;
        } else {
            writeln!(output, "{count:>8}  {word}")?;
        }
    }
    if let Some(folder) = &arguments.save_to {
        let lines = counts.map(|(word, count)| format!("{word}\t{count}"));
        lines.save_as_text_file(folder)?;
    }
    Ok(())
}

fn words(line: &str) -> Vec<String> {
    let words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
    words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}
