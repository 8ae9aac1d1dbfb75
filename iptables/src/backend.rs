//! Which iptables to use: the program exists twice, on top of nf_tables and of the older x_tables, each with rules of its
//! own, and a host may have both.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use crate::arguments::BackendChoice;
use crate::command::{self, CommandError, LOCK_WAIT};
use crate::plan::{Family, Table};
use crate::render::{NOTE_TABLE_ADDED, RuleSet};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Nft,
    Legacy,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        })
    }
}

#[derive(Debug, Error)]
pub(crate) enum BackendError {
    #[error("iptables-restore is not installed: install iptables (Debian and Alpine: package `iptables`)")]
    NotInstalled,
    #[error("there is no iptables with the {0} back end on this host: install it, or leave --backend out")]
    NoSuchKind(Kind),
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// One of the two, with the programs of a family that are installed.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    pub(crate) kind: Kind,
    v4: Programs,
    v6: Option<Programs>,
}

#[derive(Debug, Clone)]
struct Programs {
    save: PathBuf,
    restore: PathBuf,
}

impl Programs {
    /// For example of `iptables-nft`.
    fn find(name: &str) -> Option<Self> {
        Some(Self {
            save: command::find(&format!("{name}-save"))?,
            restore: command::find(&format!("{name}-restore"))?,
        })
    }
}

impl Backend {
    /// Its programs under their own names, or under the plain name where that is this back end.
    fn find(kind: Kind, plain: Option<Kind>) -> Option<Self> {
        let named = |plain_name: &str| {
            Programs::find(&format!("{plain_name}-{kind}"))
                .or_else(|| if plain == Some(kind) { Programs::find(plain_name) } else { None })
        };
        Some(Self { kind, v4: named("iptables")?, v6: named("ip6tables") })
    }

    pub(crate) fn has(&self, family: Family) -> bool {
        self.programs(family).is_some()
    }

    fn programs(&self, family: Family) -> Option<&Programs> {
        match family {
            Family::V4 => Some(&self.v4),
            Family::V6 => self.v6.as_ref(),
        }
    }

    /// The rules that there are. An absent family has none.
    pub(crate) fn installed(&self, family: Family) -> Result<RuleSet, CommandError> {
        self.save(family, &[]).map(|saved| RuleSet::parse(&saved))
    }

    /// What `iptables-save` says. Without `-t` it looks at tables that exist and makes none.
    pub(crate) fn save(&self, family: Family, arguments: &[&str]) -> Result<String, CommandError> {
        self.programs(family)
            .map_or(Ok(String::new()), |programs| command::run(&programs.save, arguments, ""))
    }

    /// Has the input read and understood, without effect. The nft back end finds few faults before it commits.
    pub(crate) fn test(&self, family: Family, input: &str) -> Result<(), CommandError> {
        self.restore(family, &["--test", "--noflush", LOCK_WAIT], input)
    }

    /// Puts the input into effect, table by table, each at once; all other rules stay.
    pub(crate) fn commit(&self, family: Family, input: &str) -> Result<(), CommandError> {
        self.restore(family, &["--noflush", LOCK_WAIT], input)
    }

    fn restore(&self, family: Family, arguments: &[&str], input: &str) -> Result<(), CommandError> {
        let Some(programs) = self.programs(family) else { return Ok(()) };
        command::run(&programs.restore, arguments, input).map(drop)
    }

    /// The command line of [`Self::commit`], for people.
    pub(crate) fn commit_in_words(&self, family: Family) -> String {
        self.programs(family)
            .map_or(String::new(), |p| command::in_words(&p.restore, &["--noflush", LOCK_WAIT]))
    }

    /// Removes the tables that `apply` made, noted in `from` and no more in `to`, if nobody uses them by now.
    ///
    /// Only the nft back end can: a table of the legacy back end, once used, stays in its namespace, empty. The removal
    /// is the one place without `--noflush`; the table was seen to be empty just before.
    pub(crate) fn drop_added_tables(
        &self,
        family: Family,
        from: &RuleSet,
        to: &RuleSet,
    ) -> Result<(), CommandError> {
        let noted =
            |table: &Table| from.has_note(*table, NOTE_TABLE_ADDED) && !to.has_note(*table, NOTE_TABLE_ADDED);
        if self.kind != Kind::Nft || !Table::ALL.iter().any(noted) {
            return Ok(());
        }
        for (table, rules) in self.installed(family)?.0.iter().filter(|(table, _)| noted(table)) {
            if rules.is_empty() && !rules.foreign {
                self.restore(family, &[LOCK_WAIT], &format!("*{table}\nCOMMIT\n"))?;
            }
        }
        Ok(())
    }
}

/// The back ends of this host, the one behind the plain name `iptables` first.
#[derive(Debug)]
pub(crate) struct Backends(Vec<Backend>);

impl Backends {
    /// # Errors
    /// Where there is no iptables at all.
    pub(crate) fn find() -> Result<Self, BackendError> {
        let plain = match command::find("iptables-restore") {
            Some(program) => Some(kind_of_version(&command::run(&program, &["--version"], "")?)),
            None => None,
        };
        let order =
            if plain == Some(Kind::Legacy) { [Kind::Legacy, Kind::Nft] } else { [Kind::Nft, Kind::Legacy] };
        let found: Vec<_> = order.into_iter().filter_map(|kind| Backend::find(kind, plain)).collect();
        if found.is_empty() { Err(BackendError::NotInstalled) } else { Ok(Self(found)) }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Backend> {
        self.0.iter()
    }

    pub(crate) fn others<'a>(&'a self, chosen: &'a Backend) -> impl Iterator<Item = &'a Backend> {
        self.iter().filter(|backend| backend.kind != chosen.kind)
    }

    /// The back end to use, and why that one.
    ///
    /// # Errors
    /// Where the one asked for is not there, or none can be read.
    pub(crate) fn choose(&self, choice: BackendChoice) -> Result<(&Backend, &'static str), BackendError> {
        let kind = match choice {
            BackendChoice::Auto => return self.in_use(),
            BackendChoice::Nft => Kind::Nft,
            BackendChoice::Legacy => Kind::Legacy,
        };
        let chosen =
            self.iter().find(|backend| backend.kind == kind).ok_or(BackendError::NoSuchKind(kind))?;
        Ok((chosen, "as asked for"))
    }

    fn in_use(&self) -> Result<(&Backend, &'static str), BackendError> {
        let mut readable = Vec::new();
        let mut failed = None;
        for backend in self.iter() {
            match backend.installed(Family::V4) {
                Ok(rules) => readable.push((backend, rules)),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let first =
            |wanted: fn(&RuleSet) -> bool| readable.iter().find(|(_, rules)| wanted(rules)).map(|(b, _)| *b);
        if let Some(backend) = first(|rules| !rules.is_empty()) {
            Ok((backend, "it has pillion's rules"))
        } else if let Some(backend) = first(RuleSet::is_in_use) {
            Ok((backend, "it has rules already"))
        } else if let Some(backend) = first(|_| true) {
            Ok((
                backend,
                if failed.is_some() {
                    "the other one does not work here"
                } else {
                    "the default, none has rules"
                },
            ))
        } else {
            Err(failed.map_or(BackendError::NotInstalled, BackendError::Command))
        }
    }
}

/// `iptables-restore v1.8.9 (nf_tables)`; before 1.8 there was only what is called legacy since.
fn kind_of_version(version: &str) -> Kind {
    if version.contains("(nf_tables)") { Kind::Nft } else { Kind::Legacy }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("iptables-restore v1.8.9 (nf_tables)\n", Kind::Nft)]
    #[case("iptables-restore v1.8.9 (legacy)\n", Kind::Legacy)]
    #[case("iptables-restore v1.6.2\n", Kind::Legacy)]
    fn the_version_tells_the_back_end(#[case] version: &str, #[case] kind: Kind) {
        assert_eq!(kind_of_version(version), kind);
    }
}
