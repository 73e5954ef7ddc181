//! A folder with tiny data in which programs run, and what is asked of their ends.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A folder with a tiny data set in the files of MNIST, in which programs run.
pub(crate) struct Workplace(tempfile::TempDir);

pub(crate) const TRAIN: usize = 48;
pub(crate) const TEST: usize = 20;

impl Workplace {
    pub(crate) fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.path("data")).unwrap();
        for (set, count) in [("train", TRAIN), ("t10k", TEST)] {
            place.write(&format!("data/{set}-images-idx3-ubyte"), &images(count));
            place.write(&format!("data/{set}-labels-idx1-ubyte"), &labels(count));
        }
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Every file and folder below, with its content.
    pub(crate) fn content(&self) -> BTreeSet<(PathBuf, Vec<u8>)> {
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

    pub(crate) fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.0.path()).args(arguments);
        // Where the secret of processes that are started by hand is.
        command.env("XDG_RUNTIME_DIR", self.0.path());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DISTDL_")) {
            command.env_remove(name);
        }
        command
    }

    /// The example `mnist` with `arguments`, and what is usual for the flags that they do not name.
    pub(crate) fn mnist(&self, arguments: &[&str]) -> Command {
        let name = |argument: &str| argument.split('=').next().map(str::to_owned);
        let usual = MNIST
            .iter()
            .copied()
            .filter(|usual| !arguments.iter().any(|argument| name(argument) == name(usual)));
        let all: Vec<&str> = usual.chain(arguments.iter().copied()).collect();
        self.command(&example("mnist"), &all)
    }

    /// Runs a command that must fail with `code`, print nothing else, and change no file; its message must have
    /// `words`.
    #[track_caller]
    pub(crate) fn fails(&self, mut command: Command, code: i32, words: &[&str]) {
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
    pub(crate) fn mnist_fails(&self, arguments: &[&str], words: &[&str]) {
        let command = self.mnist(&[&["--model-out=model.safetensors"], arguments].concat());
        self.fails(command, 1, words);
    }
}

pub(crate) const MNIST: &[&str] = &[
    "--data=data",
    "--hidden=6",
    "--batch=8",
    "--epochs=3",
    "--learning-rate=0.1",
    "--json",
];
pub(crate) const DISTDL: &str = env!("CARGO_BIN_EXE_distdl");

pub(crate) fn example(name: &str) -> PathBuf {
    let program = Path::new(DISTDL).parent().unwrap().join("examples").join(name);
    let program = program.with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        program.exists(),
        "no {}; run `cargo build --examples`",
        program.display()
    );
    program
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
pub(crate) fn succeeds(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    text(&output.stdout)
}

#[track_caller]
pub(crate) fn json_lines(command: Command) -> Vec<Value> {
    succeeds(command)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub(crate) fn idx(magic: u32, sides: &[usize], elements: &[u8]) -> Vec<u8> {
    let words = std::iter::once(magic).chain(sides.iter().map(|side| *side as u32));
    words
        .flat_map(u32::to_be_bytes)
        .chain(elements.iter().copied())
        .collect()
}

/// Images of class `n % 10` with rows of their own lit, so that a network can tell them apart.
pub(crate) fn images(count: usize) -> Vec<u8> {
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

pub(crate) fn labels(count: usize) -> Vec<u8> {
    idx(
        0x0801,
        &[count],
        &(0..count).map(|index| (index % 10) as u8).collect::<Vec<u8>>(),
    )
}
