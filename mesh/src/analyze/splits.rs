//! The stray dash: what was meant together stands apart, and either of it is enough.

use super::Found;
use crate::finding::{Code, Finding};
use crate::policy::authz::{Fields, RuleDescription};
use crate::resource::{AuthorizationPolicy, Resources};

pub(super) fn find(resources: &Resources, found: &mut Found) {
    for policy in &resources.authorization_policies {
        let rules: Vec<RuleDescription> = policy.rules.iter().map(RuleDescription::of).collect();
        for (number, pair) in rules.windows(2).enumerate() {
            if let [first, second] = pair
                && let Some(message) = split_rule(policy, number, first, second)
            {
                found.add(Finding::new(Code::RulesSplit, &policy.meta.place, message));
            }
        }
        for (number, rule) in rules.iter().enumerate() {
            for message in [
                split_entries(policy, number, rule, "source"),
                split_entries(policy, number, rule, "operation"),
            ] {
                found.all_of(
                    message.map(|message| Finding::new(Code::EntriesSplit, &policy.meta.place, message)),
                );
            }
        }
    }
}

/// A dash before `to` or `when` makes a rule of its own of it.
fn split_rule(
    policy: &AuthorizationPolicy,
    number: usize,
    who: &RuleDescription,
    what: &RuleDescription,
) -> Option<String> {
    let says_only_who = !who.from.is_empty() && who.to.is_empty() && who.when.is_empty();
    let says_only_what = what.from.is_empty() && !(what.to.is_empty() && what.when.is_empty());
    (says_only_who && says_only_what).then(|| {
        format!(
            "rule[{number}] of AuthorizationPolicy {} says only who, and rule[{}] only what: as written, {}, and {}",
            policy.meta.full_name(),
            number + 1,
            who.in_a_sentence(policy.action),
            what.in_a_sentence(policy.action),
        )
    })
}

/// A dash before each `source` or `operation` makes alternatives of them. Where all ask for the same field, that is meant.
fn split_entries(
    policy: &AuthorizationPolicy,
    number: usize,
    rule: &RuleDescription,
    entry: &str,
) -> Option<String> {
    let (entries, words) = match entry {
        "source" => (&rule.from, rule.who()),
        _ => (&rule.to, rule.what()),
    };
    let only_field = |fields: &Fields| match fields.keys().collect::<Vec<_>>().as_slice() {
        [only] => Some((*only).clone()),
        _ => None,
    };
    let fields: Vec<String> = entries.iter().map(only_field).collect::<Option<_>>()?;
    let first = fields.first()?;
    fields.iter().any(|field| field != first).then(|| {
        format!(
            "rule[{number}] of AuthorizationPolicy {} has {} {entry} entries with one field each ({}): as written, either is \
             enough: {words}",
            policy.meta.full_name(),
            fields.len(),
            fields.join(", "),
        )
    })
}
