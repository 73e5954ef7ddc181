//! Children end as told, their ends are reported as they were, and their output arrives whole.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::*;
use crate::cluster::identity::{Address, Role};
use crate::cluster::secrets::Secrets;

/// Bytes that can be looked at while they are written.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn shell(script: &str) -> Recipe {
    Recipe {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        variables: Vec::new(),
        input: Vec::new(),
        is_remote: false,
    }
}

#[test]
fn what_is_said_of_a_recipe_has_no_secrets() {
    let recipe = Recipe {
        variables: vec![(JOIN_VARIABLE.into(), "the token".into())],
        input: b"the token".to_vec(),
        ..shell("true")
    };
    let expected = r#"Recipe { program: "/bin/sh", arguments: ["-c", "true"], variables: ["DISTDL_JOIN"], .. }"#;
    assert_eq!(format!("{recipe:?}"), expected);
}

struct Family {
    children: Children,
    ends: Receiver<Exited>,
    output: Arc<Output>,
    printed: Written,
    said: Written,
}

fn family(recipe_for: impl Fn(u32, u32) -> Recipe + Send + 'static) -> Family {
    let (printed, said) = (Written::default(), Written::default());
    let output = Arc::new(Output::new(Box::new(printed.clone()), Box::new(said.clone())));
    let (sender, ends) = channel();
    let children = Children::new(recipe_for, output.clone(), move |end| {
        // A test may have ended.
        let _ = sender.send(end);
    })
    .unwrap();
    Family {
        children,
        ends,
        output,
        printed,
        said,
    }
}

fn join() -> Join {
    Join {
        name_node: Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))),
        secrets: Secrets::derived_from(b"of these tests"),
        slot: Some(0),
        life: 0,
        role: Role::Worker,
        name_node_grace: Duration::ZERO,
        bind: None,
        port: 0,
        advertise: None,
        parent: Some(std::process::id()),
        is_child: true,
    }
}

#[test]
fn each_end_is_reported_as_it_was() {
    let family = family(|slot, life| match (slot, life) {
        (0, 0) => shell("exit 0"),
        (0, _) => shell("exit 3"),
        _ => shell("kill -TERM $$"),
    });
    for (slot, life, success, cause) in [
        (0, 0, true, "exit code 0"),
        (0, 1, false, "exit code 3"),
        (1, 0, false, "killed by signal 15 (SIGTERM)"),
    ] {
        let process = family.children.start(slot).unwrap();
        let cause = cause.to_owned();
        assert_eq!(
            family.ends.recv().unwrap(),
            Exited {
                slot,
                life,
                process,
                is_remote: false,
                success,
                cause
            }
        );
    }
}

#[test]
fn all_that_children_print_arrives_once_before_the_wait_is_over() {
    let family = family(|slot, _| shell(&format!("echo same; echo says {slot} >&2; printf end")));
    for slot in 0..3 {
        family.children.start(slot).unwrap();
    }
    family.children.wait_all();
    family.output.close().unwrap();
    assert_eq!(family.printed.text(), "same\nend");
    let said = family.said.text();
    let mut said: Vec<&str> = said.lines().collect();
    said.sort_unstable();
    assert_eq!(said, ["says 0", "says 1", "says 2"]);
}

#[test]
fn a_child_is_told_where_it_belongs_and_nothing_is_on_its_standard_input() {
    let family = family(|_, _| {
        let arguments = vec!["-c".into(), "echo $DISTDL_JOIN $DISTDL_PROGRESS; cat".into()];
        Recipe::member("/bin/sh", arguments, &join())
    });
    family.children.start(0).unwrap();
    family.children.wait_all();
    assert_eq!(family.printed.text(), format!("{} off\n", join().to_text()));
}

#[test]
fn what_a_recipe_has_for_standard_input_is_there() {
    let family = family(|_, _| Recipe {
        input: b"secret\n".to_vec(),
        ..shell("cat")
    });
    family.children.start(0).unwrap();
    family.children.wait_all();
    assert_eq!(family.printed.text(), "secret\n");
}

/// Hangs until it is killed, and leaves no process of its own behind.
const HANGS: &str = "kill -STOP $$";

#[test]
fn children_are_killed_even_if_they_hang() {
    let family = family(|_, _| shell(HANGS));
    family.children.start(0).unwrap();
    family.children.start(1).unwrap();
    family.children.kill(7);
    family.children.kill(1);
    let end = family.ends.recv().unwrap();
    assert_eq!((end.slot, end.cause.as_str()), (1, ENDED_HERE));

    family.children.start(0).unwrap(); // In the place of one that hangs.
    let end = family.ends.recv().unwrap();
    assert_eq!((end.slot, end.life, end.cause.as_str()), (0, 0, ENDED_HERE));

    family.children.kill_all();
    let end = family.ends.recv().unwrap();
    assert_eq!((end.slot, end.life, end.cause.as_str()), (0, 1, ENDED_HERE));
    assert!(family.children.start(0).unwrap_err().to_string().contains("is ending"));
}

#[test]
fn who_was_killed_by_others_is_not_taken_for_killed_here() {
    let family = family(|_, _| shell("kill -KILL $$"));
    for life in 0..20 {
        let process = family.children.start(0).unwrap();
        let mut end = None;
        // As soon as it ends, and perhaps before it can be waited for.
        while end.is_none() && !is_ending(process) {
            end = family.ends.try_recv().ok();
        }
        family.children.kill(0);
        let end = end.unwrap_or_else(|| family.ends.recv().unwrap());
        assert_eq!((end.life, end.cause.as_str()), (life, "killed by signal 9 (SIGKILL)"));
    }
}

#[test]
fn a_remote_shell_tells_how_its_process_ended_before_it_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    // Open at both ends, so that nobody waits for the other one to open it.
    let pipe = |name: &str| {
        let path = folder.path().join(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let open = std::fs::File::options().read(true).write(true).open(&path);
        (open.unwrap(), path)
    };
    let ((mut is_up, up), (mut goes_on, on)) = (pipe("is up"), pipe("goes on"));
    let ends = format!("echo up > '{}'; read line < '{}'; exit 3", up.display(), on.display());
    let family = family(move |slot, _| Recipe {
        is_remote: true,
        ..shell(if slot == 0 { &ends } else { HANGS })
    });
    family.children.start(0).unwrap();
    is_up.read_exact(&mut [0; 3]).unwrap();
    family.children.kill(0);
    goes_on.write_all(b"on\n").unwrap();
    assert_eq!(family.ends.recv().unwrap().cause, "exit code 3");

    family.children.start(1).unwrap();
    family.children.kill(1);
    let end = family.ends.recv().unwrap();
    assert_eq!(end.cause, format!("its remote shell was {ENDED_HERE}"));
}

#[test]
fn what_a_remote_shell_says_of_an_end_is_not_taken_for_the_end_of_a_process_here() {
    let family = family(|slot, _| Recipe {
        is_remote: true,
        ..shell(["exit 255", "exit 137", "kill -TERM $$"][slot as usize])
    });
    for (slot, cause) in [
        "exit code 255: the remote shell failed, and has said why, or a signal ended the process there",
        "exit code 137",
        "its remote shell was killed by signal 15 (SIGTERM)",
    ]
    .into_iter()
    .enumerate()
    {
        family.children.start(slot as u32).unwrap();
        assert_eq!(family.ends.recv().unwrap().cause, cause);
    }
}

#[test]
fn dropping_ends_all() {
    let Family { children, ends, .. } = family(|_, _| shell(HANGS));
    children.start(0).unwrap();
    drop(children);
    assert_eq!(ends.recv().unwrap().cause, ENDED_HERE);
    assert!(ends.recv().is_err(), "nobody is left to report anything");
}

#[test]
fn a_program_that_is_not_there_is_an_error_and_counts_as_no_life() {
    let family = family(|_, life| {
        if life == 0 {
            Recipe {
                program: "/missing/program".into(),
                ..shell("")
            }
        } else {
            shell("")
        }
    });
    for _ in 0..2 {
        assert_eq!(family.children.start(0).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
    family.children.wait_all();
}

#[test]
fn children_of_a_broken_output_see_a_broken_pipe() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let output = Arc::new(Output::new(Box::new(Broken), Box::new(io::sink())));
    let (sender, ends) = channel();
    let recipe = |_, _| shell("while echo line; do :; done 2> /dev/null; exit 9");
    let children = Children::new(recipe, output.clone(), move |end| sender.send(end).unwrap()).unwrap();
    children.start(0).unwrap();
    let end = ends.recv().unwrap();
    assert!(
        ["exit code 9", "killed by signal 13 (SIGPIPE)"].contains(&end.cause.as_str()),
        "{end:?}"
    );
    assert_eq!(output.close().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

const HELPER: &str = "TEST_HELPER_ROLE";
const LOCKED: &str = "TEST_HELPER_FILE";
const HELPER_TEST: &str = "cluster::children::tests::processes_of_the_tests_below";

fn helper(role: &str) -> Recipe {
    Recipe {
        program: std::env::current_exe().unwrap(),
        arguments: [HELPER_TEST, "--exact", "--nocapture"].map(Into::into).to_vec(),
        variables: vec![(HELPER.into(), role.into())],
        input: Vec::new(),
        is_remote: false,
    }
}

/// Does nothing by itself; the tests below run it as a parent, and that as a child.
#[test]
fn processes_of_the_tests_below() {
    match std::env::var(HELPER).as_deref() {
        Ok("parent") => {
            let mut child = helper("child");
            child.variables.push((JOIN_VARIABLE.into(), join().to_text().into()));
            let output = Arc::new(Output::standard());
            let children = Children::new(move |_, _| child.clone(), output, |_| {}).unwrap();
            children.start(0).unwrap();
            children.wait_all();
        }
        Ok("interrupted") => {
            let Family { children, .. } = family(|_, _| shell(HANGS));
            children.end_with_signals(|| println!("\nfinally")).unwrap();
            children.start(0).unwrap();
            println!("\nready");
            children.wait_all();
            thread::park_timeout(Duration::from_secs(20));
        }
        Ok("child") => {
            let join = Join::from_text(&std::env::var(JOIN_VARIABLE).unwrap()).unwrap();
            let mut file = std::fs::File::options()
                .write(true)
                .open(std::env::var(LOCKED).unwrap())
                .unwrap();
            file.lock().unwrap();
            join.tie_to_parent().unwrap();
            println!("\ntied");
            thread::park_timeout(Duration::from_secs(20));
            file.write_all(b"outlived its parent").unwrap();
        }
        _ => {}
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_does_not_outlive_a_parent_that_is_killed() {
    use std::io::{BufRead, BufReader};

    let file = tempfile::NamedTempFile::new().unwrap();
    let recipe = helper("parent");
    let mut command = Command::new(&recipe.program);
    command
        .args(&recipe.arguments)
        .envs(recipe.variables)
        .env(LOCKED, file.path());
    let mut parent = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "tied"));
    parent.kill().unwrap();
    parent.wait().unwrap();
    file.as_file().lock().unwrap(); // Free when the child is gone.
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "");
}

#[test]
fn a_signal_ends_the_children_and_then_this_process() {
    use std::io::{BufRead, BufReader};

    let recipe = helper("interrupted");
    let mut command = Command::new(&recipe.program);
    command.args(&recipe.arguments).envs(recipe.variables);
    let mut parent = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"));
    let process = Pid::from_child(&parent);
    // Not that of Ctrl-C: who runs tests behind a shell's `&` has them ignore it.
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    assert!(lines.any(|line| line.unwrap() == "finally"));
    assert_eq!(parent.wait().unwrap().code(), Some(143));
}
