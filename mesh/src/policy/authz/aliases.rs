//! Trust domains that stand for each other in policies (Istio's `trustDomainAliases`).

use crate::resource::Pattern;
use crate::spiffe::TrustDomain;

/// In a policy it means the mesh's own trust domain, whatever that is called.
const ANY_MESH: &str = "cluster.local";

/// The workload's trust domain and its aliases.
#[derive(Debug)]
pub(super) struct TrustDomains(Vec<String>);

impl TrustDomains {
    pub(super) fn new(own: &TrustDomain, aliases: &[TrustDomain]) -> Self {
        let mut all: Vec<String> = Vec::with_capacity(1 + aliases.len());
        for name in [own].into_iter().chain(aliases) {
            if !all.iter().any(|known| known == name.as_str()) {
                all.push(name.as_str().to_owned());
            }
        }
        Self(all)
    }

    /// The principals that a policy's stands for: of an own, an aliased or the `cluster.local` trust domain it is that
    /// of each. A principal that is not `<trust domain>/ns/<namespace>/sa/<service account>` stands for itself.
    pub(super) fn principals(&self, principal: &Pattern) -> Vec<Pattern> {
        let written = principal.to_string();
        let path = written.split_once('/').filter(|(_, path)| path.split('/').count() == 4);
        let Some((trust_domain, path)) = path else {
            return vec![principal.clone()];
        };
        // Of `*-td` any trust domain that ends so is meant, of `*` any.
        let is_meant = |name: &str| match trust_domain.strip_prefix('*') {
            Some(end) => name.ends_with(end),
            None => name == trust_domain,
        };
        if trust_domain != ANY_MESH && !self.0.iter().any(|name| is_meant(name)) {
            return vec![principal.clone()];
        }
        let mut principals: Vec<Pattern> = Vec::with_capacity(self.0.len());
        for name in &self.0 {
            let replaced = if is_meant(name) {
                Ok(principal.clone())
            } else {
                Pattern::parse(&format!("{name}/{path}"))
            };
            principals.extend(replaced.ok().filter(|replaced| !principals.contains(replaced)));
        }
        principals
    }

    /// The trust domains that a policy's stands for.
    pub(super) fn trust_domains(&self, trust_domain: &Pattern) -> Vec<Pattern> {
        match trust_domain {
            Pattern::Exact(name) if self.0.contains(name) => {
                self.0.iter().cloned().map(Pattern::Exact).collect()
            }
            other => vec![other.clone()],
        }
    }
}
