//! The first message of each side, in its fixed layout.
//!
//! | bytes    | field                                                                    |
//! |----------|--------------------------------------------------------------------------|
//! | 0..6     | `DISTDL`                                                                 |
//! | 6..8     | version of the protocol                                                  |
//! | 8        | what it is: a hello of either side, or one of two reasons for a refusal  |
//! | 9        | purpose                                                                  |
//! | 10       | bit 0: there is a sender; bit 1: there is a receiver                     |
//! | 11..16   | zero                                                                     |
//! | 16..32   | cluster                                                                  |
//! | 32..40   | generation                                                               |
//! | 40..48   | sender                                                                   |
//! | 48..56   | receiver                                                                 |
//! | 56..88   | binary                                                                   |
//! | 88..120  | nonce                                                                    |
//! | 120..128 | run                                                                      |
//!
//! Numbers are little endian. A refusal is the first 16 bytes alone, which no version changes.

use distdl_storage::Digest;

use super::Refused;
use crate::cluster::identity::MemberId;

/// Of what is said on a connection from its first byte on; other versions are turned away. `distdl name` and the
/// programs of its processes are different files, so that nothing else tells them that they speak alike.
pub(crate) const PROTOCOL_VERSION: u16 = 2;
/// Size of a hello.
pub(crate) const HELLO_BYTES: usize = 128;
/// The part of a hello that no version changes.
pub(super) const PREFIX_BYTES: usize = 16;

/// What a message is that turns another version away.
pub(super) const REFUSED_VERSION: u8 = 3;
/// What a message is that turns another build away.
pub(super) const REFUSED_BINARY: u8 = 4;

const FROM_INITIATOR: u8 = 1;
const FROM_ACCEPTOR: u8 = 2;
const MAGIC: &[u8; 6] = b"DISTDL";

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// Reports and orders, between a member and the name node.
    Control,
    /// Data of rounds, between two members.
    Link,
    /// Questions of one member and answers of another.
    Questions,
}

impl Purpose {
    /// Whether one who listens for this takes a connection for `theirs`.
    pub(super) fn admits(self, theirs: Self) -> bool {
        self == theirs || (self, theirs) == (Self::Link, Self::Questions)
    }
}

/// Which side of the handshake speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    /// The one that connected.
    Initiator,
    /// The one that listens.
    Acceptor,
}

impl Side {
    /// In a hello and in a proof.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Initiator => FROM_INITIATOR,
            Self::Acceptor => FROM_ACCEPTOR,
        }
    }
}

/// What each side says of itself first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Who speaks.
    pub side: Side,
    /// What the connection is for.
    pub purpose: Purpose,
    /// Of the cluster. The acceptor repeats what the initiator said, and so says nothing of its own.
    pub cluster: [u8; 16],
    /// Of the program, between members; 0 on the way to the name node, which says it later.
    pub run: u64,
    /// The generation that the sender is in; 0 before its first.
    pub generation: u64,
    /// Who the sender is, unless it has no number yet or is the name node.
    pub sender: Option<MemberId>,
    /// Whom the sender takes the other side for.
    pub receiver: Option<MemberId>,
    /// BLAKE3 of the program file.
    pub binary: Digest,
    /// Never the same again.
    pub nonce: [u8; 32],
}

impl Hello {
    /// Its bytes on the wire.
    pub(crate) fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..PREFIX_BYTES].copy_from_slice(&prefix(self.side.number()));
        bytes[9] = match self.purpose {
            Purpose::Control => 1,
            Purpose::Link => 2,
            Purpose::Questions => 3,
        };
        bytes[10] = u8::from(self.sender.is_some()) | u8::from(self.receiver.is_some()) << 1;
        bytes[16..32].copy_from_slice(&self.cluster);
        bytes[32..40].copy_from_slice(&self.generation.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.sender.map_or(0, |member| member.0).to_le_bytes());
        bytes[48..56].copy_from_slice(&self.receiver.map_or(0, |member| member.0).to_le_bytes());
        bytes[56..88].copy_from_slice(&self.binary);
        bytes[88..120].copy_from_slice(&self.nonce);
        bytes[120..].copy_from_slice(&self.run.to_le_bytes());
        bytes
    }

    /// Of the bytes that [`Self::encode`] makes, and of no others.
    ///
    /// # Errors
    /// `NotDistdl` for anything else, `Version` for a hello of another version, and `Version` or `Binary` if it is not
    /// a hello but says that ours was turned away.
    pub(crate) fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, Refused> {
        let side = match check_prefix(bytes)? {
            FROM_INITIATOR => Side::Initiator,
            FROM_ACCEPTOR => Side::Acceptor,
            _ => return Err(Refused::NotDistdl),
        };
        let purpose = match bytes[9] {
            1 => Purpose::Control,
            2 => Purpose::Link,
            3 => Purpose::Questions,
            _ => return Err(Refused::NotDistdl),
        };
        let hello = Self {
            side,
            purpose,
            cluster: array(bytes, 16),
            run: u64::from_le_bytes(array(bytes, 120)),
            generation: u64::from_le_bytes(array(bytes, 32)),
            sender: (bytes[10] & 1 != 0).then(|| MemberId(u64::from_le_bytes(array(bytes, 40)))),
            receiver: (bytes[10] & 2 != 0).then(|| MemberId(u64::from_le_bytes(array(bytes, 48)))),
            binary: array(bytes, 56),
            nonce: array(bytes, 88),
        };
        // There is one way to write a hello: what is unused is zero.
        if hello.encode() == *bytes {
            Ok(hello)
        } else {
            Err(Refused::NotDistdl)
        }
    }
}

fn array<const COUNT: usize>(bytes: &[u8; HELLO_BYTES], start: usize) -> [u8; COUNT] {
    let mut array = [0; COUNT];
    array.copy_from_slice(&bytes[start..start + COUNT]);
    array
}

/// The start of every message of the handshake that is not a proof.
pub(super) fn prefix(what: u8) -> [u8; PREFIX_BYTES] {
    let mut bytes = [0; PREFIX_BYTES];
    bytes[..6].copy_from_slice(MAGIC);
    bytes[6..8].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    bytes[8] = what;
    bytes
}

/// What a message that begins so is, if it can be a hello of this version.
pub(super) fn check_prefix(bytes: &[u8]) -> Result<u8, Refused> {
    if bytes[..6] != *MAGIC {
        return Err(Refused::NotDistdl);
    }
    let theirs = u16::from_le_bytes([bytes[6], bytes[7]]);
    match bytes[8] {
        REFUSED_BINARY if theirs == PROTOCOL_VERSION => Err(Refused::Binary),
        what if theirs == PROTOCOL_VERSION && what != REFUSED_VERSION => Ok(what),
        _ => Err(Refused::Version {
            ours: PROTOCOL_VERSION,
            theirs,
        }),
    }
}
