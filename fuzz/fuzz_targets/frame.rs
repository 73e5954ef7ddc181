//! Bytes that arrive on a link.

#![no_main]

use distdl_engine::cluster::wire::{
    HEADER_BYTES, Header, Limits, read_bytes, read_floats_into, read_header, write_frame,
};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    payload_bytes_max: 1 << 40,
};

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
fn seal(bytes: &[u8]) -> Option<[u8; HEADER_BYTES]> {
    let mut header: [u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
    let checksum = xxhash_rust::xxh3::xxh3_64(&header[..HEADER_BYTES - 8]);
    header[HEADER_BYTES - 8..].copy_from_slice(&checksum.to_le_bytes());
    Some(header)
}

fuzz_target!(|bytes: &[u8]| {
    read_all(bytes);
    let Some(sealed) = seal(bytes) else { return };
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
});
