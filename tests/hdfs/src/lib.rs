//! The storage layer against a file system of Hadoop on loopback. A crate of its own, since the servers need Java and
//! take seconds to start. There is nothing but tests, in `tests/`.
