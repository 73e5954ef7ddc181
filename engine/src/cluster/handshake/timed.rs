//! Reading and writing under one limit of time.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::Permit;
use super::hello::{HELLO_BYTES, Hello, PREFIX_BYTES, Side, check_prefix, prefix};
use super::refused::Refused;
use crate::cluster::socket::Socket;

/// Read and thrown away of a peer that is turned away with a reason, so that closing does not overtake the reason.
const DISCARDED_BYTES_MAX: usize = 512;

/// A side of which nothing comes for so long gives its permit up once another connection waits for one: otherwise
/// strangers that connect and say nothing keep all others out for as long as a handshake may take. Who means it answers
/// at once, and what has come counts even if this process has had no time to read it. One whose host is too loaded for
/// that loses its permit only while more than [`HANDSHAKES_MAX`](super::permits::HANDSHAKES_MAX) want to shake hands,
/// and tries again.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// A socket with one limit of time for all that is done to it: a peer that sends a byte now and then gains nothing.
pub(super) struct Timed<'a> {
    socket: &'a Socket,
    permit: Option<&'a Permit>,
    begin: Instant,
    time_max: Duration,
}

impl<'a> Timed<'a> {
    pub(super) fn new(socket: &'a Socket, time_max: Duration, permit: Option<&'a Permit>) -> Self {
        Self {
            socket,
            permit,
            begin: Instant::now(),
            time_max,
        }
    }

    fn left(&self) -> Result<Duration, Refused> {
        let left = self.time_max.saturating_sub(self.begin.elapsed());
        if left.is_zero() {
            Err(Refused::Timeout)
        } else {
            Ok(left)
        }
    }

    /// Reads at least one byte.
    pub(super) fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Refused> {
        loop {
            self.socket.set_read_timeout(Some(self.left()?.min(SILENCE_MAX)))?;
            match self.socket.read(buffer).map_err(retry_or_refuse) {
                Ok(0) => return Err(Refused::Closed),
                Ok(count) => return Ok(count),
                Err(Err(Refused::Timeout)) if !self.permit.is_some_and(Permit::must_yield) => {}
                Err(retry) => retry?,
            }
        }
    }

    pub(super) fn receive<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], Refused> {
        let mut bytes = [0; COUNT];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Refused> {
        let mut filled = 0;
        while filled < bytes.len() {
            filled += self.read_some(&mut bytes[filled..])?;
        }
        Ok(())
    }

    pub(super) fn receive_hello(&mut self, from: Side) -> Result<Hello, Refused> {
        let mut bytes = [0; HELLO_BYTES];
        let (start, rest) = bytes.split_at_mut(PREFIX_BYTES);
        self.fill(start)?;
        // A refusal ends here, and a hello of another version may have another length.
        check_prefix(start)?;
        self.fill(rest)?;
        let hello = Hello::decode(&bytes)?;
        if hello.side == from {
            Ok(hello)
        } else {
            Err(Refused::NotDistdl)
        }
    }

    pub(super) fn send(&mut self, mut bytes: &[u8]) -> Result<(), Refused> {
        while !bytes.is_empty() {
            self.socket.set_write_timeout(Some(self.left()?))?;
            match self.socket.write(bytes) {
                Ok(0) => return Err(Refused::Closed),
                Ok(count) => bytes = &bytes[count..],
                Err(error) => retry_or_refuse(error)?,
            }
        }
        Ok(())
    }

    /// Says why, and waits a moment for the other side to have read it.
    pub(super) fn turn_away(&mut self, reason: u8) {
        if self.send(&prefix(reason)).is_err() {
            return;
        }
        self.socket.shutdown_write();
        let mut left = DISCARDED_BYTES_MAX;
        let mut buffer = [0; DISCARDED_BYTES_MAX];
        while let Ok(count) = self.read_some(&mut buffer[..left]) {
            left -= count;
            if left == 0 {
                return;
            }
        }
    }

    /// What comes after the handshake has no limit of time.
    pub(super) fn end(&self) -> Result<(), Refused> {
        self.socket.set_read_timeout(None)?;
        Ok(self.socket.set_write_timeout(None)?)
    }
}

fn retry_or_refuse(error: io::Error) -> Result<(), Refused> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(Refused::Timeout),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Err(Refused::Closed),
        _ => Err(Refused::Io(error)),
    }
}
