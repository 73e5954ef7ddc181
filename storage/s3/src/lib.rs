//! The storage layer against a server that speaks S3 on loopback. A crate of its own, so that an ordinary test of the
//! workspace does not compile the server. There is nothing but tests, in `tests/`.
