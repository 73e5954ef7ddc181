//! Well-known data sets, read and checked.

mod mnist;

pub use mnist::Mnist;
