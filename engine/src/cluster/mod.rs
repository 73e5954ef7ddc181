//! Many processes as one: who belongs to the cluster, what it does next, and what happens when one of them dies.
//!
//! Read in this order: `origins` tells versions of a loop's state apart, `protocol` is what members and the name node say to
//! each other; `dismissal` why it does not let one in; `secrets` and `join` what a
//! started process is told, `chaos` the faults that are made on purpose; `socket` and `handshake` how they meet, `wire`
//! and `control` what goes over links and control connections; `link` and `member` a process's side. Then the other
//! side: `events` is what people hear of, `resume`, `deal` and `name_node` who decides (a pure state machine), `journal` what it
//! remembers, `server` its sockets and clock. Last how processes start: `output` is what they print, `children` the
//! parent's side of them, `hosts` and `remote` those of other hosts, `launch` and `run` all of it.

pub mod origins;
pub mod protocol;
pub mod dismissal;
pub mod secrets;
pub mod join;
pub mod chaos;
pub mod socket;
pub mod handshake;
pub mod wire;
pub mod control;
pub mod shared_memory;
pub mod mailbox;
pub mod link;
pub mod member;
pub mod events;
pub mod resume;
pub mod deal;
pub mod journal;
pub mod name_node;
pub mod server;
pub mod output;
pub mod children;
pub mod hosts;
pub mod remote;
pub mod launch;
pub mod run;
