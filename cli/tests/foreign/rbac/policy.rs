//! AuthorizationPolicies as data: written as Istio's YAML for pillion, and handed to [`super::istiod`] for Envoy.

use serde_json::{Map, Value, json};

/// The namespace of the workload that is asked.
pub(super) const OWN_NAMESPACE: &str = "default";
/// Istio's root namespace, whose policies reach every workload.
pub(super) const ROOT_NAMESPACE: &str = "istio-system";
/// The label `app` of the workload that is asked.
pub(super) const OWN_APP: &str = "backend";

#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) namespace: &'static str,
    /// The label `app` that its selector asks for.
    pub(super) app: Option<&'static str>,
    pub(super) action: Action,
    pub(super) dry_run: bool,
    pub(super) rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Deny,
    Audit,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Rule {
    /// Each the fields of one `source`.
    pub(super) from: Vec<Vec<Field>>,
    /// Each the fields of one `operation`.
    pub(super) to: Vec<Vec<Field>>,
    pub(super) when: Vec<Field>,
}

/// A field, or the key of a condition, with its values and those of its `not…` twin.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) values: Vec<String>,
    pub(super) not_values: Vec<String>,
}

impl Action {
    /// As it is written.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
        }
    }
}

impl Policy {
    /// Whether it reaches the workload that is asked.
    pub(super) fn applies(&self) -> bool {
        [OWN_NAMESPACE, ROOT_NAMESPACE].contains(&self.namespace) && self.app.is_none_or(|app| app == OWN_APP)
    }

    /// As Istio's resource. JSON is YAML.
    fn written(&self) -> Value {
        let mut spec = json!({"action": self.action.word()});
        if let Some(app) = self.app {
            spec["selector"] = json!({"matchLabels": {"app": app}});
        }
        if !self.rules.is_empty() {
            spec["rules"] = self.rules.iter().map(Rule::written).collect();
        }
        let mut metadata = json!({"name": self.name, "namespace": self.namespace});
        if self.dry_run {
            metadata["annotations"] = json!({"istio.io/dry-run": "true"});
        }
        json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": metadata,
            "spec": spec,
        })
    }
}

impl Rule {
    fn written(&self) -> Value {
        let list = |key: &str, alternatives: &[Vec<Field>]| -> Value {
            alternatives.iter().map(|fields| json!({ key: fields_written(fields) })).collect()
        };
        let condition = |field: &Field| {
            let Field { name, values, not_values } = field;
            json!({"key": name, "values": values, "notValues": not_values})
        };
        let mut written = Map::new();
        if !self.from.is_empty() {
            written.insert("from".to_owned(), list("source", &self.from));
        }
        if !self.to.is_empty() {
            written.insert("to".to_owned(), list("operation", &self.to));
        }
        if !self.when.is_empty() {
            written.insert("when".to_owned(), self.when.iter().map(condition).collect());
        }
        written.into()
    }
}

fn fields_written(fields: &[Field]) -> Value {
    let mut written = Map::new();
    for Field { name, values, not_values } in fields {
        let (first, rest) = name.split_at(1);
        written.insert((*name).to_owned(), json!(values));
        written.insert(format!("not{}{rest}", first.to_uppercase()), json!(not_values));
    }
    written.into()
}

/// All of them as one file.
pub(super) fn yaml(policies: &[Policy]) -> String {
    policies.iter().map(|policy| format!("---\n{}\n", policy.written())).collect()
}
