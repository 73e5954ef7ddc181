//! Work on more than memory holds: the same records as in memory, within the limits, and clear errors where they end.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod later;
mod limits;
mod oracle;
mod several;
