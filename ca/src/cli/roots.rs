//! `pillion-ca root …`: the roots for people, beside a CA that serves or not.

use std::fmt::{self, Display, Formatter};

use anyhow::anyhow;
use pillion_mesh::duration;
use pillion_mesh::signers::{Facts, Hindrance, Policy, Signer, Signers, Step};
use pillion_mesh::wire::rfc3339;
use serde::Serialize;

use super::{Configuration, Failure, Output, RootCommand, clock_beside, print};
use crate::settings::Settings;
use crate::store::{self, SignerFiles};

pub(super) fn run(command: RootCommand) -> Result<(), Failure> {
    match command {
        RootCommand::Status { configuration, output } => Roots::of(configuration)?.status(output),
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

    fn status(&self, output: Output) -> Result<(), Failure> {
        let signers = self.files.read()?;
        let roots = signers.published().map(|signer| self.root(signer)).collect::<Result<_, Failure>>()?;
        let status = Status {
            trust_domain: self.settings.trust_domain.to_string(),
            sequence: signers.sequence(),
            roots,
            next: self.outlook(&signers),
        };
        output.print(&status, &status.to_string())
    }

    fn root(&self, signer: &Signer) -> Result<Root, Failure> {
        let root = self.files.summary(&signer.name)?;
        Ok(Root {
            name: signer.name.clone(),
            stage: signer.stage().as_str(),
            subject: root.subject,
            not_before: rfc3339::print(root.not_before),
            not_after: rfc3339::print(root.not_after),
            sha256: root.sha256,
            published: rfc3339::print(signer.published),
            signs_since: signer.activated.map(rfc3339::print),
            signed_until: signer.replaced.map(rfc3339::print),
            longest_life: duration::print(signer.longest),
        })
    }

    /// What comes next by age.
    fn outlook(&self, signers: &Signers) -> Next {
        let by = if self.settings.rotation.automatic {
            "by the CA itself, while it serves"
        } else {
            "by you: rotation.automatic is off"
        };
        let (step, not_before, why) = match signers.step(&self.facts, &self.policy) {
            Step::Prepare { why } => ("prepare".to_owned(), None, why),
            Step::Activate { why } => ("activate".to_owned(), None, why),
            Step::Retire { name, why } => (format!("retire {name}"), None, why),
            Step::Wait { until, why } => ("nothing".to_owned(), Some(rfc3339::print(until)), why),
        };
        Next { step, not_before, by, why: why.to_string() }
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

/// What is told of the roots.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    trust_domain: String,
    /// That of the bundle; it counts up with each change.
    sequence: u64,
    roots: Vec<Root>,
    next: Next,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Root {
    name: String,
    /// `current`, `next` or `old`.
    stage: &'static str,
    subject: String,
    not_before: String,
    not_after: String,
    sha256: String,
    published: String,
    signs_since: Option<String>,
    signed_until: Option<String>,
    /// The longest life that was granted under it.
    longest_life: String,
}

/// What comes next.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Next {
    /// `prepare`, `activate`, `retire ROOT`, or `nothing` as yet.
    step: String,
    /// The time before which nothing comes.
    not_before: Option<String>,
    /// Who does it.
    by: &'static str,
    why: String,
}

impl Display for Status {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { trust_domain, sequence, roots, next } = self;
        write!(f, "trust domain  {trust_domain}\nsequence      {sequence}\n")?;
        roots.iter().try_for_each(|root| write!(f, "\n{root}"))?;
        write!(f, "\n{next}")
    }
}

impl Display for Root {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "root          {} ({})", self.name, self.stage)?;
        writeln!(f, "subject       {}", self.subject)?;
        writeln!(f, "not before    {}", self.not_before)?;
        writeln!(f, "not after     {}", self.not_after)?;
        writeln!(f, "SHA-256       {}", self.sha256)?;
        writeln!(f, "published     {}", self.published)?;
        for (what, at) in [("signs since   ", &self.signs_since), ("signed until  ", &self.signed_until)] {
            if let Some(at) = at {
                writeln!(f, "{what}{at}")?;
            }
        }
        writeln!(f, "longest life  {}", self.longest_life)
    }
}

impl Display for Next {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { step, not_before, by, why } = self;
        match not_before {
            Some(until) => write!(f, "next          {step} before {until}, then {by}: {why}"),
            None => write!(f, "next          {step} now, {by}: {why}"),
        }
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
