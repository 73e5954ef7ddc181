//! How clusters begin: what is refused, and what a started program is told.

use std::path::Path;

use crate::workplace::{DISTDL, Workplace, succeeds, text};

fn distdl(place: &Workplace, arguments: &[&str]) -> std::process::Command {
    place.command(Path::new(DISTDL), arguments)
}

const SHOW: &str = "echo $DISTDL_PROCESSES $DISTDL_SEED $DISTDL_THREADS; echo ${DISTDL_JOIN:+joins}";

#[test]
fn launch_on_one_host_is_the_program_with_its_settings() {
    let place = Workplace::new();
    place.write("settings.toml", b"seed = 5\nthreads = 9\n");
    let arguments = [
        "launch",
        "--processes=3",
        "--threads=2",
        "--config=settings.toml",
        "--",
        "sh",
        "-c",
        SHOW,
    ];
    let mut command = distdl(&place, &arguments);
    command.env("DISTDL_JOIN", "of another cluster");
    assert_eq!(succeeds(command), "3 5 2\n\n");
    let mut command = distdl(&place, &arguments);
    command.env("DISTDL_SEED", "6");
    assert_eq!(succeeds(command), "3 6 2\n\n");
}

#[test]
fn a_worker_becomes_the_program_and_is_told_its_cluster() {
    let place = Workplace::new();
    let worker = [
        "worker",
        "--name=127.0.0.1:9",
        "--slot=1",
        "--role=parameter",
        "--seed=7",
        "--",
        "sh",
        "-c",
        SHOW,
    ];
    assert_eq!(succeeds(distdl(&place, &worker)), "7\njoins\n");
}

#[test]
fn launches_that_make_no_sense_are_refused() {
    let place = Workplace::new();
    place.write("hosts", b"localhost\nnode-7 slots=0\n");
    place.write("far", b"localhost\nnode-7\n");
    place.write("short", b"short\n");
    let cases: [(i32, &[&str], &[&str]); 13] = [
        (
            1,
            &["launch", "--processes=2", "--parameter-workers=2", "--", "true"],
            &["lower `parameter_workers`"],
        ),
        (
            1,
            &["launch", "--", "/missing/program"],
            &["/missing/program", "check the path"],
        ),
        (2, &["launch", "--processes=2"], &["<PROGRAM>"]),
        (
            2,
            &["launch", "--hosts=hosts", "--processes=2", "--", "true"],
            &["cannot be used with"],
        ),
        (
            1,
            &["launch", "--hosts=missing", "--", "true"],
            &["the file of hosts missing", "--hosts"],
        ),
        (
            1,
            &["launch", "--hosts=hosts", "--", "true"],
            &["hosts, line 2: `slots=0`"],
        ),
        (1, &["launch", "--hosts=far", "--", "true"], &["--listen ADDRESS:0"]),
        (
            1,
            &["name", "--listen=0.0.0.0:0", "--folder=f"],
            &["0.0.0.0", "--token-file FILE", "16 bytes"],
        ),
        (
            1,
            &["name", "--listen=127.0.0.1", "--folder=f"],
            &["cannot listen at 127.0.0.1", "--listen HOST:PORT"],
        ),
        (
            1,
            &["worker", "--name=192.0.2.1:9", "--", "true"],
            &["192.0.2.1", "DISTDL_TOKEN_FILE"],
        ),
        (
            1,
            &["worker", "--name=127.0.0.1:9", "--bind=0.0.0.0", "--", "true"],
            &["0.0.0.0", "--token-file"],
        ),
        (
            1,
            &["worker", "--name=127.0.0.1:9", "--token-file=short", "--", "true"],
            &["token file short has 5 bytes"],
        ),
        (
            1,
            &["worker", "--name=127.0.0.1", "--", "true"],
            &["the name node 127.0.0.1", "--name HOST:PORT"],
        ),
    ];
    for (code, arguments, words) in cases {
        place.fails(distdl(&place, arguments), code, words);
    }
}

#[test]
fn variables_of_others_that_are_no_text_do_not_matter_to_a_launch() {
    use std::os::unix::ffi::OsStrExt;
    let place = Workplace::new();
    place.write("far", b"localhost\nnode-7\n");
    let mut command = distdl(&place, &["launch", "--hosts=far", "--", "true"]);
    command.env("OF_OTHERS", std::ffi::OsStr::from_bytes(b"\xff"));
    // What is said of the hosts comes after the variables.
    place.fails(command, 1, &["--listen ADDRESS:0"]);
}

#[test]
fn a_token_comes_from_standard_input_and_is_not_shown() {
    let place = Workplace::new();
    place.write("token", b"sixteen letters!\n");
    let join = |arguments: &[&str]| {
        let all = [
            &["worker", "--name=192.0.2.1:9"],
            arguments,
            &["--", "sh", "-c", "echo $DISTDL_JOIN"],
        ]
        .concat();
        let mut command = distdl(&place, &all);
        command.stdin(std::fs::File::open(place.path("token")).unwrap());
        succeeds(command)
    };
    let joined = join(&["--token-file=-"]);
    assert_eq!(joined, join(&["--token-file=token"]));
    assert!(!joined.contains("sixteen"));
}

#[test]
fn a_config_that_is_shown_for_many_processes_gives_it_again() {
    let place = Workplace::new();
    let flags = [
        "config",
        "--processes=4",
        "--spares=1",
        "--chaos=kill=worker:1@step:3",
        "--lease=70",
        "--events=e",
    ];
    let shown = succeeds(distdl(&place, &flags));
    place.write("shown.toml", shown.as_bytes());
    assert_eq!(succeeds(distdl(&place, &["config", "--config=shown.toml"])), shown);
    let output = distdl(&place, &["config", "--chaos=kill=worker:1@step:3"])
        .output()
        .unwrap();
    assert!(
        text(&output.stderr).contains("leave out `chaos`"),
        "{}",
        text(&output.stderr)
    );
}
