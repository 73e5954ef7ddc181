//! The example that trains on rows of one's own.

use serde_json::Value;

use crate::workplace::{Workplace, example, text};

fn lines_of(place: &Workplace, folder: &str) -> usize {
    let parts = std::fs::read_dir(place.path(folder)).unwrap();
    let texts = parts.map(|part| std::fs::read_to_string(part.unwrap().path()).unwrap());
    texts.map(|text| text.lines().count()).sum()
}

#[test]
fn spirals_are_told_apart_by_any_number_of_processes_again_and_again() {
    let place = Workplace::new();
    let run = |more: &[&str]| -> Vec<Value> {
        let arguments = [&["--output=out", "--epochs=60", "--json", "--threads=1"], more].concat();
        let output = place.command(&example("classifier"), &arguments).output().unwrap();
        let told = text(&output.stderr);
        assert!(output.status.success(), "{told}");
        assert_eq!(
            told.contains("lost member"),
            more.iter().any(|flag| flag.contains("kill")),
            "{told}"
        );
        let printed = text(&output.stdout);
        printed
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let alone = run(&[]);
    let right = |line: &Value| line["validation_accuracy"].as_f64().unwrap();
    assert!(right(alone.last().unwrap()) > 0.95, "{alone:?}");
    assert!(alone.len() > 10 && right(&alone[0]) < 0.9, "{alone:?}");
    let model = std::fs::read(place.path("out/model.safetensors")).unwrap();
    let predictions = lines_of(&place, "out/predictions");
    assert!(
        (400..800).contains(&predictions),
        "a fifth of 3000, and not {predictions}"
    );
    // A folder that is there is replaced once, whichever process dies.
    let together = run(&["--processes=3", "--chaos=kill=worker:1@step:300"]);
    assert_eq!(together, alone);
    assert_eq!(std::fs::read(place.path("out/model.safetensors")).unwrap(), model);
    assert_eq!(lines_of(&place, "out/predictions"), predictions);
}

#[test]
fn rows_that_are_none_are_named() {
    let place = Workplace::new();
    std::fs::create_dir(place.path("out")).unwrap();
    let refused = |rows: &str, words: &[&str]| {
        place.write("rows.csv", rows.as_bytes());
        let command = place.command(
            &example("classifier"),
            &["--data=rows.csv", "--output=out", "--lanes=1"],
        );
        place.fails(command, 1, words);
    };
    refused("class,a,b\n", &["the file has no rows"]);
    refused(
        "class,a,b\n0,1,2\n1,1,none\n",
        &["rows.csv", "column `b` has \"none\": invalid float"],
    );
    refused(
        "class,a,b\n0,1,2\n1,1\n",
        &["rows.csv", "2 fields, but the first record of the file has 3"],
    );
    let nan = (0..60).map(|row| format!("{},1,NaN\n", row % 2)).collect::<String>();
    refused(&format!("class,a,b\n{nan}"), &["partition 0 has NaN as feature 1"]);
}
