//! The link between two members: frames out, written by whoever has something to send, and frames in, read by a thread
//! of the link and handed to the round that they belong to.

use std::io::{BufReader, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use distdl_storage::Unpoisoned;

use crate::cluster::identity::MemberId;
use crate::cluster::socket::Socket;
use crate::cluster::wire::{self, Header, Limits, WireError};

/// One end of a link.
pub(crate) struct Link {
    /// Who is at the other end.
    pub peer: MemberId,
    socket: Socket,
    /// A frame is written whole before the next one is begun.
    writing: Mutex<()>,
    broken: AtomicBool,
    /// The newest generation that it has served; 0 before the first.
    serves: AtomicU64,
    made: Instant,
}

impl Link {
    /// A link over a socket whose handshake is done.
    pub(crate) fn new(peer: MemberId, socket: Socket) -> Self {
        Self {
            peer,
            socket,
            writing: Mutex::new(()),
            broken: AtomicBool::new(false),
            serves: AtomicU64::new(0),
            made: Instant::now(),
        }
    }

    /// How long it has been there.
    pub(crate) fn age(&self) -> Duration {
        self.made.elapsed()
    }

    /// Sends a frame; waits while the socket is full.
    pub(crate) fn send(&self, mut header: Header, payload: &[&[u8]]) -> Result<(), WireError> {
        let _writing = self.writing.lock().unpoisoned();
        wire::write_frame(&self.socket, &mut header, payload).inspect_err(|_| self.close())
    }

    /// Ends the link: whoever reads or writes at either end finds out.
    pub(crate) fn close(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.socket.shutdown();
    }

    /// Notes that a generation counts on it.
    pub(crate) fn serve(&self, generation: u64) {
        self.serves.fetch_max(generation, Ordering::SeqCst);
    }

    /// The newest generation that counts on it.
    pub(crate) fn serves(&self) -> u64 {
        self.serves.load(Ordering::SeqCst)
    }

    /// Whether it was closed or has failed.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// Reads frames until the link ends, and says why it did. `handle` must take the whole payload.
    pub(crate) fn read(
        &self,
        limits: &Limits,
        handle: &mut dyn FnMut(&Header, &mut Body<'_>) -> Result<(), WireError>,
    ) -> WireError {
        let mut reader = BufReader::with_capacity(READ_AHEAD_BYTES, &self.socket);
        loop {
            let read = wire::read_header(&mut reader, *limits).and_then(|header| {
                let header = header.ok_or(WireError::Ended)?;
                let mut body = Body {
                    reader: &mut reader,
                    header: header.clone(),
                    limits,
                    taken: false,
                };
                handle(&header, &mut body)?;
                if body.taken { Ok(()) } else { body.skip() }
            });
            if let Err(error) = read {
                self.close();
                return error;
            }
        }
    }
}

/// Small frames come in with one system call; large payloads go past this buffer.
const READ_AHEAD_BYTES: usize = 16 << 10;

/// The payload of a frame, still in the socket.
pub(crate) struct Body<'a> {
    reader: &'a mut dyn Read,
    header: Header,
    limits: &'a Limits,
    taken: bool,
}

impl Body<'_> {
    /// The payload as bytes.
    pub(crate) fn take_bytes(&mut self) -> Result<Vec<u8>, WireError> {
        self.taken = true;
        wire::read_bytes(&mut self.reader, &self.header, *self.limits)
    }

    /// The payload as numbers, read to where they belong. The caller must not believe them before this returns.
    pub(crate) fn take_floats(&mut self, floats: &mut [f32]) -> Result<(), WireError> {
        self.taken = true;
        wire::read_floats_into(&mut self.reader, &self.header, floats)
    }

    /// Reads over the payload.
    fn skip(&mut self) -> Result<(), WireError> {
        self.taken = true;
        let length = self.header.payload_bytes;
        let skipped = std::io::copy(&mut self.reader.take(length), &mut std::io::sink())?;
        if skipped == length {
            Ok(())
        } else {
            Err(WireError::Ended)
        }
    }
}
