//! Why a handshake ends without a connection.

use std::fmt::Display;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cluster::socket::is_told;

/// Why a connection was closed before it was used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Refused {
    /// The other side is another program, or plays our own words back.
    #[error("what is at the other side does not speak DistDL's protocol; check the address and the port")]
    NotDistdl,
    /// Another version of the protocol.
    #[error(
        "the other side speaks version {theirs} of the protocol and this process version {ours}; start all processes from the same build of the program"
    )]
    Version {
        /// Of this process.
        ours: u16,
        /// Of the other side.
        theirs: u16,
    },
    /// Another build of the program.
    #[error(
        "the other side runs another build of the program; start all processes from the same file (a name node goes on with the build of its journal alone: to run another one, end it and remove the folder that it was given)"
    )]
    Binary,
    /// Another cluster.
    #[error("the other side belongs to another cluster; check the cluster id and the address it was started with")]
    Cluster,
    /// Another run of the program in the same cluster.
    #[error(
        "the other side belongs to another run of the program, whose name node is another one or was started anew; an address was given to a new process: ask the name node again"
    )]
    Run,
    /// It does not know the token.
    #[error("the other side does not have this cluster's token; start it with the token that the name node was given")]
    Token,
    /// The connection is for something else.
    #[error(
        "a connection for control arrived where data is awaited, or the other way round; check which address is whose"
    )]
    Purpose,
    /// It is someone else, or takes this process for someone else.
    #[error(
        "the other side is not the member meant, or means another member; an address was given to a new process: ask the name node again"
    )]
    WrongMember,
    /// It is behind, and was cut off.
    #[error(
        "the other side is in generation {theirs}, and generation {expected} is awaited; it was counted as lost and must join the cluster again"
    )]
    Generation {
        /// The least that is taken.
        expected: u64,
        /// Of the other side.
        theirs: u64,
    },
    /// It took too long.
    #[error("the other side did not end the handshake in time; check that the process still runs and is not stopped")]
    Timeout,
    /// It closed the connection and gave no reason.
    #[error(
        "the other side closed the connection and gave no reason; check that both have the same cluster id and token, and see its log"
    )]
    Closed,
    /// The connection broke.
    #[error("the connection broke in the handshake: {0}; check the network and whether the process still runs")]
    Io(#[from] io::Error),
}

/// What people hear of the connections that one listener turns away. Strangers may come as often as they like, so of
/// many in a row ever fewer are told.
#[derive(Debug, Default)]
pub(crate) struct TurnedAway(AtomicU64);

impl TurnedAway {
    /// A connection from `peer` was turned away.
    pub(crate) fn tell(&self, peer: &str, reason: &dyn Display) {
        if let Some(sentence) = self.sentence(peer, reason) {
            tracing::warn!("{sentence}");
        }
    }

    /// What to say of it, if anything.
    pub(super) fn sentence(&self, peer: &str, reason: &dyn Display) -> Option<String> {
        let in_a_row = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        let sentence = format!("a connection from {peer} was turned away: {reason}");
        match in_a_row {
            1 => Some(sentence),
            _ => is_told(in_a_row).then(|| format!("{sentence} (number {in_a_row} in a row)")),
        }
    }

    /// A connection was let in.
    pub(crate) fn let_in(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
