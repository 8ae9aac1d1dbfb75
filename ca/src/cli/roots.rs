//! `pillion-ca root …`: the roots for people, beside a CA that serves or not.

use std::fmt::Write;
use std::time::SystemTime;

use anyhow::anyhow;
use pillion_mesh::duration;
use pillion_mesh::signers::{Facts, Hindrance, Policy, Signers, Step};
use pillion_mesh::wire::rfc3339;

use super::{Configuration, Failure, RootCommand, clock_beside, print};
use crate::settings::Settings;
use crate::store::{self, SignerFiles};

pub(super) fn run(command: RootCommand) -> Result<(), Failure> {
    match command {
        RootCommand::Status { configuration } => Roots::of(configuration)?.status(),
        RootCommand::Prepare { configuration } => Roots::of(configuration)?.prepare(),
        RootCommand::Activate { configuration, force } => Roots::of(configuration)?.activate(force),
        RootCommand::Retire { configuration, name, force } => {
            Roots::of(configuration)?.retire(name.as_deref(), force)
        }
    }
}

/// The roots in the state folder, and what is so now.
struct Roots {
    settings: Settings,
    files: SignerFiles,
    facts: Facts,
    policy: Policy,
}

impl Roots {
    fn of(configuration: Configuration) -> Result<Self, Failure> {
        let settings = configuration.load()?;
        let clock = clock_beside(&settings)?;
        let files = store::signers_beside(&settings.state, &settings.trust_domain, settings.rotation.root)?;
        let now = clock.now();
        let facts = Facts { now, serving: store::serving_beside(&settings.state, now) };
        let policy = settings.rotation.policy(clock);
        Ok(Roots { settings, files, facts, policy })
    }

    fn status(&self) -> Result<(), Failure> {
        let signers = self.files.read()?;
        let mut text =
            format!("trust domain  {}\nsequence      {}\n", self.settings.trust_domain, signers.sequence());
        for signer in signers.published() {
            let root = self.files.summary(&signer.name)?;
            let _ = write!(
                text,
                "\nroot          {} ({})\nsubject       {}\nnot before    {}\nnot after     {}\nSHA-256       {}\npublished     {}\n",
                signer.name,
                signer.stage().as_str(),
                root.subject,
                rfc3339::print(root.not_before),
                rfc3339::print(root.not_after),
                root.sha256,
                rfc3339::print(signer.published),
            );
            let mut line = |what: &str, at: Option<SystemTime>| {
                if let Some(at) = at {
                    let _ = writeln!(text, "{what}{}", rfc3339::print(at));
                }
            };
            line("signs since   ", signer.activated);
            line("signed until  ", signer.replaced);
            let _ = writeln!(text, "longest life  {}", duration::print(signer.longest));
        }
        let _ = write!(text, "\n{}", self.outlook(&signers));
        print(&text)
    }

    /// What comes next by age, in words.
    fn outlook(&self, signers: &Signers) -> String {
        let by = if self.settings.rotation.automatic {
            "by the CA itself, while it serves"
        } else {
            "by you: rotation.automatic is off"
        };
        match signers.step(&self.facts, &self.policy) {
            Step::Prepare { why } => format!("next          prepare now, {by}: {why}"),
            Step::Activate { why } => format!("next          activate now, {by}: {why}"),
            Step::Retire { name, why } => format!("next          retire {name} now, {by}: {why}"),
            Step::Wait { until, why } => {
                format!("next          nothing before {}, then {by}: {why}", rfc3339::print(until))
            }
        }
    }

    fn prepare(&self) -> Result<(), Failure> {
        if self.settings.signer.is_some() {
            let fault = "the signer is external: replace its files, and the CA takes them up";
            return Err(Failure::Configuration(anyhow!(fault)));
        }
        let now = self.facts.now;
        let mut name = String::new();
        self.files.change(|signers| {
            signers.can_prepare()?;
            let root = self.files.make(now)?;
            root.name().clone_into(&mut name);
            signers.prepare(root.record(now, self.settings.workload_ttl.default))?;
            Ok::<_, Failure>(())
        })?;
        let signers = self.files.read()?;
        let known = match signers.can_activate(&self.facts, &self.policy) {
            Err(Hindrance::PublishedTooShortly { until, .. }) => {
                format!("everybody knows it from {} on", rfc3339::print(until))
            }
            _ => "it can be activated".to_owned(),
        };
        let serving = if self.facts.serving.is_zero() {
            "; a CA that serves with this state folder publishes it"
        } else {
            ""
        };
        print(&format!("root {name} is the next one; {known}{serving}"))
    }

    fn activate(&self, force: bool) -> Result<(), Failure> {
        let mut names = (String::new(), String::new());
        self.files.change(|signers| {
            allow(signers.can_activate(&self.facts, &self.policy), force)?;
            names.1.clone_from(&signers.current().name);
            signers.activate(self.facts.now)?;
            names.0.clone_from(&signers.current().name);
            Ok::<_, Failure>(())
        })?;
        print(&format!(
            "root {} signs from now on; {} stays in the bundle until it is retired",
            names.0, names.1
        ))
    }

    fn retire(&self, name: Option<&str>, force: bool) -> Result<(), Failure> {
        let mut retired = Vec::new();
        self.files.change(|signers| {
            let old: Vec<String> = match name {
                Some(name) => vec![name.to_owned()],
                None => signers.old().iter().map(|signer| signer.name.clone()).collect(),
            };
            for name in old {
                allow(signers.can_retire(&name, &self.facts, &self.policy), force)?;
                signers.retire(&name)?;
                retired.push(name);
            }
            Ok::<_, Failure>(())
        })?;
        if retired.is_empty() {
            return Err(anyhow!("there is no old root; the current one can only be replaced").into());
        }
        print(&format!("withdrawn from the bundle: {}", retired.join(", ")))
    }
}

/// Lets a person go on where that cuts somebody off, if it is wanted.
fn allow(allowed: Result<(), Hindrance>, force: bool) -> Result<(), Failure> {
    match allowed {
        Err(hindrance) if hindrance.can_be_forced() && !force => {
            Err(anyhow!("{hindrance}; nothing was changed; --force does it nevertheless").into())
        }
        Err(hindrance) if !hindrance.can_be_forced() => Err(hindrance.into()),
        _ => Ok(()),
    }
}
