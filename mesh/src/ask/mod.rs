//! May somebody do something with a workload? The life of an inbound connection asked in advance, step by step: what its
//! port accepts, how its request is read, what the AuthorizationPolicies say.
//!
//! Every step is decided by the function that the proxy calls, so an answer is what the proxy would do. [`table`] shows
//! the policies without a caller, [`matrix`] asks for all known workloads at once. The admin API answers `/authz` by this
//! room, and `pillion authz check` asks it there or here.

mod matrix;
mod question;
mod table;
mod text;

pub use matrix::{Access, Matrix, May, Pair, matrix};
pub use question::{Asked, Question, QuestionError};
pub use table::{AccessTable, Others, table};

use serde::{Deserialize, Serialize};

use crate::policy::Snapshot;
use crate::policy::admit::{Admission, Observed, admit, needs_sniff};
use crate::policy::authz::{
    Denial, Explanation, Facts, HttpFacts, Policies, PolicyExplanation, ShadowResult,
};
use crate::policy::path::{Normalized, Refused, normalize};
use crate::policy::request::{Host, check_method, host, split_target};
use crate::reason::Reason;
use crate::spiffe::SpiffeId;
use crate::workload::Workload;

/// What would become of a connection or request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whether it reaches the app.
    pub allowed: bool,
    /// The workload that is called, `namespace/name`.
    pub workload: String,
    /// The port of the workload.
    pub port: u16,
    /// The caller's principal, or `plaintext`.
    pub caller: String,
    /// The request as it is judged, `GET orders/api/v1`, or as it was asked where it came to no judgment; none where the
    /// connection is judged as a whole.
    pub request: Option<String>,
    /// What was decided on the way, up to the first refusal.
    pub steps: Vec<Step>,
    /// The id of the refusal in log and metric.
    pub reason: Option<Reason>,
    /// What the client of a refused request gets; a refused connection is reset.
    pub status: Option<u16>,
    /// What each policy had to say, where it came to that.
    pub policies: Vec<PolicyExplanation>,
    /// The AUDIT rule that marks it.
    pub audited: Option<String>,
    /// What policies in dry run would have decided.
    pub dry_run: Vec<DryRun>,
}

/// One decision on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// What was asked.
    pub about: About,
    /// Whether it went on.
    pub passed: bool,
    /// Why.
    pub because: String,
}

/// What a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum About {
    /// What the port accepts.
    Port,
    /// How the request is read.
    Request,
    /// What the AuthorizationPolicies say.
    Policies,
}

/// What the policies of one action in dry run would have decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DryRun {
    /// `DENY` or `ALLOW`.
    pub action: String,
    /// Whether they would have allowed it.
    pub allowed: bool,
    /// The rule that would have matched.
    pub rule: Option<String>,
}

/// Answers a question about `workload`, for which `snapshot` was made.
#[must_use]
pub fn ask(snapshot: &Snapshot, workload: &Workload, question: &Question) -> Answer {
    let mut answer = Answer {
        allowed: false,
        workload: format!("{}/{}", workload.namespace, workload.name),
        port: question.port,
        caller: question.caller.as_ref().map_or("plaintext", SpiffeId::principal).to_owned(),
        request: None,
        steps: Vec::new(),
        reason: None,
        status: None,
        policies: Vec::new(),
        audited: None,
        dry_run: Vec::new(),
    };
    match reach(snapshot, question, &mut answer.steps) {
        Ok(reached) => answer.judge(&snapshot.authorization, &reached, question),
        Err(Refusal { reason, status }) => {
            answer.request = question.asked.as_ref().map(|asked| format!("{} {}", asked.method, asked.path));
            answer.reason = Some(reason);
            answer.status = status;
        }
    }
    answer.doubt_strangers(snapshot, workload, question);
    answer
}

/// The same as a bare yes or no, for asking many questions.
#[must_use]
pub fn may(snapshot: &Snapshot, question: &Question) -> bool {
    let reached = reach(snapshot, question, &mut Vec::new());
    reached.is_ok_and(|reached| snapshot.authorization.authorize(&reached.facts(question)).outcome.is_ok())
}

impl Answer {
    /// Whether a bundle vouches for another trust domain is not the policies' to know.
    fn doubt_strangers(&mut self, snapshot: &Snapshot, workload: &Workload, question: &Question) {
        let of = question.caller.as_ref().map(SpiffeId::trust_domain);
        let is_looked_at = needs_sniff(snapshot.modes.for_port(question.port).mode);
        let stranger = of.filter(|of| *of != workload.trust_domain && is_looked_at);
        if let (Some(of), Some(port)) = (stranger, self.steps.first_mut()) {
            port.because = format!("{}, as far as there is a trust bundle of {of}", port.because);
        }
    }

    fn judge(&mut self, policies: &Policies, reached: &Reached, question: &Question) {
        let Explanation { verdict, policies: told } = policies.explain(&reached.facts(question));
        self.request = reached.request.as_ref().map(ToString::to_string);
        self.allowed = verdict.outcome.is_ok();
        if !self.allowed {
            self.reason = Some(Reason::AuthorizationDenied);
            self.status = self.request.is_some().then_some(403);
        }
        let because = match &verdict.outcome {
            Ok(permit) => permit.because().to_string(),
            // Why each does not match is told policy by policy.
            Err(Denial::NoAllowRule { .. }) => "no ALLOW rule matches".to_owned(),
            Err(denial) => denial.to_string(),
        };
        self.steps.push(Step { about: About::Policies, passed: self.allowed, because });
        self.policies = told;
        self.audited = verdict.audited.map(|rule| rule.to_string());
        let runs = [("DENY", verdict.shadow.deny), ("ALLOW", verdict.shadow.allow)].into_iter();
        let told = |(action, run): (&str, Option<ShadowResult>)| {
            run.map(|ShadowResult { allowed, rule }| DryRun {
                action: action.to_owned(),
                allowed,
                rule: rule.map(|rule| rule.to_string()),
            })
        };
        self.dry_run = runs.filter_map(told).collect();
    }
}

/// A connection that the port let in, with its request where that is read.
struct Reached<'q> {
    peer: Option<&'q SpiffeId>,
    sni: Option<String>,
    request: Option<Request<'q>>,
}

/// A request in the one spelling that policies are asked with.
struct Request<'q> {
    method: &'q str,
    host: Host,
    path: Normalized,
    headers: &'q Vec<(String, String)>,
}

struct Refusal {
    reason: Reason,
    status: Option<u16>,
}

impl Reached<'_> {
    fn facts<'f>(&'f self, question: &Question) -> Facts<'f> {
        Facts {
            peer: self.peer,
            source: question.source,
            remote: question.source,
            destination: (question.destination, question.port).into(),
            sni: self.sni.as_deref(),
            http: self.request.as_ref().map(|request| HttpFacts {
                method: request.method,
                host: &request.host,
                path: &request.path,
                headers: request.headers,
            }),
        }
    }
}

impl std::fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}{}", self.method, self.host, self.path.path_and_query())
    }
}

/// How far it gets before the policies are asked.
fn reach<'q>(
    snapshot: &Snapshot,
    question: &'q Question,
    steps: &mut Vec<Step>,
) -> Result<Reached<'q>, Refusal> {
    let peer = let_in(snapshot, question, steps)?;
    let request = read(snapshot, question, steps)?;
    // What a sidecar asks for, where nobody says otherwise; in plaintext there is no server name.
    let usual = || {
        let own = snapshot.own_port(question.port)?;
        Some(format!("outbound_.{}_._.{}", own.port, own.host.trim_start_matches("*.")))
    };
    let sni = question.sni.clone().or_else(|| peer.and_then(|_| usual()));
    Ok(Reached { peer, sni, request })
}

/// What the port makes of the caller: its identity, where it proves one.
fn let_in<'q>(
    snapshot: &Snapshot,
    question: &'q Question,
    steps: &mut Vec<Step>,
) -> Result<Option<&'q SpiffeId>, Refusal> {
    let port = question.port;
    let decision = snapshot.modes.for_port(port);
    let mut told = |passed: bool, what: &str| {
        let because = format!("port {port} is {} by {}; {what}", decision.mode, decision.because);
        steps.push(Step { about: About::Port, passed, because });
    };
    if !needs_sniff(decision.mode) {
        told(true, "whatever comes goes on, and nobody proves who it is");
        return Ok(None);
    }
    let observed = if question.caller.is_some() { Observed::MeshTls } else { Observed::Plaintext };
    match admit(decision.mode, snapshot.protocol(port), observed) {
        Admission::Terminate => {
            told(true, "the caller proves its identity by mutual TLS");
            Ok(question.caller.as_ref())
        }
        Admission::Forward => {
            told(true, "plaintext is let in, without an identity");
            Ok(None)
        }
        Admission::Refuse(reason) => {
            told(false, "the connection is reset");
            Err(Refusal { reason, status: None })
        }
    }
}

/// How the request is read; `None` where the connection is judged as a whole.
fn read<'q>(
    snapshot: &Snapshot,
    question: &'q Question,
    steps: &mut Vec<Step>,
) -> Result<Option<Request<'q>>, Refusal> {
    let reading = snapshot.reading(question.port);
    let mut told =
        |passed: bool, because: String| steps.push(Step { about: About::Request, passed, because });
    if !reading.is_http() {
        if question.asked.is_some() {
            let why = reading.because();
            told(
                true,
                format!(
                    "not read as HTTP, since {why}: the connection is judged as a whole, without method and path"
                ),
            );
        }
        return Ok(None);
    }
    let usual_host =
        snapshot.own_port(question.port).map_or("localhost", |own| own.host.trim_start_matches("*."));
    match spelled(question.asked.as_ref(), usual_host) {
        Ok(request) => {
            told(true, format!("read as HTTP, since {}; judged as {request}", reading.because()));
            Ok(Some(request))
        }
        Err(refused) => {
            told(false, format!("answered 400 Bad Request: {refused}"));
            Err(Refusal { reason: Reason::RequestMalformed, status: Some(400) })
        }
    }
}

/// The request as the proxy spells it, `GET /` where nobody says. `usual_host` stands in where no host is named.
fn spelled<'q>(asked: Option<&'q Asked>, usual_host: &str) -> Result<Request<'q>, NotRead> {
    static NO_HEADERS: Vec<(String, String)> = Vec::new();
    let Some(Asked { method, path, host: named, headers }) = asked else {
        return Ok(Request {
            method: "GET",
            host: Host::parse(usual_host)?,
            path: normalize("/")?,
            headers: &NO_HEADERS,
        });
    };
    if method == "CONNECT" {
        return Err(NotRead::Connect);
    }
    check_method(method)?;
    let (authority, target) = split_target(path);
    let named = named.as_deref().or_else(|| authority.is_none().then_some(usual_host));
    Ok(Request { method, host: host(authority, named)?, path: normalize(&target)?, headers })
}

/// Why a request is not judged.
#[derive(Debug, thiserror::Error)]
enum NotRead {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("CONNECT asks for a tunnel, which is not passed on")]
    Connect,
}

#[cfg(test)]
mod tests;
