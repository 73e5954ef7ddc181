//! Connections of processes to the name node: how they are let in, read and written.

use std::convert::Infallible;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::time::{Duration, Instant};

use distdl_storage::Digest;

use super::{Input, spawn};
use crate::cluster::control::{self, JOIN_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::cluster::handshake::{self, Credentials, HANDSHAKE_TIME_MAX, HandshakePermits, Mine, Permit, TurnedAway};
use crate::cluster::name_node::{ConnectionId, Event};
use crate::cluster::protocol::{Order, Report};
use crate::cluster::socket::{Listener, Socket};

/// Signs of life for each lease while a message comes.
const SIGNS_PER_LEASE: u32 = 8;

/// Orders that may wait for one member before it counts as lost.
const ORDERS_MAX: usize = 1024;

/// What comes from a process, and a sign of its life from time to time while a long message comes.
struct Signs<'a> {
    socket: &'a Socket,
    inputs: &'a Sender<Input>,
    connection: ConnectionId,
    pause: Duration,
    last: Instant,
}

impl Read for Signs<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut socket = self.socket;
        let bytes = socket.read(buffer)?;
        if bytes > 0 && self.last.elapsed() >= self.pause {
            self.last = Instant::now();
            let connection = self.connection;
            // Nobody listens any more only when all is over.
            let _ = self.inputs.send(Input::Event(Event::Heard { connection }));
        }
        Ok(bytes)
    }
}

/// Lets processes in.
pub(super) struct Acceptor {
    pub(super) listener: Arc<Listener>,
    pub(super) credentials: Credentials,
    pub(super) inputs: Sender<Input>,
    pub(super) permits: Arc<HandshakePermits>,
    pub(super) turned_away: TurnedAway,
    pub(super) connections: AtomicU64,
    /// Of which nothing is heard for so long is lost.
    pub(super) lease: Duration,
}

impl Acceptor {
    pub(super) fn run(self: Arc<Self>) {
        loop {
            let Some(socket) = self.listener.next() else { return };
            let permit = self.permits.take();
            let acceptor = Arc::clone(&self);
            let peer = socket.peer();
            if let Err(error) = spawn("name-read", move || acceptor.serve(socket, permit)) {
                let reason = format!("no thread can be started for it: {error}");
                self.turned_away.tell(&peer, &reason);
            }
        }
    }

    /// One connection from its handshake to its end.
    fn serve(&self, socket: Socket, permit: Permit) {
        let mine = Mine::of_nobody(HANDSHAKE_TIME_MAX);
        // One that is gone has no address any more.
        let peer = socket.peer();
        let shaken = handshake::accept(&socket, &self.credentials, &mine, &permit, |_| Ok(()));
        drop(permit);
        let theirs = match shaken {
            Ok(theirs) => theirs,
            Err(refused) => return self.turned_away.tell(&peer, &refused),
        };
        self.turned_away.let_in();
        let connection = ConnectionId(self.connections.fetch_add(1, Ordering::SeqCst));
        let opened = socket
            .try_clone()
            .and_then(|socket| Connection::open(socket, theirs.binary));
        let Ok(writing) = opened else { return };
        if self.inputs.send(Input::Connected(connection, writing)).is_err() {
            return socket.shutdown();
        }
        // It has no lease before it has joined: one that never does would be kept for ever.
        if socket.set_read_timeout(Some(self.lease)).is_err() {
            return socket.shutdown();
        }
        let mut bytes_max = JOIN_BYTES_MAX;
        let mut signs = Signs {
            socket: &socket,
            inputs: &self.inputs,
            connection,
            pause: self.lease / SIGNS_PER_LEASE,
            last: Instant::now(),
        };
        loop {
            let report = match control::receive::<Report>(&mut signs, bytes_max) {
                Ok(Some(report)) => report,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!("a control connection failed: {error}");
                    break;
                }
            };
            if bytes_max < MESSAGE_BYTES_MAX && socket.set_read_timeout(None).is_err() {
                break;
            }
            bytes_max = MESSAGE_BYTES_MAX;
            if self
                .inputs
                .send(Input::Event(Event::Reported { connection, report }))
                .is_err()
            {
                break;
            }
        }
        socket.shutdown();
        let _ = self.inputs.send(Input::Event(Event::Disconnected { connection }));
    }
}

/// The writing side of a connection. Dropped, it closes the connection once everything is written.
pub(super) struct Connection {
    pub(super) orders: SyncSender<Order>,
    pub(super) socket: Socket,
    pub(super) written: Written,
    /// The program file at the other end.
    pub(super) binary: Digest,
}

/// Has no sender any more once all that is for a connection is written.
pub(super) type Written = Receiver<Infallible>;

impl Connection {
    fn open(socket: Socket, binary: Digest) -> io::Result<Self> {
        let writing = socket.try_clone()?;
        let (orders, received) = sync_channel::<Order>(ORDERS_MAX);
        let (writes, written) = channel();
        spawn("name-write", move || {
            let _writes: Sender<Infallible> = writes;
            while let Ok(order) = received.recv() {
                if let Err(error) = control::send(&writing, &order, MESSAGE_BYTES_MAX) {
                    tracing::debug!("an order could not be sent: {error}");
                    break;
                }
            }
            writing.shutdown();
        })?;
        Ok(Self {
            orders,
            socket,
            written,
            binary,
        })
    }

    pub(super) fn send(&self, order: Order) {
        if let Err(TrySendError::Full(_)) = self.orders.try_send(order) {
            // Its reader reports the end.
            self.socket.shutdown();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use super::*;
    use crate::cluster::dismissal::Dismissal;
    use crate::cluster::socket::pair;

    /// A long one would otherwise cost the process that says it its lease.
    #[test]
    fn parts_of_a_message_are_signs_of_life() {
        let (here, there) = pair().unwrap();
        let (inputs, received) = channel();
        let mut signs = Signs {
            socket: &there,
            inputs: &inputs,
            connection: ConnectionId(3),
            pause: Duration::ZERO,
            last: Instant::now(),
        };
        for part in [b"a", b"b"] {
            (&here).write_all(part).unwrap();
            signs.read_exact(&mut [0]).unwrap();
            let heard = received.try_recv();
            assert!(matches!(
                heard,
                Ok(Input::Event(Event::Heard {
                    connection: ConnectionId(3)
                }))
            ));
        }
        here.shutdown();
        assert_eq!(signs.read(&mut [0]).unwrap(), 0);
        assert!(received.try_recv().is_err(), "the end is none");
    }

    #[test]
    fn who_takes_no_orders_is_cut_off_when_too_many_wait() {
        let (here, there) = pair().unwrap();
        let (orders, _received) = sync_channel(2);
        let connection = Connection {
            orders,
            socket: here,
            written: channel().1,
            binary: [7; 32],
        };
        let reason = Dismissal::Over;
        (0..3).for_each(|_| connection.send(Order::Dismiss { reason: reason.clone() }));
        there.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!((&there).read(&mut [0]).unwrap(), 0);
    }
}
