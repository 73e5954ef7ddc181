//! What the programs print when all is well.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::workplace::{DISTDL, TEST, Workplace, example, json_lines, succeeds, text};

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
        "loading_seconds",
        "parameters_hash",
        "bytes_by_source",
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
        assert!(line["loading_seconds"].as_f64().unwrap() > 0.0);
        assert!((0.0..=1.0).contains(&line["test_accuracy"].as_f64().unwrap()));
        assert_eq!(line["parameters_hash"].as_str().unwrap().len(), 64);
    }
    assert!(lines[2]["train_loss"].as_f64() < lines[0]["train_loss"].as_f64());
    let source = |line: usize, name: &str| lines[line]["bytes_by_source"][name].as_u64().unwrap();
    assert_eq!((source(2, "remote"), source(2, "cache"), source(2, "disk")), (0, 0, 0));
    assert!(
        source(2, "memory") > source(0, "memory"),
        "the test set is read from memory"
    );
}

#[test]
fn what_happens_is_told_as_far_as_the_configuration_says() {
    let place = Workplace::new();
    for (log, tells) in [("info", true), ("warn", false), ("off", false)] {
        let mut command = place.mnist(&["--gpu=off", "--epochs=1"]);
        let output = command.env("DISTDL_LOG", log).output().unwrap();
        let told = text(&output.stderr);
        assert!(output.status.success(), "{told}");
        assert_eq!(
            told.contains("INFO") && told.contains("CPU computes"),
            tells,
            "{log}: {told}"
        );
    }
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

    let url = format!("file://{}", place.path("model.safetensors").display());
    let right_at_url = succeeds(place.command(program, &["evaluate", &url, "--data=data", "--hidden=6"]));
    assert_eq!(right_at_url, right);

    let other = place.command(program, &[&evaluate[..], &["--hidden=7"]].concat());
    place.fails(
        other,
        1,
        &["model file model.safetensors", "has shape [6, 784], expected [7, 784]"],
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
    assert_eq!(first, &json!({ "word": "the", "count": 3 }));
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
    assert_eq!(ranks.len(), expected.len());
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
fn words_are_found_in_their_files() {
    let place = Workplace::new();
    place.write("a.txt", b"the dog and the cat\n");
    place.write("b.txt", b"The bird, and\nno dog.\n");
    let program = example("inverted_index");
    let shown = succeeds(place.command(&program, &["--files=*.txt", "The", "bird", "wolf"]));
    let shown: Vec<&str> = shown.lines().map(str::trim).collect();
    assert_eq!(
        shown,
        [
            "The: 2 files",
            "2  a.txt",
            "1  b.txt",
            "bird: 1 files",
            "1  b.txt",
            "wolf: 0 files"
        ]
    );
    let most = json_lines(place.command(&program, &["--files=*.txt", "--json", "--processes=2"]));
    assert_eq!(most.len(), 6);
    assert_eq!(most[0], json!({ "word": "the", "files": ["a.txt", "b.txt"] }));
    place.fails(
        place.command(&program, &["--files=missing-*.txt"]),
        1,
        &["missing-*.txt"],
    );
}

#[test]
fn centres_are_found() {
    let place = Workplace::new();
    let program = example("k_means");
    let find = |threads| json_lines(place.command(&program, &["--points=3000", "--clusters=3", "--json", threads]));
    let found = find("--threads=1").remove(0);
    let sides = [(-5.0, -8.66), (-5.0, 8.66), (10.0, 0.0)];
    let mut centres: Vec<(f64, f64)> = found["centres"]
        .as_array()
        .unwrap()
        .iter()
        .map(|centre| (centre[0].as_f64().unwrap(), centre[1].as_f64().unwrap()))
        .collect();
    centres.sort_by(|left, right| {
        left.0
            .round()
            .total_cmp(&right.0.round())
            .then(left.1.total_cmp(&right.1))
    });
    assert_eq!(centres.len(), sides.len());
    for ((x, y), (true_x, true_y)) in centres.into_iter().zip(sides) {
        assert!((x - true_x).abs() < 0.2 && (y - true_y).abs() < 0.2, "{found}");
    }
    // Two coordinates that are even between -1 and 1.
    assert!(
        (found["mean_squared_distance"].as_f64().unwrap() - 2.0 / 3.0).abs() < 0.05,
        "{found}"
    );
    assert_eq!(find("--threads=3"), [found]);
}

#[test]
fn components_are_found() {
    let place = Workplace::new();
    place.write("links.txt", b"# who knows whom\n1 2\n\n3 2\n7\t8\n4  3\n9 9\n");
    let program = example("connected_components");
    let found = json_lines(place.command(&program, &["links.txt", "--json"]));
    let largest = [(4, 1), (2, 7), (1, 9)];
    let expected = json!({ "components": 3, "nodes": 7, "rounds": 2, "largest": largest });
    assert_eq!(found, [expected]);
    let generated = |threads| succeeds(place.command(&program, &["--nodes=300", "--edges=200", threads, "--json"]));
    assert_eq!(generated("--threads=1"), generated("--processes=3"));
    place.fails(place.command(&program, &["links.txt", "--rounds=0"]), 1, &["--rounds"]);
    for (text, words) in [
        (&b"1 2\n\n2 three\n"[..], "links.txt, line 3: `2 three`"),
        (b"1 2 3\n", "links.txt, line 1: `1 2 3`"),
        (b"1\n", "links.txt, line 1: `1`"),
    ] {
        place.write("links.txt", text);
        let command = place.command(&program, &["links.txt"]);
        place.fails(command, 1, &[words, "two whole numbers"]);
    }
}

#[test]
fn images_are_drawn_again() {
    let place = Workplace::new();
    let draw = |shape| {
        let arguments = ["--data=data", "--code=4", "--batch=8", "--epochs=3", "--json", shape];
        let mut lines = json_lines(place.command(&example("autoencoder"), &arguments));
        lines
            .iter_mut()
            .for_each(|line| drop(line["samples_per_second"].take()));
        lines
    };
    let lines = draw("--threads=1");
    assert_eq!(lines.len(), 3);
    for loss in ["train_loss", "test_loss"] {
        assert!(lines[2][loss].as_f64() < lines[0][loss].as_f64());
    }
    assert_eq!(draw("--processes=2"), lines);
    // A step of this size makes nothing better.
    let arguments = [
        "--data=data",
        "--code=4",
        "--batch=8",
        "--epochs=9",
        "--json",
        "--learning-rate=0",
        "--patience=2",
    ];
    let epochs = json_lines(place.command(&example("autoencoder"), &arguments));
    assert_eq!(epochs.len(), 3, "the first one, and two in vain");
}

#[test]
fn lanes_need_not_wait_for_each_other() {
    let place = Workplace::new();
    let train = |staleness: &str, shape: &str| {
        let staleness = format!("--staleness={staleness}");
        let arguments = ["--data=data", "--batch=8", "--epochs=2", "--json", &staleness, shape];
        let output = place.command(&example("staleness"), &arguments).output().unwrap();
        let lines = |bytes: &[u8]| -> Vec<Value> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let workers = lines(&output.stderr);
        assert!(
            workers.iter().all(|worker| worker["lane_steps"].is_u64()),
            "{workers:?}"
        );
        let epochs = lines(&output.stdout);
        assert_eq!(epochs.len(), 2);
        (epochs[1]["parameters_hash"].as_str().unwrap().to_owned(), workers.len())
    };
    let (lagging, workers) = train("fixed_lag:2", "--threads=2");
    assert_eq!(workers, 2);
    assert_eq!(train("fixed_lag:2", "--processes=2").0, lagging);
    assert_eq!(train("fixed_lag:2", "--chaos=slow=thread:0@times:2").0, lagging);
    assert_ne!(train("synchronous", "--threads=2").0, lagging);
    train("asynchronous", "--processes=2");
    let wrong = place.command(&example("staleness"), &["--staleness=lag"]);
    place.fails(wrong, 2, &["`lag`", "bounded:3"]);
    let arguments = [
        "--data=data",
        "--batch=8",
        "--threads=2",
        "--chaos=slow=thread:2@times:3",
    ];
    let nobody = place.command(&example("staleness"), &arguments);
    place.fails(nobody, 1, &["thread 2", "of 2 threads"]);
}

#[test]
fn a_training_in_halves_is_that_of_a_whole() {
    let place = Workplace::new();
    let arguments = ["--data=data", "--batch=8", "--steps=9", "--checkpoints=halves"];
    let said = succeeds(place.command(&example("resume"), &arguments));
    assert!(said.contains("stopped at step 4\ngoes on at step 4\n"), "{said}");
    let again = succeeds(place.command(&example("resume"), &arguments));
    assert!(again.contains("goes on at step 9"));
    let lines = json_lines(place.command(&example("resume"), &[&arguments[..], &["--json"]].concat()));
    assert_eq!(
        lines[..2],
        [json!({ "stopped_at_step": 9 }), json!({ "goes_on_at_step": 9 })]
    );
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[2]["undisturbed"], lines[2]["in_halves"]);
    assert!(again.contains(lines[2]["in_halves"].as_str().unwrap()), "{again}");
    place.fails(place.command(&example("resume"), &["--steps=1"]), 2, &["--steps"]);
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

#[test]
fn near_duplicates_looks_at_each_file_once_in_all_runs_and_processes() {
    let place = Workplace::new();
    let text = |file: usize| {
        (0..60)
            .map(|word| format!("w{} ", word * file % 17))
            .collect::<String>()
    };
    for file in 1..=9 {
        place.write(&format!("text-{file}.txt"), text(file).as_bytes());
    }
    let run = |cache: &str, arguments: &[&str]| {
        let all = [&["text-*.txt", cache, "--json"], arguments].concat();
        let mut lines = json_lines(place.command(&example("near_duplicates"), &all));
        let figures = lines.pop().unwrap();
        let figure = |name: &str| figures[name].as_u64().unwrap();
        (lines, figure("files"), figure("computed"))
    };
    let (lines, files, computed) = run("--cache=one", &["--processes=3"]);
    assert_eq!((lines.len(), files, computed), (5, 9, 9));
    for arguments in [&["--processes=2"], &["--threads=1"]] {
        assert_eq!(run("--cache=one", arguments), (lines.clone(), 9, 0), "{arguments:?}");
    }
    place.write("text-4.txt", b"one that has nothing in common with any other of them");
    let (changed, _, computed) = run("--cache=one", &["--processes=3"]);
    assert_eq!(computed, 1);
    assert_eq!(run("--cache=third", &[]), (changed, 9, 9));
}

#[test]
fn short_texts_are_alike_only_where_they_are_the_same() {
    let place = Workplace::new();
    for (file, text) in [("a", "one two"), ("b", "three"), ("c", "two  one"), ("d", "one\ntwo")] {
        place.write(&format!("{file}.txt"), text.as_bytes());
    }
    let arguments = ["*.txt", "--cache=cache", "--json", "--top=6"];
    let lines = json_lines(place.command(&example("near_duplicates"), &arguments));
    assert_eq!(lines.len(), 7);
    assert_eq!(lines[0], json!({ "percent": 100, "files": ["a.txt", "d.txt"] }));
    assert!(lines[1..6].iter().all(|pair| pair["percent"] == 0), "{lines:?}");
}

#[test]
fn training_goes_on_from_changed_data_and_says_what_changed() {
    let place = Workplace::new();
    let live = |arguments: &[&str]| {
        let usual = ["--data=data", "--first=40", "--changes=1"];
        let output = place
            .command(&example("live"), &[&usual, arguments].concat())
            // Processes that are killed leave their temporary folders behind.
            .env("TMPDIR", place.path(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let printed = live(&["--threads=1"]);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 6, "{printed}");
    assert!(lines[0].starts_with("8 partitions gathered, "), "{printed}");
    assert!(lines[2].starts_with("2 samples changed: "), "{printed}");
    let (partitions, _) = lines[2].split_once(']').unwrap();
    let partitions = partitions.split_once('[').unwrap().1.split(", ").count();
    assert!((1..=2).contains(&partitions), "{printed}");
    let gathered = format!("{} partitions gathered, ", 8 + partitions);
    assert!(lines[4].starts_with(&gathered), "{printed}");
    assert!(!lines[3].starts_with("0 of "), "{printed}");
    let counted = |line: &str| {
        let (_, counts) = line.split_once('[').unwrap();
        let counts = counts.split(']').next().unwrap().split(", ");
        counts.map(|count| count.parse::<u64>().unwrap()).sum::<u64>()
    };
    assert_eq!((counted(lines[1]), counted(lines[5])), (40, 40), "{printed}");

    // Live records are made again by a process that takes a dead one's place.
    let killed = live(&["--processes=3", "--chaos=kill=worker:1@step:3,kill=worker:2@step:8"]);
    assert_eq!(killed, printed);
    // Nothing that was gathered for the same samples in another run is gathered again.
    let again = live(&["--threads=2", "--cache=cache"]);
    assert_eq!(again, printed);
    let again = live(&["--threads=2", "--cache=cache"]);
    assert!(again.starts_with("0 partitions gathered, "), "{again}");
    let rest = |text: &str| {
        text.lines()
            .map(|line| line.split("gathered").last().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(rest(&again), rest(&printed));
}

#[test]
fn changed_data_is_told_to_programs_as_well() {
    let arguments = ["--data=data", "--first=40", "--changes=1", "--threads=2", "--json"];
    let lines = json_lines(Workplace::new().command(&example("live"), &arguments));
    let [before, change, after] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert_eq!(before["partitions_gathered"], 8);
    assert_eq!(change["samples_changed"], 2);
    let partitions = change["partitions_changed"].as_array().unwrap().len();
    assert!((1..=2).contains(&partitions), "{change}");
    assert_eq!(after["partitions_gathered"], 8 + partitions);
    assert!(
        change["batches_changed"].as_u64() <= change["batches"].as_u64(),
        "{change}"
    );
    assert_ne!(before["parameters_hash"], after["parameters_hash"]);
    for line in [before, after] {
        let counts = line["samples_of_each_digit"].as_array().unwrap();
        assert_eq!(counts.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 40);
    }
}

#[test]
fn images_are_told_apart_by_convolutions() {
    let place = Workplace::new();
    let arguments = ["--data=data", "--batch=8", "--epochs=2", "--json", "--threads=2"];
    let lines = json_lines(place.command(&example("lenet"), &arguments));
    assert_eq!(lines.len(), 2);
    assert!(lines[1]["train_loss"].as_f64() < lines[0]["train_loss"].as_f64());
    assert_eq!(lines[1]["step"], 12);
}

#[test]
fn a_training_survives_to_the_same_model() {
    let place = Workplace::new();
    let survive = |arguments: &[&str]| {
        let usual = ["--data=data", "--batch=8", "--epochs=3"];
        let command = &mut place.command(&example("survive"), &[&usual, arguments].concat());
        let output = command.output().unwrap();
        let errors = text(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert!(errors.contains("kill=worker:1@step:9"), "{errors}");
        text(&output.stdout)
    };
    let told = survive(&[]);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[2], "the same model, bit for bit");
    assert_eq!(lines[0], lines[1]);
    // The seed is for both trainings.
    let told = survive(&["--json", "--processes=2", "--seed=1"]);
    let objects: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let hash = &objects[0]["parameters_hash"];
    let survived = json!({ "processes": 2, "chaos": "kill=worker:1@step:9", "parameters_hash": hash });
    assert_eq!(objects, [json!({ "processes": 1, "parameters_hash": hash }), survived]);
    assert_ne!(hash, lines[0]);
}
