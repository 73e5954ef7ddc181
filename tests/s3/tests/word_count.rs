//! A result that three processes save in a bucket, one of which is killed: it is what one process saves.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use distdl_s3_tests::Server;

const TEXTS: [&str; 2] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/design.md"),
];

/// Saves the counts under this name in the bucket. Returns all that is there then but the mark of success, hidden files
/// too, and what was said meanwhile.
fn save(server: &Server, name: &str, flags: &[&str]) -> (BTreeMap<String, Vec<u8>>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_word-count-s3"))
        .envs(server.variables("secret"))
        .env("XDG_RUNTIME_DIR", server.beside())
        .args(TEXTS)
        .args(["--threads=1", "--save-to", &format!("{}/data/{name}", server.root())])
        .args(flags)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{flags:?}: {errors}");
    let mut files = files(&server.object(name));
    assert!(files.remove("_SUCCESS").is_some(), "{flags:?}");
    (files, errors.into_owned())
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap();
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    };
    entries.map(file).collect()
}

#[test]
fn processes_that_are_killed_at_a_report_save_what_one_saves() {
    let server = Server::start();
    let (expected, _) = save(&server, "alone", &[]);
    assert!(expected.len() == 8 && expected.values().all(|part| !part.is_empty()));
    assert_eq!(save(&server, "together", &["--processes=3"]).0, expected);
    // The reports of a process: what an action comes to, and what it does itself on the way.
    let mut deaths = 0;
    for report in (1..24).step_by(2) {
        let chaos = format!("--chaos=kill=worker:1@report:{report}");
        let (found, said) = save(&server, &format!("killed-{report}"), &["--processes=3", &chaos]);
        assert_eq!(found, expected, "{chaos}");
        deaths += u32::from(!said.contains("has not happened"));
    }
    println!("{deaths} deaths");
    assert!(deaths >= 5, "{deaths} deaths");
}

#[test]
fn processes_do_not_save_over_what_is_there() {
    let server = Server::start();
    let (expected, _) = save(&server, "out", &[]);
    let output = Command::new(env!("CARGO_BIN_EXE_word-count-s3"))
        .envs(server.variables("secret"))
        .env("XDG_RUNTIME_DIR", server.beside())
        .args(TEXTS)
        .args(["--threads=1", "--processes=3", "--save-to=s3://bucket/data/out"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && errors.contains("exists already"),
        "{errors}"
    );
    let mut found = files(&server.object("out"));
    found.remove("_SUCCESS");
    assert_eq!(found, expected);
}
