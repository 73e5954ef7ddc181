//! What a stranger may send to a process, for fuzzing: it ends as an error, whatever it is, and each function panics if
//! something else comes of it. The targets in `fuzz` of the repository call these.
#![expect(
    clippy::expect_used,
    reason = "a vector takes everything, and what is read here was just written; a fuzzer is to hear of all else"
)]

use std::io::Write;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::cluster::control::{JOIN_BYTES_MAX, receive};
use crate::cluster::handshake::{
    Credentials, HANDSHAKE_TIME_MAX, HandshakePermits, Hello, Mine, Purpose, accept, initiate,
};
use crate::cluster::identity::MemberId;
use crate::cluster::protocol::{Order, Report};
use crate::cluster::socket::{Socket, pair};
use crate::cluster::wire::{HEADER_BYTES, Header, Limits, read_bytes, read_floats_into, read_header, write_frame};

const LIMITS: Limits = Limits {
    payload_bytes_max: 1 << 40,
};

/// Bytes that arrive on a control connection: as they are, and as the body of a message whose checksums are right.
pub fn control(bytes: &[u8]) {
    for bytes in [bytes, &message(bytes)] {
        let _ = receive::<Report>(bytes, JOIN_BYTES_MAX);
        let _ = receive::<Order>(bytes, JOIN_BYTES_MAX);
    }
}

/// Bytes that arrive on a link: as they are, and with a header whose checksum is right.
///
/// # Panics
/// If a header that is taken is not the one that was sent, or what is sent with it does not arrive.
pub fn frame(bytes: &[u8]) {
    read_all(bytes);
    let Some(sealed) = sealed(bytes) else { return };
    let payload = &bytes[HEADER_BYTES..];
    read_all(&[&sealed, payload].concat());
    if let Ok(mut header) = Header::decode(&sealed, LIMITS) {
        assert_eq!(header.encode(), sealed);
        let mut sent = Vec::new();
        write_frame(&mut sent, &mut header, &[payload]).expect("a vector takes everything");
        let mut received = &sent[..];
        let again = read_header(&mut received, LIMITS).expect("as sent").expect("as sent");
        assert_eq!(read_bytes(&mut received, &again, LIMITS).expect("as sent"), payload);
    }
}

/// What either side of a handshake receives, from somebody who does not know the secret.
///
/// # Panics
/// If either side takes it, or a greeting that is taken is not the one that was sent.
pub fn handshake(bytes: &[u8]) {
    if let Some(hello) = bytes.first_chunk()
        && let Ok(decoded) = Hello::decode(hello)
    {
        assert_eq!(decoded.encode(), *hello);
    }
    let credentials = Credentials::new([1; 16], &[2; 32], [3; 32]);
    let mine = Mine {
        purpose: Purpose::Link,
        run: 1,
        generation: 1,
        member: Some(MemberId(1)),
        peer: Some(MemberId(2)),
        time_max: HANDSHAKE_TIME_MAX,
    };
    let (here, _there) = arriving(bytes);
    let permit = Arc::<HandshakePermits>::default().take();
    assert!(accept(&here, &credentials, &mine, &permit, |_| Ok(())).is_err());
    let (here, _there) = arriving(bytes);
    assert!(initiate(&here, &credentials, &mine).is_err());
}

/// A message of a control connection with this body.
fn message(body: &[u8]) -> Vec<u8> {
    let mut start = [(body.len() as u64).to_le_bytes(), xxh3_64(body).to_le_bytes()].concat();
    start.extend_from_slice(&xxh3_64(&start).to_le_bytes());
    start.extend_from_slice(body);
    start
}

/// Reads frames until something is wrong.
fn read_all(mut bytes: &[u8]) {
    while let Ok(Some(header)) = read_header(&mut bytes, LIMITS) {
        let mut floats = [0.0; 16];
        let _ = read_floats_into(bytes, &header, &mut floats);
        if read_bytes(&mut bytes, &header, LIMITS).is_err() {
            return;
        }
    }
}

/// The header as it is, with the checksum that belongs to it.
fn sealed(bytes: &[u8]) -> Option<[u8; HEADER_BYTES]> {
    let mut header: [u8; HEADER_BYTES] = *bytes.first_chunk()?;
    let checksum = xxh3_64(&header[..HEADER_BYTES - 8]);
    header[HEADER_BYTES - 8..].copy_from_slice(&checksum.to_le_bytes());
    Some(header)
}

/// The end of a connection on which `bytes` arrive and then nothing.
fn arriving(bytes: &[u8]) -> (Socket, Socket) {
    let (here, there) = pair().expect("two sockets");
    (&there)
        .write_all(&bytes[..bytes.len().min(1024)])
        .expect("room for them");
    there.shutdown_write();
    (here, there)
}
