//! Sets of values that a fact is looked up in.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::matching::texts::{Patterns, PatternsBuilder, TextKey};
use crate::policy::path::Template;
use crate::resource::Pattern;
use crate::spiffe::SpiffeId;

/// Texts by exact value, beginning and end. Compared byte for byte.
#[derive(Debug, Default)]
pub(super) struct Texts(Patterns<()>);

impl Texts {
    pub(super) fn matches(&self, text: impl AsRef<[u8]>) -> bool {
        self.0.matching(text.as_ref()).next().is_some()
    }

    /// One for each of the values.
    pub(super) fn keys(&self) -> impl Iterator<Item = TextKey<'_>> {
        self.0.keys()
    }
}

impl<'p> FromIterator<&'p Pattern> for Texts {
    fn from_iter<I: IntoIterator<Item = &'p Pattern>>(patterns: I) -> Self {
        let mut texts = PatternsBuilder::default();
        for pattern in patterns {
            texts.entry(pattern.key());
        }
        Self(texts.build())
    }
}

/// Templates of paths, by how the paths begin.
#[derive(Debug, Default)]
pub(super) struct Templates(Patterns<Vec<Template>>);

impl Templates {
    pub(super) fn matches(&self, path: &str) -> bool {
        self.0.matching(path.as_bytes()).flatten().any(|template| template.matches(path))
    }

    /// One for each beginning.
    pub(super) fn keys(&self) -> impl Iterator<Item = TextKey<'_>> {
        self.0.keys()
    }
}

impl<'p> FromIterator<&'p Template> for Templates {
    fn from_iter<I: IntoIterator<Item = &'p Template>>(all: I) -> Self {
        let mut templates = PatternsBuilder::<Vec<Template>>::default();
        for template in all {
            templates
                .entry(TextKey::Beginning(template.beginning().into_bytes().into()))
                .push(template.clone());
        }
        Self(templates.build())
    }
}

/// Ranges of addresses, disjoint and in order.
#[derive(Debug, Default)]
pub(super) struct Ranges(Vec<IpNet>);

impl Ranges {
    /// `address` as IPv4 where it is IPv4 written as IPv6.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let behind = self.0.partition_point(|range| range.network() <= address);
        behind.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|range| range.contains(&address))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = IpNet> {
        self.0.iter().copied()
    }
}

impl From<&[IpNet]> for Ranges {
    fn from(ranges: &[IpNet]) -> Self {
        let mut disjoint = IpNet::aggregate(&ranges.to_vec());
        disjoint.sort_by_key(IpNet::network);
        Self(disjoint)
    }
}

/// Namespace and service account within the path of an ID, `/ns/<namespace>/sa/<service account>`, with other segments
/// before, between and behind them as Istio's patterns have it. A namespace counts only where something follows it.
pub(super) fn service_account(peer: &SpiffeId) -> Option<(&str, Option<&str>)> {
    let (_, path) = peer.principal().split_once('/')?;
    let mut segments = path.split('/');
    segments.find(|segment| *segment == "ns")?;
    let namespace = segments.next()?;
    let mut behind = segments.peekable();
    behind.peek()?;
    behind.find(|segment| *segment == "sa");
    Some((namespace, behind.next()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use rstest::rstest;

    use super::*;

    fn id(path: &str) -> SpiffeId {
        format!("spiffe://cluster.local{path}").parse().unwrap()
    }

    #[rstest]
    #[case("/ns/foo/sa/web", Some(("foo", Some("web"))))]
    #[case("/ns/ns/sa/sa", Some(("ns", Some("sa"))))]
    #[case::the_account_is_not_taken_for_a_namespace("/ns/ns/sa/ns", Some(("ns", Some("ns"))))]
    #[case::with_more_around("/region/eu/ns/foo/pod/a/sa/web/x/y", Some(("foo", Some("web"))))]
    #[case::nothing_behind_the_namespace("/ns/foo", None)]
    #[case::no_account("/ns/foo/pod/a", Some(("foo", None)))]
    #[case::account_without_name("/ns/foo/sa", Some(("foo", None)))]
    #[case::other("/backend", None)]
    fn an_id_names(#[case] path: &str, #[case] expected: Option<(&str, Option<&str>)>) {
        assert_eq!(service_account(&id(path)), expected);
    }

    #[rstest]
    #[case("10.1.0.0", true)]
    #[case("10.1.255.255", true)]
    #[case("10.2.0.0", false)]
    #[case("10.0.255.255", false)]
    #[case("9.9.9.9", true)]
    #[case("9.9.9.8", false)]
    #[case::within_a_range_within_a_range("10.1.2.3", true)]
    #[case("255.255.255.255", false)]
    #[case("::", false)]
    #[case("fd00::5", true)]
    #[case("fd01::", false)]
    fn an_address_is_looked_up_in_ranges(#[case] address: &str, #[case] expected: bool) {
        let ranges: Vec<IpNet> = ["fd00::/16", "10.1.0.0/16", "9.9.9.9/32", "10.1.2.0/24"]
            .map(|range| range.parse().unwrap())
            .into();
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(Ranges::from(ranges.as_slice()).contains(address), expected);
        if let IpAddr::V4(v4) = address {
            let mapped: Ipv6Addr = v4.to_ipv6_mapped();
            assert_eq!(Ranges::from(ranges.as_slice()).contains(IpAddr::V6(mapped)), expected, "{mapped}");
        }
    }
}
