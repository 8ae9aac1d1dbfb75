//! Rules as text: what `iptables-restore --noflush` is given, and what `iptables-save` says.
//!
//! A rule is written exactly as `iptables-save` writes it, so that what the kernel has can be compared with what is
//! wished for, line by line. Where another version of iptables writes a rule differently the comparison fails, and the
//! same rules are installed once more, which harms nothing.
//!
//! One function, [`restore_input`], leads from any state of pillion's chains to any other: it installs, replaces, removes
//! and rolls back. Running it is left to [`crate::apply`].

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use crate::capture::Mark;
use crate::plan::{Action, Family, Match, Plan, Rule, Table};

/// What every chain of pillion begins with.
pub(crate) const CHAIN_PREFIX: &str = "PILLION_";

/// An empty chain that notes for `clean`: the table was not there before. The note lives and dies with the rules.
pub(crate) const NOTE_TABLE_ADDED: &str = "PILLION_ADDED_TABLE";
/// An empty chain that notes for `clean`: the address ::6 was not on lo before.
pub(crate) const NOTE_ADDRESS_ADDED: &str = "PILLION_ADDED_ADDRESS";

/// What there is of pillion in the tables of one family. A table that does not exist has no entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RuleSet(pub(crate) BTreeMap<Table, TableRules>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TableRules {
    /// Names of pillion's chains, notes included.
    pub(crate) chains: Vec<String>,
    /// Rules of other chains that lead into pillion's.
    pub(crate) jumps: Vec<Line>,
    /// Rules of pillion's chains, in order within each chain.
    pub(crate) rules: Vec<Line>,
    /// Whether others have rules, chains or a policy in this table.
    pub(crate) foreign: bool,
}

/// A line that starts with `-A`. Two are equal if their text is.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) why: Option<String>,
}

impl PartialEq for Line {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Line {}

impl Line {
    /// The chain that the rule is in.
    pub(crate) fn chain(&self) -> &str {
        self.text.split(' ').nth(1).unwrap_or_default()
    }
}

impl TableRules {
    pub(crate) fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.jumps.is_empty()
    }

    pub(crate) fn has_note(&self, note: &str) -> bool {
        self.chains.iter().any(|chain| chain == note)
    }

    fn rules_by_chain(&self) -> BTreeMap<&str, Vec<&Line>> {
        let mut chains: BTreeMap<&str, Vec<&Line>> =
            self.chains.iter().map(|c| (c.as_str(), Vec::new())).collect();
        for rule in &self.rules {
            chains.entry(rule.chain()).or_default().push(rule);
        }
        chains
    }
}

impl RuleSet {
    /// What the plan wants.
    pub(crate) fn of_plan(plan: &Plan) -> Self {
        let mut tables: BTreeMap<Table, TableRules> = BTreeMap::new();
        for rule in &plan.rules {
            let table = tables.entry(rule.table).or_default();
            let name = rule.chain.name().to_owned();
            let line = Line { text: format!("-A {name}{}", spec(rule)), why: Some(rule.why.clone()) };
            if rule.chain.is_the_kernels() {
                table.jumps.push(line);
            } else {
                table.rules.push(line);
                if !table.chains.contains(&name) {
                    table.chains.push(name);
                }
            }
        }
        Self(tables)
    }

    /// What `iptables-save` said.
    pub(crate) fn parse(saved: &str) -> Self {
        let mut tables = BTreeMap::new();
        let mut current = None;
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                current = Table::ALL.into_iter().find(|table| table.to_string() == name);
                if let Some(table) = current {
                    tables.insert(table, TableRules::default());
                }
            } else if let Some(table) = current.and_then(|table| tables.get_mut(&table)) {
                table.read(line);
            }
        }
        Self(tables)
    }

    /// Whether anything of pillion is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.values().all(TableRules::is_empty)
    }

    /// Whether anybody has rules there.
    pub(crate) fn is_in_use(&self) -> bool {
        self.0.values().any(|table| table.foreign || !table.is_empty())
    }

    pub(crate) fn has_note(&self, table: Table, note: &str) -> bool {
        self.0.get(&table).is_some_and(|rules| rules.has_note(note))
    }

    pub(crate) fn add_note(&mut self, table: Table, note: &str) {
        if let Some(rules) = self.0.get_mut(&table)
            && !rules.has_note(note)
        {
            rules.chains.push(note.to_owned());
        }
    }
}

impl TableRules {
    /// Takes in a line of `iptables-save` between `*table` and `COMMIT`.
    fn read(&mut self, line: &str) {
        if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split(' ');
            let (name, policy) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            if name.starts_with(CHAIN_PREFIX) {
                self.chains.push(name.to_owned());
            } else {
                self.foreign |= policy != "ACCEPT";
            }
        } else if line.starts_with("-A ") {
            let line = Line { text: line.to_owned(), why: None };
            if line.chain().starts_with(CHAIN_PREFIX) {
                self.rules.push(line);
            } else if leads_to_pillion(&line.text) {
                self.jumps.push(line);
            } else {
                self.foreign = true;
            }
        }
    }
}

fn leads_to_pillion(rule: &str) -> bool {
    let mut words = rule.split(' ').rev();
    let target = words.next().unwrap_or_default();
    target.starts_with(CHAIN_PREFIX) && matches!(words.next(), Some("-j" | "-g"))
}

/// The input of `iptables-restore --noflush` that makes `to` of `from`; none where they are equal.
///
/// It touches pillion's chains and the rules that lead into them, nothing else, and takes effect table by table, each
/// at once.
pub(crate) fn restore_input(from: &RuleSet, to: &RuleSet) -> Option<String> {
    let nothing = TableRules::default();
    let mut text = String::new();
    for table in Table::ALL {
        let (from, to) = (from.0.get(&table).unwrap_or(&nothing), to.0.get(&table).unwrap_or(&nothing));
        let change = TableChange { table, from, to };
        if !change.is_none() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{change}");
        }
    }
    (!text.is_empty()).then_some(text)
}

struct TableChange<'a> {
    table: Table,
    from: &'a TableRules,
    to: &'a TableRules,
}

impl TableChange<'_> {
    fn is_none(&self) -> bool {
        missing_from(&self.from.jumps, &self.to.jumps).is_empty()
            && missing_from(&self.to.jumps, &self.from.jumps).is_empty()
            && self.from.rules_by_chain() == self.to.rules_by_chain()
    }
}

impl fmt::Display for TableChange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, from, to } = self;
        writeln!(f, "*{table}")?;
        for chain in &to.chains {
            // Makes the chain, or empties it.
            writeln!(f, ":{chain} - [0:0]")?;
        }
        for stale in missing_from(&from.jumps, &to.jumps) {
            writeln!(f, "-D{}", stale.text.trim_start_matches("-A"))?;
        }
        for line in missing_from(&to.jumps, &from.jumps).into_iter().chain(&to.rules) {
            if let Some(why) = &line.why {
                writeln!(f, "# {why}")?;
            }
            writeln!(f, "{}", line.text)?;
        }
        let stale: Vec<_> = from.chains.iter().filter(|chain| !to.chains.contains(chain)).collect();
        for chain in &stale {
            writeln!(f, "-F {chain}")?;
        }
        for chain in &stale {
            writeln!(f, "-X {chain}")?;
        }
        writeln!(f, "COMMIT")
    }
}

/// The lines that are not in `others`, each counted as often as it occurs.
fn missing_from<'a>(lines: &'a [Line], others: &[Line]) -> Vec<&'a Line> {
    let mut others: Vec<&Line> = others.iter().collect();
    lines
        .iter()
        .filter(|line| match others.iter().position(|other| other == line) {
            Some(at) => {
                others.swap_remove(at);
                false
            }
            None => true,
        })
        .collect()
}

/// The rule without its chain: matches and target, with a space before each.
pub(crate) fn spec(rule: &Rule) -> String {
    let matches: String = rule.matches.iter().map(|m| format!(" {m}")).collect();
    format!("{matches} -j {}", rule.action)
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(range) => write!(f, "-s {range}"),
            Self::Destination(range) => write!(f, "-d {range}"),
            Self::NotDestination(range) => write!(f, "! -d {range}"),
            Self::InLoopback => write!(f, "-i lo"),
            Self::OutLoopback => write!(f, "-o lo"),
            Self::Tcp => write!(f, "-p tcp"),
            Self::DestinationPort(port) => write!(f, "-m tcp --dport {port}"),
            Self::Uid(uid) => write!(f, "-m owner --uid-owner {uid}"),
            Self::Gid(gid) => write!(f, "-m owner --gid-owner {gid}"),
            Self::Mark(Mark(mark)) => write!(f, "-m mark --mark {mark:#x}"),
            Self::NotMark(Mark(mark)) => write!(f, "-m mark ! --mark {mark:#x}"),
            Self::ConnectionMark(Mark(mark)) => write!(f, "-m connmark --mark {mark:#x}"),
            Self::Established => write!(f, "-m conntrack --ctstate RELATED,ESTABLISHED"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ALL_BITS: &str = "0xffffffff";
        match self {
            Self::Return => write!(f, "RETURN"),
            Self::Jump(chain) => write!(f, "{chain}"),
            Self::Redirect(port) => write!(f, "REDIRECT --to-ports {port}"),
            Self::Tproxy(family, port) => {
                let any = if *family == Family::V4 { "0.0.0.0" } else { "::" };
                write!(f, "TPROXY --on-port {port} --on-ip {any} --tproxy-mark 0x0/0x0")
            }
            Self::SetMark(Mark(mark)) => write!(f, "MARK --set-xmark {mark:#x}/{ALL_BITS}"),
            Self::SaveMark => write!(f, "CONNMARK --save-mark --nfmask {ALL_BITS} --ctmask {ALL_BITS}"),
            Self::RestoreMark => write!(f, "CONNMARK --restore-mark --nfmask {ALL_BITS} --ctmask {ALL_BITS}"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
