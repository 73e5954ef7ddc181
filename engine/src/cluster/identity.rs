//! Which process one is, where it listens, and what it is for.

use std::net::SocketAddr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// One life of one process in a cluster. The name node counts them; a number is never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberId(pub u64);

impl std::fmt::Display for MemberId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "member {}", self.0)
    }
}

/// Where a process listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Address {
    /// On the network.
    Tcp(SocketAddr),
    /// On this host: a Unix socket in Linux's abstract namespace, which leaves no file.
    Local(String),
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Local(name) => write!(formatter, "the socket {name} of this host"),
        }
    }
}

/// What a process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
pub enum Role {
    /// Computes partitions and lanes, and owns shards if no process is there only for them.
    Worker,
    /// Owns shards of the parameters and nothing else, as long as a worker is left.
    Parameter,
}
