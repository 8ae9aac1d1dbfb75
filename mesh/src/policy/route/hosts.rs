//! Which hosts a server of a Gateway and a VirtualService share.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::resource::{HostPattern, Server, VirtualService};

/// The hosts that a server takes, by the namespace of the `VirtualService`; `None` is any.
#[derive(Debug, Default)]
pub(super) struct ServerHosts(HashMap<Option<String>, Hosts>);

#[derive(Debug, Default)]
struct Hosts {
    any: bool,
    /// Backwards, so that those below a name stand together. What is below a name ends with a dot, so no host is taken
    /// for one.
    names: BTreeMap<String, HostPattern>,
}

impl ServerHosts {
    /// `namespace` is the gateway's own.
    pub(super) fn new(server: &Server, namespace: &str) -> Self {
        let mut of_namespaces: HashMap<_, Hosts> = HashMap::new();
        for taken in &server.hosts {
            let of = match taken.namespace.as_deref() {
                Some(".") => Some(namespace.to_owned()),
                other => other.map(str::to_owned),
            };
            of_namespaces.entry(of).or_default().add(&taken.host);
        }
        Self(of_namespaces)
    }

    /// The hosts that both take, each once.
    pub(super) fn shared_with(&self, service: &VirtualService) -> HashSet<HostPattern> {
        let of_namespaces = [None, Some(service.meta.namespace.clone())];
        let known = of_namespaces.iter().filter_map(|of| self.0.get(of));
        known.flat_map(|hosts| service.hosts.iter().flat_map(|host| hosts.shared_with(host))).collect()
    }
}

impl Hosts {
    fn add(&mut self, host: &HostPattern) {
        match host {
            HostPattern::Any => self.any = true,
            HostPattern::Exact(name) | HostPattern::Below(name) => {
                self.names.insert(backwards(name), host.clone());
            }
        }
    }

    fn shared_with(&self, host: &HostPattern) -> Vec<HostPattern> {
        let is_below_one = |name: &str| {
            let suffixes = name.match_indices('.').filter_map(|(dot, _)| name.get(dot..));
            suffixes.into_iter().any(|suffix| self.names.contains_key(&backwards(suffix)))
        };
        match host {
            HostPattern::Any => {
                let all = self.names.values().cloned();
                all.chain(self.any.then_some(HostPattern::Any)).collect()
            }
            HostPattern::Exact(name) => {
                let taken = self.any || self.names.contains_key(&backwards(name)) || is_below_one(name);
                taken.then(|| host.clone()).into_iter().collect()
            }
            HostPattern::Below(suffix) if self.any || is_below_one(suffix) => {
                self.below(suffix).chain([host.clone()]).collect()
            }
            HostPattern::Below(suffix) => self.below(suffix).collect(),
        }
    }

    /// Those that end with a suffix.
    fn below(&self, suffix: &str) -> impl Iterator<Item = HostPattern> {
        let start = backwards(suffix);
        let from = self.names.range(start.clone()..);
        from.take_while(move |(name, _)| name.starts_with(&start)).map(|(_, host)| host.clone())
    }
}

fn backwards(name: &str) -> String {
    name.chars().rev().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern() -> impl Strategy<Value = HostPattern> {
        let host = "[ab](\\.[ab]){0,2}";
        prop_oneof![
            1 => Just(HostPattern::Any),
            4 => host.prop_map(HostPattern::Exact),
            4 => host.prop_map(|host| HostPattern::Below(format!(".{host}"))),
        ]
    }

    proptest! {
        /// The intersection of each with each.
        #[test]
        fn the_shared_hosts_are_all_that_two_patterns_share(
            taken in prop::collection::vec(pattern(), 0..8),
            host in pattern(),
        ) {
            let mut hosts = Hosts::default();
            taken.iter().for_each(|taken| hosts.add(taken));
            let shared: HashSet<HostPattern> = hosts.shared_with(&host).into_iter().collect();
            let expected: HashSet<HostPattern> =
                taken.iter().filter_map(|taken| host.intersection(taken)).collect();
            prop_assert_eq!(shared, expected);
        }
    }
}
