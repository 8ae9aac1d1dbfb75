//! The command line of `pillion`, and the names by which the same file is the sidecar, the CA and the init step.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    analyze, authz, bench, capture, check, dashboard, demo, describe, edges, explain, inject, job, lesson,
    manual, migrate, playground, probe, proxy_config, svid, top, wait, wire, wiretap,
};

/// Mutual TLS between services by sidecars that they know nothing of.
///
/// Start with `pillion demo`.
#[derive(Debug, Parser)]
#[command(name = "pillion", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds a mesh of real processes on this machine and walks through it
    Demo(demo::Options),
    /// Lessons about mutual TLS in a mesh, each played with real processes
    Lesson(lesson::Options),
    /// Builds the mesh that a file describes, runs a command in it, and takes it down
    ///
    /// Each host is a network namespace with an address of its own; a CA and sidecars with their interception rules are
    /// real processes. Without a command it runs a shell. Inside, `on HOST COMMAND` runs a command on a host, `start HOST`
    /// and `stop [-SIGNAL] HOST` do so with its sidecar, `start ca` and `stop ca` with the CA. LAB names the folder of the lab,
    /// MESH that of the mesh resources, which all sidecars watch, LOGS that of the logs. docs/how-to/lab.md describes the file.
    ///
    /// Exit codes: those of the command, and 128 + N where signal N ended it; 125 the mesh could not be built, 126 and 127 the
    /// command cannot be started or is not found; 2 wrong arguments or a file that is no good.
    Lab(playground::Options),
    /// Finds what is wrong in a mesh folder, and what is legal and probably not meant; exit code 1 on errors
    ///
    /// Reads the files that a proxy would read, and goes on behind those that are no good. Each finding has a code, a
    /// place, what is so and what helps; docs/reference/findings.md lists the codes. The more workloads are known, the
    /// more is found: endpoints of ServiceEntries, WorkloadEntries, and those of settings files that --config names.
    ///
    /// Exit codes: 0 nothing or no error found, 1 an error, 2 wrong arguments.
    Analyze(analyze::Options),
    /// Tells what the mesh resources mean for one workload: modes, policies, destinations, and why
    ///
    /// Asks the proxy that runs here, or with --folder the files. Exit codes: 0 described, 1 the proxy does not answer,
    /// 2 wrong arguments.
    Describe(Box<describe::Options>),
    /// Tells what became of a connection, step by step, and what helps where it was refused
    ///
    /// Who came, what its first bytes were, what the port accepts and why, the handshake, which policy and rule decided,
    /// whom the proxy dialled, how it ended. The proxy keeps the last thousand connections that ended and the refusals of
    /// the last hour; /connections?state=all of its admin API lists them with their ids.
    ///
    /// Exit codes: 0 told, 1 the proxy knows no such connection or does not answer, 2 wrong arguments.
    Explain(explain::Options),
    /// Has a proxy keep the first plaintext of new connections for a while, so that pillion explain shows it
    ///
    /// Only where its settings say admin.capture: true. What apps say to each other may hold passwords: it is kept in memory
    /// with the record of each connection, and whoever reaches the admin API can read it.
    ///
    /// Exit codes: 0 done, 1 the proxy does not answer or its settings forbid it, 2 wrong arguments.
    Capture(capture::Options),
    /// Who talks to whom, with both identities, and whether it is secured
    ///
    /// By the connections that proxies know: those that are open, the last thousand that ended, and the refusals of the
    /// last hour. An edge that both ends tell of stands once. SECURED is √ for mutual TLS (and for TLS that a
    /// DestinationRule asks for), × for plaintext, `by the app` for TLS that passes through, and `refused`.
    ///
    /// Exit codes: 0 told, 1 a proxy does not answer, 2 wrong arguments.
    Edges(edges::Options),
    /// What passes through proxies just now: connections and bytes a second on each edge, and the newest connections
    ///
    /// Live where it has a terminal: it reads each proxy once in an interval, q quits, p pauses, and n, b, o, r and w order the
    /// edges by new connections, bytes, open connections, refusals and by who calls whom. Elsewhere, and with --once or
    /// -o json, it tells what came in one interval. The rates of several proxies stand together; an edge that both its
    /// ends tell of stands once.
    ///
    /// Exit codes: 0 told, 1 a proxy does not answer (live: none does at the begin), 128 + N where signal N ended it, 2 wrong
    /// arguments.
    Top(top::Options),
    /// What a proxy listens on, dials, holds and serves, with istioctl's columns and the mode of mutual TLS
    #[command(visible_alias = "pc")]
    ProxyConfig(proxy_config::Options),
    /// Shows one connection from app to app: both apps' legs and the one between the sidecars, side by side in time
    ///
    /// What each leg carries, between which addresses, who has proved what to whom, and what both sidecars did when. From the
    /// records of both, in which a TCP connection is known by its addresses; with --capture root hears the bytes themselves, of
    /// the legs that pass through the network namespace in which it stands.
    ///
    /// Exit codes: 0 told, 1 there is no such connection or a proxy does not answer, 2 wrong arguments.
    Wire(wire::Options),
    /// Goes through a mesh and tells what is proved, what is worth a look, and what is broken
    ///
    /// Whether the proxies answer, are ready and of one version; certificates, roots and clocks; the CA; the mesh folder; the
    /// interception rules; and whether what passes between two of them is encrypted: by a capture where their network
    /// namespace is this one and root asks, else by the records of both ends. docs/reference/checks.md explains each.
    ///
    /// Exit codes: 0 no check failed, 1 one did, 2 wrong arguments.
    Check(check::Options),
    /// Serves a web page of the mesh: who talks to whom, each connection step by step, policies, certificates
    ///
    /// It shows the sidecars whose admin APIs it is given, as they are now and as it goes on. It changes nothing: modes are
    /// changed in the mesh folder, and the page notices. Each sidecar serves the same page for itself, at / of its admin API.
    ///
    /// Exit codes: 0 stopped by SIGINT or SIGTERM, 1 it cannot listen, 2 wrong arguments.
    Dashboard(dashboard::Options),
    /// Tells whether ports can be switched to STRICT, and who would be cut off
    ///
    /// By what proxies have counted since they began: who came to each port by mutual TLS, who without, when, and what
    /// PeerAuthentications in dry run (istio.io/dry-run) would refuse. docs/how-to/strict.md goes the whole way.
    ///
    /// Exit codes: 0 every port is STRICT or safe to switch, 1 one is not or nothing is known of it, or a proxy does not
    /// answer, 2 wrong arguments.
    Migrate(migrate::Options),
    /// Asks the authorization policies
    Authz(authz::Options),
    /// Asks what a certificate says of itself
    Svid(svid::Options),
    /// Waits until the sidecar here is ready, and says what is missing as long as it is not
    ///
    /// Asks at least once. It takes nothing but the admin API, so it runs in any container of the workload.
    ///
    /// Exit codes: 0 ready, 1 not in time, 2 wrong arguments.
    Wait(wait::Options),
    /// Runs a job: waits for the sidecar, runs the command, drains the sidecar when the command has ended
    ///
    /// The command begins when the sidecar is ready, so that its first call goes the right way. SIGHUP, SIGINT, SIGQUIT,
    /// SIGTERM, SIGUSR1 and SIGUSR2 are passed on to it. When it has ended, however it did, the sidecar takes no new connections, lets
    /// the open ones finish and ends; that is waited for, so that the last bytes are out before the container is gone.
    ///
    /// Exit codes: those of the command, and 128 + N where signal N ended it; 125 the sidecar was not ready in time (the
    /// command has not run, and the sidecar stays), 126 and 127 the command cannot be started or is not found; 2 wrong
    /// arguments.
    Run(job::Options),
    /// Puts sidecars into a compose file or Kubernetes manifests
    ///
    /// Each compose service gets a container that owns its network, one that puts the rules into it, and a sidecar, and all of
    /// them a CA; each pod gets an init container for the rules and a sidecar. The label (of a pod also the annotation)
    /// sidecar.istio.io/inject: "false" keeps one out; Istio's annotations about what is captured hold, for compose as labels.
    /// Injecting twice is injecting once, and --remove is the way back. docs/how-to/inject.md tells the rest.
    ///
    /// Exit codes: 0 written, 1 a file cannot be written, 2 wrong arguments, or a file that cannot be given sidecars.
    Inject(Box<inject::Options>),
    /// Asks an HTTP endpoint once and prints its answer; exit code 0 when that is 2xx and comes within two seconds
    Probe {
        /// http://HOST[:PORT][/PATH]
        url: String,
    },
    /// Measures what mutual TLS costs here: a handshake taken apart, the data path, and other proxies in the same run
    ///
    /// Needs no set-up. Progress is told on stderr; at the end there are a table, results.json and report.html, a page that
    /// needs nothing else. Proxies that are installed take part: Envoy, HAProxy, nginx, stunnel; --install gets those that are
    /// missing, and --peer adds any other. The whole takes root, since each proxy stands in network namespaces with real
    /// interception; `pillion bench handshake` takes none. Measure on a quiet machine, with a pillion that was built with
    /// --profile dist, or else --release.
    ///
    /// Exit codes: 0 measured, 1 it could not be, 2 wrong arguments, 130 after a signal.
    Bench(bench::Options),
    /// Prints what a shell completes the command line by
    ///
    /// bash reads it from /usr/share/bash-completion/completions/pillion, zsh from a file _pillion in a folder of its fpath, fish
    /// from ~/.config/fish/completions/pillion.fish.
    #[command(visible_alias = "completions")]
    Completion(manual::Completion),
    /// Writes a manual page for each command, those of the sidecar, the CA and the rules too
    ///
    /// Exit codes: 0 written, 1 the folder cannot be written to, 2 wrong arguments.
    Man(manual::Man),
    /// The sidecar: pillion-proxy
    #[command(disable_help_flag = true)]
    Proxy(Rest),
    /// The certificate authority: pillion-ca
    #[command(disable_help_flag = true)]
    Ca(Rest),
    /// The interception rules: pillion-iptables
    #[command(disable_help_flag = true)]
    Iptables(Rest),
    /// An app that knows no mesh: frontend, backend, echo or greeter
    #[command(disable_help_flag = true)]
    Example(Rest),
    /// A process that `pillion bench` starts
    #[command(hide = true)]
    BenchPart(bench::load::Options),
    /// Shows the TCP payload that passes in this network namespace, as anybody on the wire sees it; until SIGINT
    ///
    /// Needs root or CAP_NET_RAW. Exit codes: 0 ended by a signal, 1 it cannot listen, 2 wrong arguments.
    Tap {
        /// Only connections from or to these ports
        #[arg(long, value_name = "PORT", value_delimiter = ',')]
        port: Vec<u16>,
        /// Keep whole packets in a pcap file, for Wireshark
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Exit code 0 when namespaces and rules can be made here; says why where not
    #[command(hide = true)]
    CheckLab,
}

/// Arguments that the other tool reads.
#[derive(Debug, clap::Args)]
struct Rest {
    /// Its arguments; try --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

impl Rest {
    /// The arguments behind the name that the other tool shows for itself.
    fn after(self, name: &str) -> Vec<OsString> {
        std::iter::once(OsString::from(name)).chain(self.arguments).collect()
    }
}

/// Runs `pillion`, or the tool that the first argument (the name it was called by) says: `pillion-proxy`, `pillion-ca`,
/// `pillion-iptables`.
///
/// Exit codes: 0 as it should be, 1 where something failed or differs, 2 wrong arguments; those of the other tools.
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let called = args.first().and_then(|name| Path::new(name).file_name()).and_then(OsStr::to_str);
    match called {
        Some("pillion-proxy") => pillion_proxy::main_with(args),
        Some("pillion-ca") => ca(args),
        Some("pillion-iptables") => pillion_iptables::main_with(args),
        _ => match Arguments::try_parse_from(args) {
            Ok(Arguments { command }) => run(command),
            Err(usage) => {
                // Nothing can be done where even the terminal is gone.
                let _ = usage.print();
                if usage.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
            }
        },
    }
}

/// `pillion-ca`, whose agent is made of the sidecar's identity.
fn ca(args: Vec<OsString>) -> ExitCode {
    match args.split_first() {
        Some((_, rest)) if rest.first().is_some_and(|command| command == "agent") => {
            pillion_proxy::agent_main_with(rest.to_vec())
        }
        _ => pillion_ca::main_with(args),
    }
}

fn run(command: Command) -> ExitCode {
    match command {
        Command::Demo(options) => demo::run(&options),
        Command::Lesson(options) => lesson::run(&options),
        Command::Lab(options) => playground::run(&options),
        Command::Analyze(options) => analyze::run(&options),
        Command::Describe(options) => describe::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Capture(options) => capture::run(&options),
        Command::Edges(options) => edges::run(&options),
        Command::Top(options) => top::run(&options),
        Command::ProxyConfig(options) => proxy_config::run(&options),
        Command::Wire(options) => wire::run(&options),
        Command::Check(options) => check::run(&options),
        Command::Dashboard(options) => dashboard::run(&options),
        Command::Migrate(options) => migrate::run(&options),
        Command::Authz(options) => authz::run(&options),
        Command::Svid(options) => svid::run(&options),
        Command::Wait(options) => wait::run(&options),
        Command::Run(options) => job::run(&options),
        Command::Inject(options) => inject::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::BenchPart(options) => bench::load::run(&options),
        Command::Completion(options) => manual::completion(&options, &Arguments::command()),
        Command::Man(options) => manual::man(&options, &Arguments::command()),
        Command::Probe { url } => probe::run(&url),
        Command::Proxy(rest) => pillion_proxy::main_with(rest.after("pillion proxy")),
        Command::Ca(rest) => ca(rest.after("pillion ca")),
        Command::Iptables(rest) => pillion_iptables::main_with(rest.after("pillion iptables")),
        // The first of its arguments is the app's name.
        Command::Example(rest) => pillion_example_services::main_with(rest.arguments),
        Command::Tap { port, out } => wiretap::run(&port, out.as_deref()),
        Command::CheckLab => match crate::lab::Way::here() {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// The tools that read their arguments themselves have pages of their own. `UPDATE_GOLDEN=1` writes the page anew.
    #[test]
    fn the_reference_page_of_commands_is_what_help_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/commands.md");
        let page = manual::reference(Arguments::command());
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &page).unwrap();
        }
        snapbox::assert_data_eq!(page, snapbox::Data::read_from(&path, None).raw());
    }

    #[test]
    fn arguments_of_another_tool_reach_it_untouched() {
        let words = ["pillion", "proxy", "--config", "a.yaml", "--check", "--help", "-x"];
        let Command::Proxy(rest) = Arguments::try_parse_from(words).unwrap().command else {
            panic!("`pillion proxy` is the proxy");
        };
        let words: Vec<OsString> =
            ["pillion proxy", "--config", "a.yaml", "--check", "--help", "-x"].map(OsString::from).into();
        assert_eq!(rest.after("pillion proxy"), words);
    }
}
