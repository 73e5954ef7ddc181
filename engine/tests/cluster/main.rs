//! Several processes compute what one computes, whatever is lost and whenever.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod faults;
mod training;

mod actions;
mod behind;
mod blocks;
mod iterations;
mod journal_full;
mod name_node;
mod notices;
mod observers;
mod remote;
mod speculation;
mod speed;
