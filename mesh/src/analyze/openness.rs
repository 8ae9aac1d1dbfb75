//! Ports that let plaintext in, and services that let nobody in.

use super::Found;
use crate::finding::{Code, Finding};
use crate::known::Known;
use crate::policy::Snapshot;
use crate::policy::authz::OpenPort;
use crate::policy::mode::{ConsideredPolicy, Mode, Outcome};
use crate::resource::{PeerAuthentication, Resources};

/// PeerAuthentications that open ports and do not say why.
pub(super) fn reasons(resources: &Resources, found: &mut Found) {
    let in_force = resources.peer_authentications.iter().filter(|policy| !policy.dry_run);
    for policy in in_force.filter(|policy| policy.reason.is_none()) {
        let place = &policy.meta.place;
        let is_dead = found.has(Code::PolicyIgnored, place) || found.has(Code::AppliesNowhere, place);
        if let Some(opens) = opened_by(policy).filter(|_| !is_dead) {
            let name = policy.meta.full_name();
            let message = format!(
                "PeerAuthentication {name} sets {opens}, which lets plaintext in, and does not say why"
            );
            found.add(Finding::new(Code::OpenWithoutReason, place, message));
        }
    }
}

/// PeerAuthentications in dry run, so that nobody takes one for protection.
pub(super) fn trials(resources: &Resources, found: &mut Found) {
    for policy in resources.peer_authentications.iter().filter(|policy| policy.dry_run) {
        let message = format!(
            "PeerAuthentication {} is in dry run: it changes nothing here, and what it would refuse is told; Istio, which \
             knows the annotation for AuthorizationPolicy only, would put it in force",
            policy.meta.full_name()
        );
        found.add(Finding::new(Code::ModeInDryRun, &policy.meta.place, message));
    }
}

/// `PERMISSIVE, and port 8080 to DISABLE`.
fn opened_by(policy: &PeerAuthentication) -> Option<String> {
    let open = |mode: &Option<Mode>| mode.filter(|mode| *mode != Mode::Strict);
    let of_all = open(&policy.mode).map(|mode| mode.to_string());
    let of_ports =
        policy.ports.iter().filter_map(|(port, mode)| Some(format!("port {port} to {}", open(mode)?)));
    let opened: Vec<String> = of_all.into_iter().chain(of_ports).collect();
    (!opened.is_empty()).then(|| opened.join(", "))
}

/// What a known workload lets in, or nobody.
pub(super) fn of_workload(known: &Known, snapshot: &Snapshot, found: &mut Found) {
    let in_force = |policy: &ConsideredPolicy| !matches!(policy.outcome, Outcome::DryRun | Outcome::Ignored);
    if known.accepts && !snapshot.considered.iter().any(in_force) {
        const MESSAGE: &str = "no PeerAuthentication applies: the ports are PERMISSIVE and let plaintext in";
        // One for all: who counts them counts the workloads.
        let first = found.all.iter().find(|finding| finding.code == Code::NoPeerAuthentication);
        let place = first.map_or(&known.place, |first| &first.place).clone();
        found.add_for(Finding::new(Code::NoPeerAuthentication, place, MESSAGE), Some(&known.name()));
    }
    if known.is_service {
        nobody_comes_in(known, snapshot, found);
    }
}

fn nobody_comes_in(known: &Known, snapshot: &Snapshot, found: &mut Found) {
    let open = |(number, _): (u16, &_)| OpenPort {
        number,
        reads_http: snapshot.reads_http(number),
        mode: snapshot.modes.for_port(number).mode,
    };
    let ports: Vec<OpenPort> = snapshot.own_ports().map(open).collect();
    if let Some(why) = snapshot.authorization.let_nobody_in(&ports) {
        let numbers: Vec<String> = ports.iter().map(|port| port.number.to_string()).collect();
        let message = format!("nobody may call {} at port {}: {why}", known.name(), numbers.join(", "));
        found.add(Finding::new(Code::NobodyMayCall, &known.place, message));
    }
}
