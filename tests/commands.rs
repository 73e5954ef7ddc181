//! What the programs say and leave behind: bad input ends in one message that names file, place and remedy, with exit
//! code 1 (2 for wrong usage), and nothing half-written.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// A folder with a tiny data set in the files of MNIST, in which programs run.
struct Workplace(tempfile::TempDir);

const TRAIN: usize = 48;
const TEST: usize = 20;

impl Workplace {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.path("data")).unwrap();
        for (set, count) in [("train", TRAIN), ("t10k", TEST)] {
            place.write(&format!("data/{set}-images-idx3-ubyte"), &images(count));
            place.write(&format!("data/{set}-labels-idx1-ubyte"), &labels(count));
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Every file and folder below, with its content.
    fn content(&self) -> BTreeSet<(PathBuf, Vec<u8>)> {
        let mut content = BTreeSet::new();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path.clone());
                    content.insert((path, Vec::new()));
                } else {
                    let bytes = std::fs::read(&path).unwrap();
                    content.insert((path, bytes));
                }
            }
        }
        content
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.0.path()).args(arguments);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DISTDL_")) {
            command.env_remove(name);
        }
        command
    }

    /// The example `mnist` with `arguments`, and what is usual for the flags that they do not name.
    fn mnist(&self, arguments: &[&str]) -> Command {
        let name = |argument: &str| argument.split('=').next().map(str::to_owned);
        let usual = MNIST
            .iter()
            .copied()
            .filter(|usual| !arguments.iter().any(|argument| name(argument) == name(usual)));
        let all: Vec<&str> = usual.chain(arguments.iter().copied()).collect();
        self.command(&example("mnist"), &all)
    }

    /// Runs a command that must fail with `code`, print nothing else, and change no file; its message must have `words`.
    #[track_caller]
    fn fails(&self, mut command: Command, code: i32, words: &[&str]) {
        let before = self.content();
        let output = command.output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert_eq!(text(&output.stdout), "", "{message}");
        assert_eq!(message.matches("error:").count(), 1, "{message}");
        assert!(!message.contains("panicked"), "{message}");
        for word in words {
            assert!(message.contains(word), "`{word}` is not in: {message}");
        }
        assert!(self.content() == before, "files have changed: {message}");
    }

    #[track_caller]
    fn mnist_fails(&self, arguments: &[&str], words: &[&str]) {
        let command = self.mnist(&[&["--model-out=model.safetensors"], arguments].concat());
        self.fails(command, 1, words);
    }
}

const MNIST: &[&str] = &[
    "--data=data",
    "--hidden=6",
    "--batch=8",
    "--epochs=3",
    "--learning-rate=0.1",
    "--json",
];
const DISTDL: &str = env!("CARGO_BIN_EXE_distdl");

fn example(name: &str) -> PathBuf {
    let program = Path::new(DISTDL).parent().unwrap().join("examples").join(name);
    let program = program.with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        program.exists(),
        "no {}; run `cargo build --examples`",
        program.display()
    );
    program
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn succeeds(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    text(&output.stdout)
}

#[track_caller]
fn json_lines(command: Command) -> Vec<Value> {
    succeeds(command)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn idx(magic: u32, sides: &[usize], elements: &[u8]) -> Vec<u8> {
    let words = std::iter::once(magic).chain(sides.iter().map(|side| *side as u32));
    words
        .flat_map(u32::to_be_bytes)
        .chain(elements.iter().copied())
        .collect()
}

/// Images of class `n % 10` with rows of their own lit, so that a network can tell them apart.
fn images(count: usize) -> Vec<u8> {
    let pixel = |at: usize| {
        if (at % 784 / 28) / 2 == (at / 784) % 10 {
            200 + (at % 28) as u8
        } else {
            3
        }
    };
    idx(
        0x0803,
        &[count, 28, 28],
        &(0..count * 784).map(pixel).collect::<Vec<u8>>(),
    )
}

fn labels(count: usize) -> Vec<u8> {
    idx(
        0x0801,
        &[count],
        &(0..count).map(|index| (index % 10) as u8).collect::<Vec<u8>>(),
    )
}

const IMAGES: &str = "data/train-images-idx3-ubyte";
const LABELS: &str = "data/train-labels-idx1-ubyte";
const FETCH_AGAIN: &str = "fetch the file again";

#[test]
fn damaged_data_is_named_with_its_place() {
    let whole = images(TRAIN);
    let cases: [(&str, Vec<u8>, &[&str]); 9] = [
        (
            IMAGES,
            whole[..whole.len() - 1].to_vec(),
            &["37631 bytes of elements, the sides say 37632"],
        ),
        (
            IMAGES,
            whole[..10].to_vec(),
            &["the header is cut: 10 bytes", "offset 4"],
        ),
        (IMAGES, Vec::new(), &["the header is cut: 0 bytes"]),
        (
            IMAGES,
            labels(TRAIN),
            &["magic number 0x00000801, expected 0x00000803", "offset 0"],
        ),
        (IMAGES, images(0), &["there are no images", "offset 4"]),
        (
            IMAGES,
            idx(0x0803, &[1, 2, 2], &[0; 4]),
            &["images of 2 x 2, expected 28 x 28", "offset 8"],
        ),
        (LABELS, labels(TRAIN - 1), &["47 labels for 48 images", "offset 4"]),
        (
            LABELS,
            idx(0x0801, &[TRAIN], &[10; TRAIN]),
            &["label 10, expected 0 to 9", "offset 8 (label 0)"],
        ),
        (
            LABELS,
            images(1),
            &["magic number 0x00000803, expected 0x00000801", "offset 0"],
        ),
    ];
    let place = Workplace::new();
    for (file, bytes, words) in cases {
        let before = std::fs::read(place.path(file)).unwrap();
        place.write(file, &bytes);
        place.mnist_fails(&[], &[words, &[file, FETCH_AGAIN]].concat());
        place.write(file, &before);
    }
}

#[test]
fn a_cut_gzip_file_is_named_with_its_place() {
    let place = Workplace::new();
    let packed = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/examples/data/mnist/t10k-labels-idx1-ubyte.gz"
    );
    std::fs::remove_file(place.path(LABELS)).unwrap();
    place.write(&format!("{LABELS}.gz"), &std::fs::read(packed).unwrap()[..1000]);
    place.mnist_fails(
        &[],
        &[
            "data/train-labels-idx1-ubyte.gz",
            "byte ",
            "of what it unpacks to",
            FETCH_AGAIN,
        ],
    );
}

#[test]
fn missing_data_is_named() {
    let place = Workplace::new();
    std::fs::remove_file(place.path(LABELS)).unwrap();
    place.mnist_fails(
        &[],
        &[
            "cannot read data/train-labels-idx1-ubyte",
            "No such file",
            "check the path",
        ],
    );
}

#[test]
fn training_that_makes_no_sense_is_refused() {
    let place = Workplace::new();
    let lower = "a batch of 49 is larger than the 48 samples of the dataset; lower `batch`";
    place.mnist_fails(&["--batch=49"], &[lower]);
    place.mnist_fails(
        &["--lanes=9"],
        &["a batch of 8 cannot be dealt to 9 lanes; raise `batch` or lower `lanes`"],
    );
    place.mnist_fails(&["--lanes=0"], &["0 lanes", "use at least 1 lane"]);
    place.mnist_fails(&["--hidden=0"], &["layer 0 (dense)"]);
}

#[test]
fn a_loss_that_is_not_finite_names_the_step_and_keeps_the_old_model() {
    let place = Workplace::new();
    place.write("model.safetensors", b"the old model");
    let mut command = place.mnist(&["--learning-rate=1e30", "--model-out=model.safetensors"]);
    let output = command.output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.starts_with("error: step "), "{message}");
    assert!(
        message.contains("the loss is not finite") && message.contains("lower the learning rate"),
        "{message}"
    );
    assert_eq!(
        std::fs::read(place.path("model.safetensors")).unwrap(),
        b"the old model"
    );
}

#[test]
fn a_wrong_configuration_is_named_with_its_place() {
    let place = Workplace::new();
    let config = |arguments: &[&str]| place.command(Path::new(DISTDL), &[arguments, &["config"]].concat());
    place.fails(
        config(&["--config=missing.toml"]),
        1,
        &["missing.toml", "check the path that `--config` names"],
    );
    let mut variable = config(&[]);
    variable.env("DISTDL_THREAD", "2");
    place.fails(
        variable,
        1,
        &["environment variable DISTDL_THREAD", "did you mean `DISTDL_THREADS`?"],
    );
    let mut value = config(&[]);
    value.env("DISTDL_THREADS", "many");
    place.fails(
        value,
        1,
        &[
            "environment variable DISTDL_THREADS: `many`",
            "a whole number from 1 to 1024",
        ],
    );
    place.fails(
        config(&["--threads=0"]),
        2,
        &["--threads", "a whole number from 1 to 1024"],
    );
    place.fails(config(&["--thread=1"]), 2, &["--thread", "'--threads'"]);

    place.write("distdl.toml", b"thread = 2\n");
    place.fails(
        config(&[]),
        1,
        &["key `thread` in the file distdl.toml", "did you mean `threads`?"],
    );
    place.write("distdl.toml", b"threads = \n");
    place.fails(config(&[]), 1, &["distdl.toml is not TOML", "line 1"]);
}

#[test]
fn the_shown_configuration_is_a_file_that_gives_it_again() {
    let place = Workplace::new();
    let program = Path::new(DISTDL);
    place.write("distdl.toml", b"threads = 3\nspill_folder = \"spill\"\nseed = 5\n");
    let mut command = place.command(program, &["config", "--seed=6"]);
    command.env("DISTDL_MEMORY", "1MiB");
    let shown = succeeds(command);
    for line in [
        "threads = 3",
        "memory = 1048576",
        "spill_folder = \"spill\"",
        "seed = \"6\"",
        "progress = \"auto\"",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "`{line}` is not in: {shown}");
    }
    place.write("shown.toml", shown.as_bytes());
    assert_eq!(
        succeeds(place.command(program, &["config", "--config=shown.toml"])),
        shown
    );
}

#[test]
fn a_model_that_cannot_be_written_changes_nothing() {
    let place = Workplace::new();
    let below = place.mnist(&["--model-out=data/train-images-idx3-ubyte/model"]);
    place.fails(below, 1, &["data/train-images-idx3-ubyte", "not a folder"]);
}

/// No file may grow beyond 8 blocks (4 or 8 KiB, after the shell), which is less than the model takes.
#[cfg(unix)]
#[test]
fn a_full_disk_keeps_the_old_model() {
    let place = Workplace::new();
    place.write("model.safetensors", b"the old model");
    let before = place.content();
    let program = example("mnist");
    let limited = [
        "-c",
        "trap '' XFSZ; ulimit -f 8; exec \"$@\"",
        "sh",
        program.to_str().unwrap(),
    ];
    let arguments = [&limited, MNIST, &["--model-out=model.safetensors"]].concat();
    let output = place.command(Path::new("sh"), &arguments).output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.starts_with("error: cannot write model.safetensors"),
        "{message}"
    );
    assert!(place.content() == before, "files have changed: {message}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_an_error() {
    let place = Workplace::new();
    let mnist = place.mnist(&[]);
    let words = place.command(&example("word_count"), &["data/*labels*"]);
    let ranks = place.command(&example("page_rank"), &["--edges=10"]);
    let config = place.command(Path::new(DISTDL), &["config"]);
    for mut command in [mnist, words, ranks, config] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.starts_with("error: ") && message.contains("No space left"),
            "{message}"
        );
    }
}

#[test]
fn mnist_prints_a_line_an_epoch_with_these_keys() {
    let lines = json_lines(Workplace::new().mnist(&[]));
    let expected = BTreeSet::from([
        "epoch",
        "step",
        "train_loss",
        "test_accuracy",
        "samples_per_second",
        "seconds",
        "parameters_hash",
    ]);
    assert_eq!(lines.len(), 3);
    for (epoch, line) in (1..).zip(&lines) {
        let keys: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, expected);
        assert_eq!(
            (line["epoch"].as_u64(), line["step"].as_u64()),
            (Some(epoch), Some(6 * epoch))
        );
        assert!(line["train_loss"].as_f64().unwrap().is_finite());
        assert!((0.0..=1.0).contains(&line["test_accuracy"].as_f64().unwrap()));
        assert_eq!(line["parameters_hash"].as_str().unwrap().len(), 64);
    }
    assert!(lines[2]["train_loss"].as_f64() < lines[0]["train_loss"].as_f64());
}

#[test]
fn the_model_has_the_same_bits_for_any_number_of_threads() {
    let place = Workplace::new();
    let hashes = |arguments: &[&str]| -> Vec<Value> {
        let lines = json_lines(place.mnist(&[&["--lanes=3"], arguments].concat()));
        lines
            .into_iter()
            .map(|mut line| line["parameters_hash"].take())
            .collect()
    };
    let one = hashes(&["--threads=1"]);
    assert_eq!(one.iter().map(Value::to_string).collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(hashes(&["--threads=2"]), one);
    assert_eq!(hashes(&["--threads=3"]), one);
    assert_ne!(hashes(&["--threads=1", "--seed=1"]), one);
}

#[test]
fn a_saved_model_is_evaluated_as_it_was_trained() {
    let place = Workplace::new();
    let lines = json_lines(place.mnist(&["--model-out=model.safetensors"]));
    let accuracy = lines[2]["test_accuracy"].as_f64().unwrap();
    let evaluate = ["evaluate", "model.safetensors", "--data=data"];
    let program = Path::new(DISTDL);
    let report = json_lines(place.command(program, &[&evaluate[..], &["--hidden=6", "--json"]].concat()));
    assert_eq!(report[0]["accuracy"].as_f64(), Some(accuracy));
    assert_eq!(report[0]["samples"].as_u64(), Some(TEST as u64));
    let right = succeeds(place.command(program, &[&evaluate[..], &["--hidden=6"]].concat()));
    assert!(right.contains(&format!("of {TEST} right")), "{right}");

    let other = place.command(program, &[&evaluate[..], &["--hidden=7"]].concat());
    place.fails(
        other,
        1,
        &["model file model.safetensors", "has shape [784, 6], expected [784, 7]"],
    );
    place.write("model.safetensors", b"not a model");
    let damaged = place.command(program, &[&evaluate[..], &["--hidden=6"]].concat());
    place.fails(
        damaged,
        1,
        &["model file model.safetensors", "not a whole safetensors file"],
    );
}

#[test]
fn words_are_counted() {
    let place = Workplace::new();
    place.write("a.txt", b"the dog and the cat\n");
    place.write("b.txt", b"The bird, and\nno dog.\n");
    let program = example("word_count");
    let arguments = ["*.txt", "--top=3", "--save-to=counts"];
    let shown = succeeds(place.command(&program, &arguments));
    let shown: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(shown, ["3", "the", "2", "and", "2", "dog"]);
    let parts = place
        .content()
        .into_iter()
        .filter(|(path, _)| path.starts_with(place.path("counts")));
    let lines: String = parts.map(|(_, bytes)| text(&bytes)).collect();
    let lines: BTreeSet<&str> = lines.lines().collect();
    assert_eq!(
        lines,
        BTreeSet::from(["the\t3", "and\t2", "dog\t2", "bird\t1", "cat\t1", "no\t1"])
    );

    let first = &json_lines(place.command(&program, &["*.txt", "--json", "--top=1"]))[0];
    assert_eq!(first, &serde_json::json!({ "word": "the", "count": 3 }));
    place.fails(place.command(&program, &["missing-*.txt"]), 1, &["missing-*.txt"]);
    let again = place.command(&program, &arguments).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("counts"), "{}", text(&again.stderr));
}

#[test]
fn pages_are_ranked() {
    let place = Workplace::new();
    place.write("links.txt", b"# who links to whom\n1 2\n2 1\n3 1\n");
    let program = example("page_rank");
    let ranks = json_lines(place.command(&program, &["links.txt", "--json", "--rounds=60", "--damping=80"]));
    // Page 3 gets a share of (1 - 0.8) / 3 and no link; for the other two the formula is solved by hand.
    let base = 0.2 / 3.0;
    let first = (base + 0.8 * base * 2.0) / (1.0 - 0.8 * 0.8);
    let expected = [(1, first), (2, base + 0.8 * first), (3, base)];
    for (line, (page, rank)) in ranks.iter().zip(expected) {
        assert_eq!(line["page"].as_u64(), Some(page));
        assert!((line["rank"].as_f64().unwrap() - rank).abs() < 1e-5, "{line}");
    }
    let generated = |threads| succeeds(place.command(&program, &["--nodes=50", "--edges=300", threads, "--json"]));
    assert_eq!(generated("--threads=1"), generated("--threads=3"));

    place.write("links.txt", b"1 2\n\n2 three\n");
    place.fails(
        place.command(&program, &["links.txt"]),
        1,
        &["links.txt, line 3: `2 three`", "two whole numbers"],
    );
    place.fails(place.command(&program, &["--edges=0"]), 1, &["no links", "--edges"]);
}

#[test]
fn points_are_fitted() {
    let place = Workplace::new();
    let fit =
        |threads| json_lines(place.command(&example("logistic_regression"), &["--points=2000", "--json", threads]));
    let lines = fit("--threads=1");
    assert_eq!(lines.len(), 6);
    assert!(lines[4]["loss"].as_f64() < lines[0]["loss"].as_f64());
    // One point in ten is mislabelled.
    assert!(lines[5]["test_accuracy"].as_f64().unwrap() > 0.8);
    assert_eq!(fit("--threads=3"), lines);
    let wrong = place.command(&example("logistic_regression"), &["--points=3"]);
    place.fails(wrong, 2, &["--points", "1024"]);
}
