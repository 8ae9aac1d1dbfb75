//! A port number as written in a resource.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

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

/// `{number: 80}`, as Istio writes the port of a service.
#[derive(Debug, Clone, Copy)]
pub(super) struct PortSelector {
    pub(super) number: PortNumber,
}

impl<'de> Deserialize<'de> for PortSelector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SelectorVisitor)
    }
}

/// A number alone is what most people write first.
struct SelectorVisitor;

impl<'de> Visitor<'de> for SelectorVisitor {
    type Value = PortSelector;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`{number: 80}`")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PortSelector, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            number: PortNumber,
        }
        let Written { number } = Written::deserialize(MapAccessDeserializer::new(map))?;
        Ok(PortSelector { number })
    }

    fn visit_u64<E: de::Error>(self, seen: u64) -> Result<PortSelector, E> {
        Err(E::custom(format!("a port is written as `{{number: {seen}}}` here, seen `{seen}`")))
    }

    fn visit_i64<E: de::Error>(self, seen: i64) -> Result<PortSelector, E> {
        Err(E::custom(format!("a port is written as `{{number: 80}}` here, seen `{seen}`")))
    }
}
