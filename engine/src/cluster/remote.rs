//! A process of another host: the command that a remote shell is given to start it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::children::Recipe;
use super::identity::Role;

/// How processes of other hosts are started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The program of the remote shell, such as `ssh`. It is given the host and one command as text.
    pub shell: PathBuf,
    /// The program `distdl` on the other hosts.
    pub distdl: PathBuf,
    /// The folder there in which processes start.
    pub folder: PathBuf,
    /// What is set in their environment.
    pub variables: Vec<(String, String)>,
    /// The program and its arguments.
    pub program: Vec<OsString>,
}

/// One process of another host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RemoteProcess<'a> {
    /// The host.
    pub host: &'a str,
    /// Where the name node listens, as that host reaches it.
    pub name_node: std::net::SocketAddr,
    /// Its slot; none for any.
    pub slot: Option<u32>,
    /// How many were started for the slot before.
    pub life: u32,
    /// What it is for.
    pub role: Role,
    /// The processes that share the host.
    pub beside: usize,
    /// The secret that lets it in. It travels on standard input, where nobody else on that host sees it.
    pub secret: &'a [u8],
}

impl Remote {
    /// The remote shell's call that starts a process.
    pub(crate) fn recipe(&self, process: &RemoteProcess<'_>) -> Recipe {
        Recipe {
            program: self.shell.clone(),
            arguments: vec![process.host.into(), self.command(process)],
            variables: Vec::new(),
            input: [process.secret, b"\n"].concat(),
            is_remote: true,
        }
    }

    fn command(&self, process: &RemoteProcess<'_>) -> OsString {
        let processes = ("DISTDL_PROCESSES".to_owned(), process.beside.to_string());
        let progress = ("DISTDL_PROGRESS".to_owned(), "off".to_owned());
        let own = |name: &str| ["DISTDL_PROCESSES", "DISTDL_PROGRESS"].contains(&name);
        let passed_on = self.variables.iter().filter(|(name, _)| !own(name));
        let variables = passed_on.chain([&processes, &progress]);
        let mut words: Vec<OsString> = vec!["env".into()];
        words.extend(variables.map(|(name, text)| format!("{name}={text}").into()));
        words.extend([self.distdl.clone().into(), "worker".into()]);
        words.push(format!("--name={}", process.name_node).into());
        words.extend(process.slot.map(|slot| format!("--slot={slot}").into()));
        words.push(format!("--life={}", process.life).into());
        let role = match process.role {
            Role::Worker => "worker",
            Role::Parameter => "parameter",
        };
        words.extend([
            format!("--role={role}").into(),
            "--launched".into(),
            "--token-file=-".into(),
            "--".into(),
        ]);
        words.extend(self.program.iter().cloned());
        let words: Vec<Vec<u8>> = words.iter().map(|word| quoted(word)).collect();
        let folder = quoted(self.folder.as_os_str());
        OsString::from_vec([b"cd ", &folder[..], b" && exec ", &words.join(&b' ')].concat())
    }
}

/// A word as a POSIX shell reads it back.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_command_says_all_and_hides_the_secret() {
        let remote = Remote {
            shell: "ssh".into(),
            distdl: "/opt/distdl".into(),
            folder: "/my data".into(),
            variables: vec![
                ("DISTDL_SEED".into(), "7".into()),
                ("DISTDL_PROCESSES".into(), "9".into()),
            ],
            program: vec!["./it's".into(), "a b".into()],
        };
        let process = RemoteProcess {
            host: "node-7",
            name_node: "10.0.0.1:80".parse().unwrap(),
            slot: Some(3),
            life: 1,
            role: Role::Parameter,
            beside: 2,
            secret: b"a secret",
        };
        let recipe = remote.recipe(&process);
        let command = "cd '/my data' && exec 'env' 'DISTDL_SEED=7' 'DISTDL_PROCESSES=2' 'DISTDL_PROGRESS=off' \
                       '/opt/distdl' 'worker' '--name=10.0.0.1:80' '--slot=3' '--life=1' '--role=parameter' \
                       '--launched' '--token-file=-' '--' './it'\\''s' 'a b'";
        assert_eq!(recipe.arguments, ["node-7", command]);
        assert_eq!((recipe.program, recipe.input), ("ssh".into(), b"a secret\n".to_vec()));
        let anywhere = remote.recipe(&RemoteProcess { slot: None, ..process });
        assert!(!anywhere.arguments[1].to_str().unwrap().contains("--slot"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_shell_reads_quoted_words_back(bytes in prop::collection::vec(1..=255u8, 0..20)) {
            let word = OsString::from_vec(bytes.clone());
            let script = OsString::from_vec([b"printf %s ", &quoted(&word)[..]].concat());
            let output = Command::new("/bin/sh").arg("-c").arg(script).output().unwrap();
            prop_assert_eq!(output.stdout, bytes);
        }
    }
}
