//! What was computed is remembered: by the next run and by other processes, and never wrongly.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod pipeline;

mod changes;
mod damage;
mod drawn;
mod parameters;
mod several;
