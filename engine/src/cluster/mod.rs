//! Many processes as one: who belongs to the cluster, what it does next, and what happens when one of them dies.
//!
//! Read in this order: `protocol` is what members and the name node say to each other, `socket` and `handshake` how
//! they meet, `wire` what the members send each other, `name_node` who decides (a pure state machine), `journal` what
//! it remembers, `server` its sockets and clocks, `link` and `member` the other side of both.

pub mod protocol;
