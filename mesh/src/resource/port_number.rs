//! A port number as written in a resource.

use serde::{Deserialize, Deserializer, de};

/// 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PortNumber(pub(super) u16);

impl<'de> Deserialize<'de> for PortNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seen = i64::deserialize(deserializer)?;
        match u16::try_from(seen) {
            Ok(port) if port > 0 => Ok(Self(port)),
            _ => Err(de::Error::custom(format!("a port is a number from 1 to 65535, seen `{seen}`"))),
        }
    }
}
