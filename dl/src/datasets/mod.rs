//! Well-known data sets, read and checked.

pub mod mnist;
