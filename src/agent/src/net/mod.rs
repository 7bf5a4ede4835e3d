//! Byte streams of the real system, and TLS above any stream.
//! Upstream: none; Go's net and crypto/tls.
//! Differs: nothing on purpose.

pub mod certificate;
pub mod system;
pub mod tls;
