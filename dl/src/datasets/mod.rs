//! Well-known data sets, read and checked.

pub mod idx;
pub mod mnist;
