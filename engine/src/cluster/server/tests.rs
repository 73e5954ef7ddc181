//! What becomes of connections.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::mpsc::RecvTimeoutError;

use super::*;
use crate::cluster::handshake::turns::HANDSHAKES_MAX;
use crate::cluster::secrets::Secrets;
use crate::cluster::socket::{connect, pair};

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
    let setup = Setup {
        listener: Listener::bind_local().unwrap(),
        credentials: Credentials::of_any_program(secrets.cluster, &secrets.token),
        options: Options::default(),
        journal: (Journal::temporary(None, 1 << 30).unwrap(), Vec::new()),
        spawner: Box::new(Nobody),
        notes: Box::new(drop),
        progress: None,
        chaos: ChaosPlan::default(),
        fate: Fate::Vanish,
    };
    Server::start(setup).unwrap()
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

#[test]
fn who_comes_while_many_shake_hands_waits_for_a_turn() {
    let secrets = Secrets::random().unwrap();
    let server = server(&secrets);
    let address = server.listener.address();
    let silent = || connect(&address, PATIENCE).unwrap();
    // They are let in first, and say nothing until their time is over.
    let _strangers: Vec<Socket> = (0..HANDSHAKES_MAX).map(|_| silent()).collect();
    let socket = silent();
    let mine = Mine {
        purpose: Purpose::Control,
        run: 0,
        generation: 0,
        member: None,
        peer: None,
        time_max: PATIENCE,
    };
    let credentials = Credentials::new(secrets.cluster, &secrets.token, [7; 32]);
    handshake::initiate(&socket, &credentials, &mine).unwrap();
    server.handle().vanish();
    assert_eq!(server.wait(), Err(KILLED.to_owned()));
}
