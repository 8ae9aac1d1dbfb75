//! Answers, tables and matrices as text.

use std::fmt::{self, Display, Formatter};

use super::{About, Access, AccessTable, Answer, DryRun, Matrix, May, Pair, Step};
use crate::policy::authz::{PolicyDescription, RuleDescription};
use crate::words::Columns;

impl Display for Answer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { allowed, workload, port, caller, request, steps, policies, .. } = self;
        let what = request.as_deref().unwrap_or("connect");
        writeln!(f, "May {caller} {what} at port {port} of {workload}?")?;
        steps.iter().try_for_each(|step| writeln!(f, "  {step}"))?;
        policies
            .iter()
            .try_for_each(|policy| writeln!(f, "  {}", policy.to_string().replace('\n', "\n  ")))?;
        if let Some(rule) = &self.audited {
            writeln!(f, "audited: {rule} matches")?;
        }
        self.dry_run.iter().try_for_each(|run| writeln!(f, "{run}"))?;
        let outcome = if *allowed { "allowed" } else { "denied" };
        write!(f, "{outcome}")?;
        if let Some(reason) = self.reason {
            let gets = match self.status {
                Some(403) => "the client gets 403 `RBAC: access denied`".to_owned(),
                Some(status) => format!("the client gets {status}"),
                None => "the connection is reset".to_owned(),
            };
            write!(f, ": {reason}; {gets}\n  cure: {}", reason.cure())?;
        }
        Ok(())
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mark = if self.passed { "√" } else { "×" };
        write!(f, "{mark} {:<9} {}", self.about.as_str(), self.because)
    }
}

impl About {
    fn as_str(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Request => "request",
            Self::Policies => "policies",
        }
    }
}

impl Display for DryRun {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let outcome = if self.allowed { "allowed" } else { "denied" };
        let because =
            self.rule.as_ref().map_or("no rule matches".to_owned(), |rule| format!("{rule} matches"));
        write!(f, "dry run of {}: would be {outcome}: {because}", self.action)
    }
}

impl Display for AccessTable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.policies.is_empty() {
            writeln!(f, "No AuthorizationPolicy applies to {}.", self.workload)?;
        } else {
            let head = ["ACTION", "AuthorizationPolicy", "RULE", "FROM", "TO", "WHEN"].map(str::to_owned);
            let rows: Vec<[String; 6]> =
                [head].into_iter().chain(self.policies.iter().flat_map(rows)).collect();
            write!(f, "{}", Columns(&rows))?;
        }
        let outcome = if self.everybody_else.allowed { "allowed" } else { "denied" };
        write!(f, "everybody else: {outcome}, since {}", self.everybody_else.because)
    }
}

/// A row for each rule; one for a policy without rules.
fn rows(policy: &PolicyDescription) -> Vec<[String; 6]> {
    let PolicyDescription { name, action, dry_run, rules, .. } = policy;
    let action = format!("{action}{}", if *dry_run { " (dry run)" } else { "" });
    if rules.is_empty() {
        let nobody = "nobody: it has no rules".to_owned();
        return vec![[action, name.clone(), "-".to_owned(), nobody, "-".to_owned(), "-".to_owned()]];
    }
    let row = |(number, rule): (usize, &RuleDescription)| {
        let when = if rule.when.is_empty() { "-".to_owned() } else { rule.when() };
        [action.clone(), name.clone(), number.to_string(), rule.who(), rule.what(), when]
    };
    rules.iter().enumerate().map(row).collect()
}

impl Display for Matrix {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.called.is_empty() {
            return write!(f, "No workload is known that could be called.");
        }
        let head = ["FROM", "TO", "PORT", "MAY"].map(str::to_owned);
        let allowed = self.pairs.iter().filter(|pair| pair.access != Access::None);
        let rows: Vec<[String; 4]> = [head].into_iter().chain(allowed.flat_map(pair_rows)).collect();
        let (pairs, shown) =
            (self.pairs.len(), self.pairs.iter().filter(|pair| pair.access != Access::None).count());
        write!(f, "{}", self.grid())?;
        writeln!(f)?;
        write!(f, "{}", Columns(&rows))?;
        write!(f, "{shown} of {pairs} pairs may talk; every other is denied")?;
        self.notes.iter().try_for_each(|note| write!(f, "\nnote: {note}"))
    }
}

impl Matrix {
    /// Callers by called: `all`, `some` or `-`; with several ports, the widest and the narrowest.
    fn grid(&self) -> String {
        let cell = |from: &String, to: &String| {
            let of_pair = self.pairs.iter().filter(|pair| pair.from == *from && pair.to == *to);
            let accesses: Vec<Access> = of_pair.map(|pair| pair.access).collect();
            match (accesses.iter().min(), accesses.iter().max()) {
                (Some(Access::All), _) => "all",
                (_, Some(Access::None)) | (None, _) => "-",
                _ => "some",
            }
        };
        let head = ["FROM \\ TO".to_owned()].into_iter().chain(self.called.iter().cloned()).collect();
        let row = |from: &String| -> Vec<String> {
            let cells = self.called.iter().map(|to| cell(from, to).to_owned());
            [from.clone()].into_iter().chain(cells).collect()
        };
        let rows: Vec<Vec<String>> = [head].into_iter().chain(self.callers.iter().map(row)).collect();
        Columns(&rows).to_string()
    }
}

fn pair_rows(pair: &Pair) -> Vec<[String; 4]> {
    let port = pair.port.map_or("any".to_owned(), |port| port.to_string());
    let row = |may: String| [pair.from.clone(), pair.to.clone(), port.clone(), may];
    match pair.access {
        Access::Some => pair.may.iter().map(|may| row(may.to_string())).collect(),
        _ => vec![row("everything".to_owned())],
    }
}

impl Display for May {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let list = |of: &[String], all: &str| if of.is_empty() { all.to_owned() } else { of.join(", ") };
        write!(f, "{} on {}", list(&self.methods, "every method"), list(&self.paths, "every path"))
    }
}
