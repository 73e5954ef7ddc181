//! Bytes that arrive on a control connection.

#![no_main]

use distdl_engine::cluster::control::{JOIN_BYTES_MAX, receive};
use distdl_engine::cluster::protocol::{Order, Report};
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::xxh3_64;

/// A message with this body, whose checksums are right.
fn sealed(body: &[u8]) -> Vec<u8> {
    let mut start = [(body.len() as u64).to_le_bytes(), xxh3_64(body).to_le_bytes()].concat();
    start.extend_from_slice(&xxh3_64(&start).to_le_bytes());
    start.extend_from_slice(body);
    start
}

fuzz_target!(|bytes: &[u8]| {
    for bytes in [bytes, &sealed(bytes)] {
        let _ = receive::<Report>(bytes, JOIN_BYTES_MAX);
        let _ = receive::<Order>(bytes, JOIN_BYTES_MAX);
    }
});
