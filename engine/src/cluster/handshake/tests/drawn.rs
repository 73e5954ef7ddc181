use std::io::{Read, Write};
use std::thread;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::hello::HELLO_BYTES;
use super::super::{Hello, PROOF_BYTES, Purpose, Side, initiate};
use super::{accept, answer, anyone, called, caller, credentials, hello};
use crate::cluster::identity::MemberId;
use crate::cluster::socket::pair;

fn any_hello() -> impl Strategy<Value = Hello> {
    let members = any::<(Option<u64>, Option<u64>)>();
    let arrays = any::<([u8; 16], [u8; 32], [u8; 32])>();
    (any::<(bool, bool, u64, u64)>(), members, arrays).prop_map(
        |((listens, data, generation, run), members, arrays)| Hello {
            side: if listens { Side::Acceptor } else { Side::Initiator },
            purpose: if data { Purpose::Link } else { Purpose::Control },
            cluster: arrays.0,
            run,
            generation,
            sender: members.0.map(MemberId),
            receiver: members.1.map(MemberId),
            binary: arrays.1,
            nonce: arrays.2,
        },
    )
}

proptest! {
    #[test]
    fn a_hello_decodes_only_from_what_it_encodes_to(hello in any_hello(), at in 0..HELLO_BYTES, byte in any::<u8>()) {
        let mut bytes = hello.encode();
        prop_assert_eq!(Hello::decode(&bytes).unwrap(), hello);
        bytes[at] = byte;
        if let Ok(other) = Hello::decode(&bytes) {
            prop_assert_eq!(other.encode(), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in vec(any::<u8>(), 0..400), greets in any::<bool>()) {
        let bytes = if greets { [&hello().encode()[..], &bytes].concat() } else { bytes };
        answer(&bytes);
        let (here, there) = pair().unwrap();
        (&there).write_all(&bytes).unwrap();
        there.shutdown_write();
        prop_assert!(initiate(&here, &credentials(), &caller()).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Somebody between the two changes one bit, anywhere.
    #[test]
    fn a_changed_bit_is_refused(turn in 0_usize..4, at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let ((here, middle), (beyond, there)) = (pair().unwrap(), pair().unwrap());
        let outcomes = thread::scope(|scope| {
            let calling = scope.spawn(|| initiate(&here, &credentials(), &caller()));
            let called = scope.spawn(|| accept(&there, &credentials(), &called(), anyone));
            let ways = [(&middle, &beyond, HELLO_BYTES), (&beyond, &middle, HELLO_BYTES)];
            let proofs = [(&middle, &beyond, PROOF_BYTES), (&beyond, &middle, PROOF_BYTES)];
            for (index, (mut from, mut to, count)) in ways.into_iter().chain(proofs).enumerate() {
                let mut bytes = vec![0; count];
                if from.read_exact(&mut bytes).is_err() {
                    break;
                }
                if index == turn {
                    bytes[at.index(count)] ^= 1 << bit;
                }
                if to.write_all(&bytes).is_err() {
                    break;
                }
            }
            middle.shutdown();
            beyond.shutdown();
            (calling.join().unwrap(), called.join().unwrap())
        });
        prop_assert!(outcomes.0.is_err());
        // Only the last message can no longer be known to the acceptor to have arrived.
        prop_assert_eq!(outcomes.1.is_ok(), turn == 3);
    }
}
