//! Bytes that arrive on a link.

#![no_main]

use distdl_engine::testing::fuzz;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzz::frame(bytes));
