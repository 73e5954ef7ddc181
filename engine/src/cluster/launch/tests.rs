//! Who is told what.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;

use rustix::io::Errno;

use super::*;
use crate::cluster::identity::Role;

fn config(processes: usize, parameter_workers: usize) -> Config {
    Config::default()
        .with_processes(processes)
        .with_parameter_workers(parameter_workers)
}

fn variable<'a>(recipe: &'a Recipe, name: &str) -> &'a str {
    let found = recipe.variables.iter().rfind(|(other, _)| other == name);
    found.unwrap().1.to_str().unwrap()
}

fn join_of(recipe: &Recipe) -> Join {
    Join::from_text(variable(recipe, JOIN_VARIABLE)).unwrap()
}

#[test]
fn a_program_starts_itself_with_its_arguments() {
    let options = NameNodeOptions::for_this_program(config(3, 1)).unwrap();
    let recipe_for = options.recipe_for.unwrap();
    let address = Address::Local("here".to_owned());
    let recipe = recipe_for(&address, 2, 4);
    assert_eq!(recipe.program, std::env::current_exe().unwrap());
    assert_eq!(recipe.arguments, std::env::args_os().skip(1).collect::<Vec<_>>());
    let join = join_of(&recipe);
    assert_eq!((join.name_node, join.secrets), (address.clone(), options.secrets));
    assert_eq!((join.slot, join.life, join.role), (Some(2), 4, Role::Parameter));
    assert_eq!(join.parent, Some(std::process::id()));
    let spare = join_of(&recipe_for(&address, 3, 0));
    assert_eq!((spare.slot, spare.life, spare.role), (Some(3), 1, Role::Worker));
}

#[test]
fn faults_that_cannot_happen_are_refused_before_anything_starts() {
    for (chaos, words) in [
        ("kill=worker:3@step:1", "raise `processes`"),
        ("burn=name", "`cut=1-2@step:12`"),
    ] {
        let error = NameNodeOptions::for_this_program(config(3, 1).with_chaos(chaos))
            .unwrap_err()
            .to_string();
        assert!(error.contains(chaos) && error.contains(words), "{error}");
    }
}

fn remote() -> Remote {
    Remote {
        shell: "ssh".into(),
        distdl: "distdl".into(),
        folder: "/".into(),
        variables: vec![
            ("DISTDL_SEED".into(), "7".into()),
            ("DISTDL_PROCESSES".into(), "3".into()),
        ],
        program: vec!["program".into(), "argument".into()],
    }
}

#[test]
fn other_hosts_are_reached_by_the_remote_shell_and_this_one_is_not() {
    let hosts = Hosts::parse("hosts", "localhost\nnode-7 slots=2 role=parameter").unwrap();
    let listen = Some("10.0.0.1:80".parse().unwrap());
    let options = NameNodeOptions::for_hosts(config(3, 2), hosts, remote(), listen).unwrap();
    let recipe_for = options.recipe_for.unwrap();
    let own = recipe_for(&options.listen, 0, 0);
    assert_eq!(
        (own.program.clone(), own.arguments.clone()),
        ("program".into(), vec!["argument".into()])
    );
    assert_eq!(
        (variable(&own, "DISTDL_SEED"), variable(&own, "DISTDL_PROCESSES")),
        ("7", "1")
    );
    assert_eq!(join_of(&own).secrets, options.secrets);

    let other = recipe_for(&options.listen, 1, 5);
    assert_eq!(
        (other.program, other.arguments[0].clone()),
        ("ssh".into(), "node-7".into())
    );
    let command = other.arguments[1].to_str().unwrap();
    for word in [
        "--name=10.0.0.1:80",
        "--slot=1",
        "--life=5",
        "--role=parameter",
        "DISTDL_PROCESSES=2",
    ] {
        assert!(command.contains(&format!("'{word}'")), "`{word}` is not in: {command}");
    }
    assert_eq!(Secrets::derived_from(other.input.trim_ascii()), options.secrets);
}

#[test]
fn other_hosts_need_an_address_of_this_one() {
    let with = |text: &str, listen: Option<&str>| {
        let hosts = Hosts::parse("hosts", text).unwrap();
        let listen = listen.map(|listen| listen.parse().unwrap());
        NameNodeOptions::for_hosts(config(2, 0), hosts, remote(), listen)
    };
    assert!(with("localhost slots=2", None).is_ok());
    assert!(with("localhost\nnode-7", Some("127.0.0.1:0")).is_ok());
    let error = with("localhost\nnode-7", None).unwrap_err().to_string();
    assert!(error.contains("`--listen ADDRESS:0`"), "{error}");
    let error = with("localhost\nnode-7", Some("0.0.0.0:0")).unwrap_err().to_string();
    assert!(error.contains("0.0.0.0 is none"), "{error}");
}

#[test]
fn who_can_be_reached_from_other_hosts_needs_a_token() {
    for addresses in [["10.0.0.1", "127.0.0.1"], ["127.0.0.1", "0.0.0.0"]] {
        let secrets = |file| secrets_for(addresses.map(|address| address.parse().unwrap()).into_iter(), file);
        let error = secrets(None).unwrap_err().to_string();
        assert!(error.contains("--token-file") && error.contains("16 bytes"), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = secrets(Some(file.path())).unwrap_err().to_string();
        assert!(error.contains("has 0 bytes"), "{error}");
        std::fs::write(file.path(), "sixteen letters!").unwrap();
        let secrets = secrets(Some(file.path())).unwrap();
        assert_eq!(secrets, Secrets::derived_from(b"sixteen letters!"));
    }
}

#[test]
fn a_name_node_that_comes_to_a_limit_says_which_to_raise() {
    let [files, threads, taken] = [Errno::MFILE, Errno::AGAIN, Errno::ADDRINUSE].map(Errno::raw_os_error);
    let start = |code| LaunchError::Start(io::Error::from_raw_os_error(code)).to_string();
    assert!(
        start(files).ends_with("; raise the limit of open files (`ulimit -n`)"),
        "{}",
        start(files)
    );
    assert!(start(threads).contains("`ulimit -u`"), "{}", start(threads));
    let listen = |code| {
        let (address, source) = (Address::Local("x".into()), io::Error::from_raw_os_error(code));
        LaunchError::Listen { address, source }.to_string()
    };
    assert!(listen(files).contains("`ulimit -n`"), "{}", listen(files));
    assert!(listen(taken).contains("`--listen`"), "{}", listen(taken));
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = become_program(&["/missing/program".into()], Vec::new(), None).to_string();
    assert!(
        error.contains("/missing/program") && error.contains("check the path"),
        "{error}"
    );
    // This process goes on, and outlives whoever reads from it.
    let (reader, mut writer) = io::pipe().unwrap();
    drop(reader);
    assert_eq!(writer.write_all(b"?").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
