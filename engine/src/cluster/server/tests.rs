//! What becomes of connections.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::mpsc::{RecvTimeoutError, sync_channel};

use super::*;
use crate::cluster::control::{self, JOIN_BYTES_MAX};
use crate::cluster::events::Happening;
use crate::cluster::handshake::permits::HANDSHAKES_MAX;
use crate::cluster::handshake::{self, Mine, Refused};
use crate::cluster::protocol::{ActionKind, Answer, Head, Inventory, LoopState};
use crate::cluster::secrets::Secrets;
use crate::cluster::socket::{Socket, connect, pair};
use crate::error::EngineError;
use crate::id::DatasetId;

/// What does not happen for so long never does.
const PATIENCE: Duration = Duration::from_secs(20);

struct Nobody;

impl Spawner for Nobody {
    fn start(&mut self, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn kill(&mut self, _: u32) {}
}

/// A name node that listens to nobody but this process.
fn server(secrets: &Secrets) -> Server {
    server_with(secrets, Box::new(drop))
}

/// The same, which others hear of.
fn server_with(secrets: &Secrets, notes: Notes) -> Server {
    Server::start(Setup {
        notes,
        ..setup(secrets)
    })
    .unwrap()
}

fn setup(secrets: &Secrets) -> Setup {
    Setup {
        listener: Listener::bind_local().unwrap(),
        credentials: Credentials::of_any_program(secrets.cluster, &secrets.token),
        options: Options::default(),
        journal: (Journal::temporary(None, 1 << 30).unwrap(), Vec::new()),
        spawner: Box::new(Nobody),
        notes: Box::new(drop),
        progress: None,
        chaos: ChaosPlan::default(),
        fate: Fate::Vanish,
    }
}

/// A connection to the name node of a process that runs this build.
fn shake_hands(server: &Server, secrets: &Secrets, build: u8) -> Result<Socket, Refused> {
    let socket = connect(&server.listener.address(), PATIENCE).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mine = Mine::of_nobody(PATIENCE);
    let credentials = Credentials::new(secrets.cluster, &secrets.token, [build; 32]);
    handshake::initiate(&socket, &credentials, &mine)?;
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    Ok(socket)
}

fn join() -> Report {
    Report::join(None, None, "there")
}

/// At the first action.
fn arrive() -> Report {
    Report::Arrive {
        head: Head {
            action: 0,
            fingerprint: [0; 32],
            site: String::new(),
            kind: ActionKind::Compute {
                wanted: vec![0],
                dataset: DatasetId(0),
                rounds_max: 1,
            },
        },
        held: Inventory::new(),
        state: LoopState::default(),
    }
}

/// Whether the name node closes a connection without a word.
fn is_closed(socket: &Socket) -> bool {
    let end = control::receive::<Order>(socket, JOIN_BYTES_MAX);
    matches!(end, Ok(None))
}

#[test]
fn who_shakes_hands_and_does_not_join_is_not_kept() {
    let secrets = Secrets::random().unwrap();
    let options = Options {
        lease: Duration::from_millis(50),
        ..Options::default()
    };
    let server = Server::start(Setup {
        options,
        ..setup(&secrets)
    })
    .unwrap();
    assert!(is_closed(&shake_hands(&server, &secrets, 7).unwrap()));
    server.handle().vanish();
    assert_eq!(server.wait(), Err(KILLED.to_owned()));
}

#[test]
fn a_process_that_is_let_in_says_which_build_the_others_have_until_it_is_gone_without_having_done_anything() {
    let secrets = Secrets::random().unwrap();
    let (lost, is_lost) = channel();
    let notes = move |event: ClusterEvent| {
        if matches!(event.what, Happening::Lost { .. }) {
            lost.send(()).unwrap();
        }
    };
    let server = server_with(&secrets, Box::new(notes));
    let joins = |socket: &Socket| control::send(socket, &join(), JOIN_BYTES_MAX).unwrap();
    let is_let_in = |socket: &Socket| {
        let order = control::receive::<Order>(socket, JOIN_BYTES_MAX);
        matches!(order, Ok(Some(Order::Welcome { .. })))
    };
    let early = shake_hands(&server, &secrets, 7).unwrap();
    let first = shake_hands(&server, &secrets, 8).unwrap();
    joins(&first);
    assert!(is_let_in(&first));
    joins(&early);
    assert!(is_closed(&early));
    let late = shake_hands(&server, &secrets, 7);
    assert!(matches!(late, Err(Refused::Binary)), "{late:?}");
    drop(first);
    is_lost.recv_timeout(PATIENCE).unwrap();
    let next = shake_hands(&server, &secrets, 7).unwrap();
    joins(&next);
    assert!(is_let_in(&next));
    server.handle().vanish();
    assert_eq!(server.wait(), Err(KILLED.to_owned()));
}

/// Or answers of the one would be taken for the other's.
#[test]
fn a_name_node_that_is_started_again_lets_in_the_build_of_its_journal_once_that_has_come_to_an_action() {
    for comes_to_an_action in [false, true] {
        let (folder, secrets) = (tempfile::tempdir().unwrap(), Secrets::random().unwrap());
        let start = || {
            Server::start(Setup {
                journal: Journal::open(folder.path(), 1 << 30).unwrap(),
                ..setup(&secrets)
            })
            .unwrap()
        };
        let ends = |server: Server| {
            server.handle().vanish();
            assert_eq!(server.wait(), Err(KILLED.to_owned()));
        };
        let server = start();
        let member = shake_hands(&server, &secrets, 7).unwrap();
        let say = |report: &Report| control::send(&member, report, JOIN_BYTES_MAX).unwrap();
        let hear = || control::receive::<Order>(&member, JOIN_BYTES_MAX).unwrap();
        say(&join());
        assert!(matches!(hear(), Some(Order::Welcome { .. })));
        if comes_to_an_action {
            say(&arrive());
            assert!(matches!(hear(), Some(Order::Begin { .. })));
        }
        ends(server);
        let server = start();
        let other = shake_hands(&server, &secrets, 8).map(drop);
        match other {
            Err(Refused::Binary) => assert!(comes_to_an_action),
            other => assert!(other.is_ok() && !comes_to_an_action, "{other:?}"),
        }
        shake_hands(&server, &secrets, 7).unwrap();
        ends(server);
    }
}

/// Its cause may have been mended.
#[test]
fn an_error_that_the_journal_has_is_said_to_be_from_there_and_how_to_be_rid_of_it() {
    let (folder, secrets) = (tempfile::tempdir().unwrap(), Secrets::random().unwrap());
    let (mut journal, _) = Journal::open(folder.path(), 1 << 30).unwrap();
    let Report::Arrive { head, .. } = arrive() else {
        panic!("it arrives otherwise");
    };
    let failed = LogEntry::Answered {
        head,
        finished_by: Vec::new(),
        answer: Some(Answer::Failed(EngineError::invalid("no such file", "name another"))),
    };
    journal.append(&LogEntry::Run(7)).unwrap();
    journal.append(&failed).unwrap();
    drop(journal);
    let (said, sentences) = channel();
    let server = Server::start(Setup {
        journal: Journal::open(folder.path(), 1 << 30).unwrap(),
        notes: Box::new(move |event: ClusterEvent| said.send(event.sentence()).unwrap()),
        ..setup(&secrets)
    });
    let server = server.unwrap();
    let first = sentences.recv_timeout(PATIENCE).unwrap().unwrap();
    let words = "going on at action 1 with 0 members; the action before it has failed, as the journal has it";
    assert!(first.starts_with(words) && first.contains("no such file"), "{first}");

    let member = shake_hands(&server, &secrets, 7).unwrap();
    let error = EngineError::invalid("no such file", "name another").to_string();
    for report in [join(), Report::Leave { error: Some(error) }] {
        control::send(&member, &report, JOIN_BYTES_MAX).unwrap();
    }
    let error = server.wait().unwrap_err();
    let remedy = format!("; mend the cause, and remove the folder {}:", folder.path().display());
    assert!(error.contains("no such file") && error.contains(&remedy), "{error}");
}

#[test]
fn a_connection_that_is_gone_is_let_go_of() {
    let server = server(&Secrets::random().unwrap());
    let (orders, received) = sync_channel(1);
    let (socket, _other_end) = pair().unwrap();
    let id = ConnectionId(u64::MAX);
    let inputs = server.handle().0;
    let connection = Connection {
        orders,
        socket,
        written: channel().1,
        binary: [7; 32],
    };
    inputs.send(Input::Connected(id, connection)).unwrap();
    inputs
        .send(Input::Event(Event::Disconnected { connection: id }))
        .unwrap();
    // So the thread that writes learns that nothing more will come.
    assert!(matches!(
        received.recv_timeout(PATIENCE),
        Err(RecvTimeoutError::Disconnected)
    ));
    inputs.send(Input::Vanish).unwrap();
    assert_eq!(server.wait(), Err(KILLED.to_owned()));
}

/// Or it would look for a name node that is gone.
#[test]
fn who_comes_as_the_program_ends_is_told() {
    let ((left, has_left), (go_on, may_go_on)) = (channel(), channel::<()>());
    let notes = move |event: ClusterEvent| {
        if matches!(event.what, Happening::Left { .. }) {
            left.send(()).unwrap();
            may_go_on.recv().unwrap();
        }
    };
    let server = server_with(&Secrets::random().unwrap(), Box::new(notes));
    let inputs = server.handle().0;
    let (socket, _other_end) = pair().unwrap();
    let come = |id: u64| {
        let (orders, received) = sync_channel(8);
        let (connection, socket, written) = (ConnectionId(id), socket.try_clone().unwrap(), channel().1);
        let opened = Connection {
            orders,
            socket,
            written,
            binary: [7; 32],
        };
        inputs.send(Input::Connected(connection, opened)).unwrap();
        (connection, received)
    };
    let say = |connection: ConnectionId, report: Report| {
        let reported = Event::Reported { connection, report };
        inputs.send(Input::Event(reported)).unwrap();
    };
    let (member, _orders) = come(u64::MAX);
    say(member, join());
    say(member, Report::Leave { error: None });
    has_left.recv_timeout(PATIENCE).unwrap();
    let (late, told) = come(u64::MAX - 1);
    say(late, join());
    go_on.send(()).unwrap();
    let order = told.recv_timeout(PATIENCE);
    let is_told = matches!(
        order,
        Ok(Order::Dismiss {
            reason: Dismissal::Over
        })
    );
    assert!(is_told, "{order:?}");
    assert_eq!(server.wait(), Ok(()));
}

#[test]
fn who_comes_while_many_shake_hands_waits_for_a_turn() {
    let secrets = Secrets::random().unwrap();
    let server = server(&secrets);
    let address = server.listener.address();
    let silent = || connect(&address, PATIENCE).unwrap();
    // They are let in first, and say nothing until their time is over.
    let _strangers: Vec<Socket> = (0..HANDSHAKES_MAX).map(|_| silent()).collect();
    shake_hands(&server, &secrets, 7).unwrap();
    server.handle().vanish();
    assert_eq!(server.wait(), Err(KILLED.to_owned()));
}
