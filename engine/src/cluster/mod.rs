//! Many processes as one: who belongs to the cluster, what it does next, and what happens when one of them dies.
//!
//! In the order of the modules:
//! - `origins` tells versions of a loop's state apart;
//! - `identity`: who a process is; `arithmetic`: whether its machine gives the bits of the others; `dismissal`: why the
//!   name node does not let it in;
//! - `protocol`: what members and the name node say to each other;
//! - `secrets` and `join`: what a started process is told;
//! - `chaos`: fault injection;
//! - `socket` and `handshake`: how processes meet; `wire` and `control`: what goes over links and control connections;
//! - `shared_memory` and `mailbox`: memory that processes of one host share, and the letters in it;
//! - `link` and `member`: a process's side;
//! - `events`: what people hear of; `resume`: from which version a loop goes on; `load_balance`: how work is dealt to
//!   members;
//! - `journal`: what the name node remembers; `name_node`: who decides, a pure state machine; `server`: its sockets and
//!   clock;
//! - `signals`: who ends this process; `output`: what processes print; `children`: the parent's side of them; `hosts`
//!   and `remote`: those of other hosts; `launch` and `run`: all of it;
//! - `layouts`: a test of the bytes that go over connections and into the journal.

pub(crate) mod origins;
pub(crate) mod identity;
pub(crate) mod arithmetic;
pub(crate) mod dismissal;
pub(crate) mod protocol;
pub(crate) mod secrets;
pub(crate) mod join;
pub mod chaos;
pub(crate) mod socket;
pub(crate) mod handshake;
pub(crate) mod wire;
pub(crate) mod control;
pub(crate) mod shared_memory;
pub(crate) mod mailbox;
pub(crate) mod link;
pub(crate) mod member;
pub mod events;
pub(crate) mod resume;
pub(crate) mod load_balance;
pub(crate) mod journal;
pub(crate) mod name_node;
pub(crate) mod server;
pub(crate) mod signals;
pub(crate) mod output;
pub(crate) mod children;
pub(crate) mod hosts;
pub(crate) mod remote;
pub(crate) mod launch;
pub(crate) mod run;
#[cfg(test)]
mod layouts;

pub use self::children::Recipe;
pub use self::dismissal::Dismissal;
pub use self::hosts::{Hosts, HostsError};
pub use self::identity::{Address, MemberId, Role};
pub use self::join::Join;
pub use self::launch::{LaunchError, NameNodeOptions, RecipeFor, become_program, secrets_for, this_program};
pub use self::member::Faults;
pub use self::remote::Remote;
pub use self::run::run_name_node;
pub use self::secrets::{SecretError, Secrets};
pub use self::signals::SignalledEnd;
