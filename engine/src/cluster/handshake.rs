//! How the two ends of a new connection come to trust each other, before anything else on it is believed.
//!
//! ```text
//!   initiator                        acceptor
//!     | -- hello --------------------> |   another version or build: says so and closes
//!     | <-------------------- hello -- |
//!     | -- proof(initiator) ---------> |   anything else that is wrong: closes, and does not say what
//!     | <---------- proof(acceptor) -- |   "you are accepted"
//! ```
//!
//! A hello says who speaks, to whom, in which cluster, run and generation, from which binary, and has a random nonce. A
//! proof is a challenge-response message authentication code: BLAKE3 in its keyed mode, in the place of HMAC, under a
//! key derived from the cluster's token, over both hellos and the role of the prover. So a recorded proof is of no use
//! (the other side's nonce is new), nor is one's own sent back (the role differs), nor a changed hello. Until its proof
//! has come, the acceptor answers a stranger the same whatever cluster, member or token it names.
//!
//! What follows is neither encrypted nor authenticated: on a network where others can read or change what is sent, the
//! connections belong in a tunnel.

mod refused;
mod hello;
mod timed;
pub(crate) mod permits;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use distdl_storage::{Digest, Unpoisoned};

pub(crate) use hello::{Hello, Purpose, Side};
pub(crate) use permits::{HandshakePermits, Permit};
pub(crate) use refused::{Refused, TurnedAway};

use super::identity::MemberId;
use super::socket::{Socket, random_bytes};
use hello::{REFUSED_BINARY, REFUSED_VERSION};
use timed::Timed;

/// How long a handshake may take in all.
pub(crate) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

const PROOF_BYTES: usize = 32;

/// What makes a process one of a cluster.
#[derive(Clone)]
pub(crate) struct Credentials {
    cluster: [u8; 16],
    key: [u8; 32],
    program: Program,
}

/// Which program file the processes of a cluster run, by its BLAKE3 hash.
#[derive(Clone)]
enum Program {
    /// The same as this process.
    Own(Digest),
    /// That of the first that was let in, once there is one.
    OfFirst(Arc<Mutex<Option<Digest>>>),
}

impl Credentials {
    /// Of a process of `cluster` that knows its `token`, 32 random bytes, and runs the program file with the BLAKE3
    /// hash `binary`.
    pub(crate) fn new(cluster: [u8; 16], token: &[u8; 32], binary: Digest) -> Self {
        Self {
            cluster,
            key: blake3::derive_key("DistDL 2026 cluster token", token),
            program: Program::Own(binary),
        }
    }

    /// Of a name node that runs another program than its processes: these must run the same as the first that it lets
    /// in, see [`Self::let_in`].
    pub(crate) fn of_any_program(cluster: [u8; 16], token: &[u8; 32]) -> Self {
        Self {
            program: Program::OfFirst(Arc::default()),
            ..Self::new(cluster, token, [0; 32])
        }
    }

    /// The program file that all must run, if that is known.
    pub(crate) fn binary(&self) -> Option<Digest> {
        match &self.program {
            Program::Own(binary) => Some(*binary),
            Program::OfFirst(binary) => *binary.lock().unpoisoned(),
        }
    }

    /// A process that runs this program file takes part; whether it is the first and so says which one all must run.
    pub(crate) fn let_in(&self, binary: Digest) -> bool {
        let Program::OfFirst(first) = &self.program else {
            return false;
        };
        let mut first = first.lock().unpoisoned();
        let is_first = first.is_none();
        first.get_or_insert(binary);
        is_first
    }

    /// Nobody takes part, and nothing is left of those that did: the next that is let in may run another program.
    pub(crate) fn start_over(&self) {
        if let Program::OfFirst(first) = &self.program {
            *first.lock().unpoisoned() = None;
        }
    }

    /// Shows that `prover` knows the token and means this very connection.
    fn proof(&self, prover: Side, initiator: &Hello, acceptor: &Hello) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&initiator.encode()).update(&acceptor.encode());
        hasher.update(&[prover.number()]);
        hasher.finalize()
    }
}

impl std::fmt::Debug for Credentials {
    /// Without the key, so that it comes into no log.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// What one side brings to a handshake.
#[derive(Debug, Clone)]
pub(crate) struct Mine {
    /// What the connection is for; both sides must agree, but that who takes links takes questions too.
    pub purpose: Purpose,
    /// The run of the program that it takes part in. Only members, which have been told, can belong to different ones;
    /// 0 on the way to the name node.
    pub run: u64,
    /// The generation that it is in; 0 before its first.
    pub generation: u64,
    /// Who it is. The name node, and a process on its first contact, is nobody.
    pub member: Option<MemberId>,
    /// Who the other side must be; `None` leaves it to what the other side says.
    pub peer: Option<MemberId>,
    /// How long the whole handshake may take, usually [`HANDSHAKE_TIME_MAX`].
    pub time_max: Duration,
}

impl Mine {
    /// Of who is nobody yet, or the name node, between a process and the name node.
    pub(crate) fn of_nobody(time_max: Duration) -> Self {
        Self {
            purpose: Purpose::Control,
            run: 0,
            generation: 0,
            member: None,
            peer: None,
            time_max,
        }
    }

    fn hello(&self, side: Side, credentials: &Credentials, binary: Digest) -> Result<Hello, Refused> {
        Ok(Hello {
            side,
            purpose: self.purpose,
            cluster: credentials.cluster,
            run: self.run,
            generation: self.generation,
            sender: self.member,
            receiver: self.peer,
            binary,
            nonce: random_bytes()?,
        })
    }

    /// Whether `theirs` speaks to us, and is whom we want to speak to. Data is never exchanged with nobody, nor with a
    /// member of another run: all that are started by hand with one secret are one cluster, and members are counted
    /// from 0 in each run.
    fn check_members(&self, theirs: &Hello) -> Result<(), Refused> {
        if self.purpose != Purpose::Control && theirs.run != self.run {
            return Err(Refused::Run);
        }
        let wanted = self.peer.is_none() || theirs.sender == self.peer;
        let addressed = theirs.receiver.is_none() || theirs.receiver == self.member;
        let named = self.purpose == Purpose::Control || (theirs.sender.is_some() && theirs.receiver.is_some());
        if wanted && addressed && named {
            Ok(())
        } else {
            Err(Refused::WrongMember)
        }
    }
}

/// The other side, as proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Theirs {
    /// What the connection is for.
    pub purpose: Purpose,
    /// The generation that it is in; 0 before its first.
    pub generation: u64,
    /// Who it is, unless it is the name node or has no number yet.
    pub member: Option<MemberId>,
    /// BLAKE3 of its program file.
    pub binary: Digest,
}

impl From<&Hello> for Theirs {
    fn from(hello: &Hello) -> Self {
        Self {
            purpose: hello.purpose,
            generation: hello.generation,
            member: hello.sender,
            binary: hello.binary,
        }
    }
}

/// Shakes hands as the side that connected. When it returns, the other side has proven itself and has accepted us. If
/// it fails, the connection is closed.
///
/// # Errors
/// See [`Refused`]; `Closed` for what the other side does not tell.
pub(crate) fn initiate(socket: &Socket, credentials: &Credentials, mine: &Mine) -> Result<Theirs, Refused> {
    let mut timed = Timed::new(socket, mine.time_max, None);
    let result = initiate_until(&mut timed, credentials, mine).and_then(|theirs| timed.end().map(|()| theirs));
    close_unless(socket, result)
}

fn initiate_until(timed: &mut Timed<'_>, credentials: &Credentials, mine: &Mine) -> Result<Theirs, Refused> {
    let binary = credentials.binary().unwrap_or_default();
    let ours = mine.hello(Side::Initiator, credentials, binary)?;
    timed.send(&ours.encode())?;
    let theirs = timed.receive_hello(Side::Acceptor)?;
    if theirs.binary != ours.binary {
        return Err(Refused::Binary);
    }
    if theirs.cluster != ours.cluster {
        return Err(Refused::Cluster);
    }
    check_purpose(mine, &theirs)?;
    mine.check_members(&theirs)?;
    timed.send(credentials.proof(Side::Initiator, &ours, &theirs).as_bytes())?;
    let proof = timed.receive::<PROOF_BYTES>()?;
    // In constant time, as `blake3::Hash` compares.
    if credentials.proof(Side::Acceptor, &ours, &theirs) != proof {
        return Err(Refused::Token);
    }
    Ok(Theirs::from(&theirs))
}

/// Shakes hands as the side that listens. `check` sees the other side once it has proven itself, and may still refuse
/// it: for a generation that is over, for example. If it fails, the connection is closed; the listener is not touched.
/// Once others wait for the permit, it fails sooner.
///
/// # Errors
/// See [`Refused`].
pub(crate) fn accept(
    socket: &Socket,
    credentials: &Credentials,
    mine: &Mine,
    permit: &Permit,
    check: impl FnOnce(&Theirs) -> Result<(), Refused>,
) -> Result<Theirs, Refused> {
    let mut timed = Timed::new(socket, mine.time_max, Some(permit));
    let result = accept_until(&mut timed, credentials, mine, check).and_then(|theirs| timed.end().map(|()| theirs));
    match result {
        Err(Refused::Version { .. }) => timed.turn_away(REFUSED_VERSION),
        Err(Refused::Binary) => timed.turn_away(REFUSED_BINARY),
        _ => {}
    }
    close_unless(socket, result)
}

fn accept_until(
    timed: &mut Timed<'_>,
    credentials: &Credentials,
    mine: &Mine,
    check: impl FnOnce(&Theirs) -> Result<(), Refused>,
) -> Result<Theirs, Refused> {
    let theirs = timed.receive_hello(Side::Initiator)?;
    let binary = credentials.binary().unwrap_or(theirs.binary);
    if theirs.binary != binary {
        return Err(Refused::Binary);
    }
    let receiver = mine.peer.or(theirs.sender);
    let ours = Hello {
        cluster: theirs.cluster,
        purpose: theirs.purpose,
        receiver,
        ..mine.hello(Side::Acceptor, credentials, binary)?
    };
    timed.send(&ours.encode())?;
    let proof = timed.receive::<PROOF_BYTES>()?;
    if theirs.cluster != credentials.cluster {
        return Err(Refused::Cluster);
    }
    if credentials.proof(Side::Initiator, &theirs, &ours) != proof {
        return Err(Refused::Token);
    }
    check_purpose(mine, &theirs)?;
    mine.check_members(&theirs)?;
    let proven = Theirs::from(&theirs);
    check(&proven)?;
    timed.send(credentials.proof(Side::Acceptor, &theirs, &ours).as_bytes())?;
    Ok(proven)
}

fn check_purpose(mine: &Mine, theirs: &Hello) -> Result<(), Refused> {
    if mine.purpose.admits(theirs.purpose) {
        Ok(())
    } else {
        Err(Refused::Purpose)
    }
}

fn close_unless(socket: &Socket, result: Result<Theirs, Refused>) -> Result<Theirs, Refused> {
    result.inspect_err(|_| socket.shutdown())
}

#[cfg(test)]
mod tests;
