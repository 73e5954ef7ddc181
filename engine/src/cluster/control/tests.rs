#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::cluster::protocol::{Inventory, LoopState, Order, Outcome, Report};

type Message = (u64, String, Vec<(u32, Vec<u8>)>, Option<bool>);

fn sent(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    send(&mut bytes, message, JOIN_BYTES_MAX).unwrap();
    bytes
}

/// A whole message whose checksums are right, with `body` in it.
fn sealed(body: &[u8]) -> Vec<u8> {
    let mut bytes = encode_start(body.len() as u64, xxh3_64(body)).to_vec();
    bytes.extend_from_slice(body);
    bytes
}

fn any_message() -> impl Strategy<Value = Message> {
    any::<Message>()
}

proptest! {
    #[test]
    fn messages_arrive_as_they_were_sent(messages in vec(any_message(), 0..4)) {
        let bytes: Vec<u8> = messages.iter().flat_map(sent).collect();
        let mut reader = &bytes[..];
        for message in messages {
            prop_assert_eq!(receive::<Message>(&mut reader, JOIN_BYTES_MAX).unwrap(), Some(message));
        }
        prop_assert!(receive::<Message>(&mut reader, JOIN_BYTES_MAX).unwrap().is_none());
    }

    #[test]
    fn arbitrary_bytes_are_no_message(bytes in vec(any::<u8>(), 1..200)) {
        prop_assert!(receive::<Report>(&bytes[..], JOIN_BYTES_MAX).is_err());
    }

    #[test]
    fn arbitrary_bodies_break_nothing(body in vec(any::<u8>(), 0..200), variant in 0_u8..8) {
        let bodies = [body.clone(), [&[variant], &body[..]].concat()];
        for bytes in bodies.map(|body| sealed(&body)) {
            for refused in [
                receive::<Report>(&bytes[..], JOIN_BYTES_MAX).err(),
                receive::<Order>(&bytes[..], JOIN_BYTES_MAX).err(),
            ] {
                prop_assert!(matches!(refused, None | Some(ControlError::Malformed)), "{refused:?}");
            }
        }
    }

    #[test]
    fn a_message_that_is_cut_short_is_found(message in any_message(), cut in any::<prop::sample::Index>()) {
        let bytes = sent(&message);
        let length = cut.index(bytes.len());
        let received = receive::<Message>(&bytes[..length], JOIN_BYTES_MAX);
        assert!(if length == 0 { matches!(received, Ok(None)) } else { matches!(received, Err(ControlError::Ended)) });
    }
}

#[test]
fn every_flipped_bit_is_found_before_more_is_awaited() {
    let mut bytes = sent(&(7, "text".into(), vec![(1, vec![2, 3])], Some(true)));
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let received = receive::<Message>(&bytes[..], u64::MAX);
        assert!(
            matches!(received, Err(ControlError::Checksum)),
            "bit {bit}: {received:?}"
        );
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn an_announced_length_reserves_nothing() {
    let endless = encode_start(u64::MAX, 0);
    let refused = receive::<u64>(&endless[..], MESSAGE_BYTES_MAX).unwrap_err();
    assert!(
        matches!(
            refused,
            ControlError::TooLong {
                bytes: u64::MAX,
                bytes_max: MESSAGE_BYTES_MAX
            }
        ),
        "{refused}"
    );
    assert!(matches!(
        receive::<u64>(&endless[..], u64::MAX),
        Err(ControlError::Ended)
    ));
    // A vector within the body that announces more elements than there could be.
    let body = postcard::to_stdvec(&u64::MAX).unwrap();
    assert!(matches!(
        receive::<Vec<[u64; 32]>>(&sealed(&body)[..], JOIN_BYTES_MAX),
        Err(ControlError::Malformed)
    ));
}

#[test]
fn what_is_too_long_is_not_sent() {
    let mut bytes = Vec::new();
    assert!(matches!(
        send(&mut bytes, "0123456789", 10),
        Err(ControlError::TooLong {
            bytes: 11,
            bytes_max: 10
        })
    ));
    assert!(bytes.is_empty());
    send(&mut bytes, "0123456789", 11).unwrap();
    assert_eq!(receive::<String>(&bytes[..], 11).unwrap().unwrap(), "0123456789");
}

#[test]
fn a_message_with_something_after_it_is_not_one() {
    assert!(matches!(
        receive::<u8>(&sealed(&[1, 2])[..], JOIN_BYTES_MAX),
        Err(ControlError::Malformed)
    ));
}

#[test]
fn a_socket_that_is_shut_down_ends_the_wait() {
    let (here, there) = crate::cluster::socket::pair().unwrap();
    send(&here, &5_u8, 1).unwrap();
    assert_eq!(receive::<u8>(&there, 1).unwrap(), Some(5));
    here.shutdown();
    assert!(receive::<u8>(&there, 1).unwrap().is_none());
    assert!(send(&there, &5_u8, 1).is_err());
}

#[test]
fn what_an_action_came_to_that_is_too_long_is_an_error_of_the_action() {
    let outcome = Outcome::Looped {
        finished: true,
        state: LoopState::default(),
        result: Some(vec![7; 1000].into()),
    };
    let ended = Report::Ended {
        generation: 1,
        action: 2,
        round: 3,
        outcome,
        held: Inventory::default(),
        cut: false,
    };
    let error = Encoded::new(&ended, 900).err().unwrap();
    assert!(matches!(error, ControlError::TooLong { bytes_max: 900, .. }));
    let instead = ended.in_its_place(&error.to_string()).unwrap();
    let Report::Ended {
        action: 2,
        outcome: Outcome::Failed(failed),
        ..
    } = &instead
    else {
        panic!("{instead:?}");
    };
    assert!(failed.to_string().contains("900"), "{failed}");
    assert!(Encoded::new(&instead, 900).is_ok());
    assert!(
        Report::Brought {
            key: [0; 32],
            is_here: true
        }
        .in_its_place("")
        .is_none()
    );
}
