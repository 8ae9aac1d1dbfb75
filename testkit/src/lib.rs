//! What tests share: a certificate authority that can be told to misbehave, TLS peers that trust a mesh's root, plain
//! peers named by behaviour, a name server that answers as it is told, and reference pages held equal to the code.
//!
//! For tests only, so every function panics where it cannot do its work. The authority rests on rcgen alone, not on
//! `pillion-ca`: what our own authority gets wrong must not look right here.

// Tests assert by panicking.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

pub mod authority;
pub mod defect;
pub mod dns;
pub mod page;
pub mod peer;
pub mod tls;
pub mod weak;

pub use authority::{Held, Paths, TestCa};
pub use defect::Defect;
