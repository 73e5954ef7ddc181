//! What either side of a handshake receives.

#![no_main]

use std::io::Write;
use std::time::Duration;

use distdl_engine::cluster::handshake::{
    Credentials, HANDSHAKE_TIME_MAX, HELLO_BYTES, Hello, Mine, Purpose, accept, initiate,
};
use distdl_engine::cluster::protocol::MemberId;
use distdl_engine::cluster::socket::{Socket, pair};
use libfuzzer_sys::fuzz_target;

const BINARY: [u8; 32] = [3; 32];

/// The end of a connection on which `bytes` arrive and then nothing.
fn arriving(bytes: &[u8]) -> (Socket, Socket) {
    let (here, there) = pair().expect("two sockets");
    (&there)
        .write_all(&bytes[..bytes.len().min(1024)])
        .expect("room for them");
    there.shutdown_write();
    (here, there)
}

fuzz_target!(|bytes: &[u8]| {
    if let Some(hello) = bytes.first_chunk::<HELLO_BYTES>()
        && let Ok(decoded) = Hello::decode(hello)
    {
        assert_eq!(decoded.encode(), *hello);
    }
    let credentials = Credentials::new([1; 16], &[2; 32], BINARY);
    let time_max: Duration = HANDSHAKE_TIME_MAX;
    let (member, peer) = (Some(MemberId(1)), Some(MemberId(2)));
    let mine = Mine {
        purpose: Purpose::Link,
        generation: 1,
        member,
        peer,
        time_max,
    };
    let (here, _there) = arriving(bytes);
    assert!(accept(&here, &credentials, &mine, |_| Ok(())).is_err());
    let (here, _there) = arriving(bytes);
    assert!(initiate(&here, &credentials, &mine).is_err());
});
