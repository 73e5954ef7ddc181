//! Bad input, a full disk, a diverging loss: one message, and nothing half-written.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::workplace::{DISTDL, MNIST, TRAIN, Workplace, example, idx, images, labels, succeeds, text};

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
fn a_cut_gzip_file_is_named() {
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
            "cannot be decompressed: it ends too early",
            "fetch it again",
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
            "data/train-labels-idx1-ubyte.gz: there is no such file",
            "check its name",
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
    place.write(
        "distdl.toml",
        b"threads = 3\nspill_folder = \"spill\"\ncache = \"kept\"\nseed = 5\n",
    );
    let mut command = place.command(program, &["config", "--seed=6"]);
    command.env("DISTDL_MEMORY", "1MiB");
    let shown = succeeds(command);
    for line in [
        "threads = 3",
        "memory = 1048576",
        "spill_folder = \"spill\"",
        "cache = \"kept\"",
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

/// As that of a program whose log is on a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_standard_error_that_takes_nothing_changes_no_answer() {
    let place = Workplace::new();
    let full = |mut command: Command| {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        command.stderr(full).output().unwrap()
    };
    let hash = |output: &Output| {
        let lines = text(&output.stdout);
        let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        last["parameters_hash"].clone()
    };
    let undisturbed = place.mnist(&[]).output().unwrap();
    let kill = ["--processes=2", "--chaos=kill=worker:1@step:5"];
    for arguments in [&[][..], &kill[..]] {
        let mut command = place.mnist(arguments);
        command.env("DISTDL_LOG", "debug");
        let output = full(command);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(hash(&output), hash(&undisturbed), "{arguments:?}");
    }
    for arguments in [&["--lanes=0"][..], &["--lanes=0", "--processes=2"]] {
        let output = full(place.mnist(arguments));
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    }
    let config = full(place.command(Path::new(DISTDL), &["--config=missing.toml", "config"]));
    assert_eq!(config.status.code(), Some(1));
}

/// Whatever the limits of a shell leave of open files, and of the length of a file.
#[cfg(target_os = "linux")]
#[test]
fn limits_of_the_system_leave_the_answer_or_one_error_and_nothing_behind() {
    let place = Workplace::new();
    let words: String = (0..20_000).map(|word| format!("word{word}\n")).collect();
    place.write("words.txt", words.as_bytes());
    std::fs::create_dir(place.path("temporary")).unwrap();
    let before = place.content();
    let program = example("word_count");
    let limited = |limit: &str| {
        let script = format!("trap '' XFSZ; {limit} exec \"$@\"");
        let counted = ["words.txt", "--memory=256KiB", "--threads=2", "--save-to=counts"];
        let shell = ["-c", &script, "sh", program.to_str().unwrap()];
        let mut command = place.command(Path::new("sh"), &[&shell[..], &counted].concat());
        command.env("TMPDIR", place.path("temporary"));
        let output = command.output().unwrap();
        let after = place.content();
        if output.status.success() {
            std::fs::remove_dir_all(place.path("counts")).unwrap();
        }
        assert!(place.content() == before, "{limit}: files have changed");
        (output, after)
    };
    let (whole, files) = limited("");
    assert!(whole.status.success(), "{}", text(&whole.stderr));
    // Fewer do not suffice for the loader of programs if whoever runs this has left some open.
    let open_files = (8..19).map(|count| (format!("ulimit -n {count};"), "ulimit -n"));
    let lengths = [0, 8, 64].map(|blocks| (format!("ulimit -f {blocks};"), "ulimit -f"));
    let mut failed = 0;
    for (limit, remedy) in open_files.chain(lengths) {
        let (output, after) = limited(&limit);
        let message = text(&output.stderr);
        if output.status.success() {
            assert!(output.stdout == whole.stdout && after == files, "{limit} {message}");
            continue;
        }
        failed += 1;
        assert_eq!(output.status.code(), Some(1), "{limit} {message}");
        assert_eq!(message.matches("error:").count(), 1, "{limit} {message}");
        assert!(
            message.contains(remedy) && !message.contains("panicked"),
            "{limit} {message}"
        );
    }
    assert!(failed > 2, "the limits limit nothing");
}
