//! What can be typed: commands, flags and their environment variables. Names and letters are those of `istio-iptables`
//! where it has the flag; its long names work too.
//!
//! Each value is parsed into a type before anything else sees it; what is allowed together is checked in
//! [`crate::capture`].

use std::net::IpAddr;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::capture::{Id, Mark, Port, Range, RouteTable, Selection, ValueError};

/// Installs, shows, explains and removes the rules that bring a workload's TCP connections to its sidecar.
#[derive(Debug, Parser)]
#[command(name = "pillion-iptables", version, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Apply(Box<Apply>),
    Clean(Clean),
    Show(Show),
    Explain(Box<Explain>),
}

/// Install the rules in this network namespace.
///
/// Safe to repeat: the same wishes change nothing, other wishes replace pillion's own rules and touch no others. Run it
/// before the app starts: connections that are open already may be cut. UDP is not captured.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) capture: CaptureFlags,
    /// Rules for IPv6: where the host has IPv6 (auto), always, or never.
    #[arg(long, value_enum, default_value_t = Ipv6::Auto, env = "PILLION_IPTABLES_IPV6", help_heading = HOST)]
    pub(crate) ipv6: Ipv6,
    #[command(flatten)]
    pub(crate) host: HostFlags,
}

/// Remove the rules, and what else `apply` added: routes of TPROXY mode, the address ::6 on lo.
#[derive(Debug, Args)]
pub(crate) struct Clean {
    #[command(flatten)]
    pub(crate) host: HostFlags,
}

/// Print the rules of pillion that the kernel has now, with packet and byte counters.
#[derive(Debug, Args)]
pub(crate) struct Show {}

/// Say what the rules do and why; with --direction, follow one packet through them.
///
/// Reads nothing from the kernel: it explains the rules that `apply` would install with the same flags.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) capture: CaptureFlags,
    #[command(flatten)]
    pub(crate) packet: PacketFlags,
    /// The packet's way as JSON.
    #[arg(long, requires = "direction")]
    pub(crate) json: bool,
    /// Show the rules too that were looked at and did not fit, and what of the packet did not.
    #[arg(long, requires = "direction")]
    pub(crate) passed_over: bool,
}

/// Heading of the flags that say where and how, and not what.
const HOST: &str = "On this host";

#[derive(Debug, Args)]
#[command(next_help_heading = HOST)]
pub(crate) struct HostFlags {
    /// Which iptables: the one that has rules already, else the default one (auto), or one of the two.
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto, env = "PILLION_IPTABLES_BACKEND")]
    pub(crate) backend: BackendChoice,
    /// Print what would be done, and do nothing.
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ipv6 {
    Auto,
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendChoice {
    Auto,
    Nft,
    Legacy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub(crate) enum ModeFlag {
    Redirect,
    Tproxy,
}

/// What to capture.
#[derive(Debug, Args)]
#[command(next_help_heading = "What to capture")]
pub(crate) struct CaptureFlags {
    /// The proxy's port for outbound connections.
    #[arg(long, short = 'p', value_name = "PORT", default_value = "15001", alias = "envoy-port")]
    #[arg(env = "PILLION_IPTABLES_OUTBOUND_PORT")]
    pub(crate) outbound_port: Port,

    /// The proxy's port for inbound connections.
    #[arg(long, short = 'z', value_name = "PORT", default_value = "15006", alias = "inbound-capture-port")]
    #[arg(env = "PILLION_IPTABLES_INBOUND_PORT")]
    pub(crate) inbound_port: Port,

    /// The proxy's port for tunnels (HBONE); it is reached directly.
    #[arg(long, short = 'e', value_name = "PORT", default_value = "15008", alias = "inbound-tunnel-port")]
    #[arg(env = "PILLION_IPTABLES_TUNNEL_PORT")]
    pub(crate) tunnel_port: Port,

    /// Other ports that the proxy itself serves, readiness and metrics; they are reached directly.
    #[arg(long, value_name = "PORTS", default_value = "15021,15090")]
    #[arg(env = "PILLION_IPTABLES_PROXY_PORTS")]
    pub(crate) proxy_ports: List<Port>,

    /// Users the proxy runs as: their packets are not captured. '' for none.
    #[arg(long, short = 'u', value_name = "UIDS", default_value = "1337")]
    #[arg(env = "PILLION_IPTABLES_PROXY_UID")]
    pub(crate) proxy_uid: List<Id>,

    /// Groups the proxy runs as: their packets are not captured. '' for none.
    #[arg(long, short = 'g', value_name = "GIDS", default_value = "1337")]
    #[arg(env = "PILLION_IPTABLES_PROXY_GID")]
    pub(crate) proxy_gid: List<Id>,

    /// Socket mark by which the proxy's packets are known. Needed where uid 1337 does not exist, such as in a user
    /// namespace without root: there give -u '' -g '' with it.
    #[arg(long, value_name = "MARK", env = "PILLION_IPTABLES_PROXY_MARK")]
    pub(crate) proxy_mark: Option<Mark>,

    /// How inbound connections reach the proxy: REDIRECT rewrites the destination, TPROXY keeps the client's address
    /// for the app to see.
    #[arg(long, short = 'm', value_enum, ignore_case = true, default_value_t = ModeFlag::Redirect)]
    #[arg(alias = "istio-inbound-interception-mode", env = "PILLION_IPTABLES_MODE")]
    pub(crate) mode: ModeFlag,

    /// TPROXY mode: the mark of the proxy's connections to the app.
    #[arg(
        long,
        short = 't',
        value_name = "MARK",
        default_value = "1337",
        alias = "istio-inbound-tproxy-mark"
    )]
    #[arg(env = "PILLION_IPTABLES_TPROXY_MARK")]
    pub(crate) tproxy_mark: Mark,

    /// TPROXY mode: the route table for the app's answers to such connections.
    #[arg(
        long,
        short = 'r',
        value_name = "TABLE",
        default_value = "133",
        alias = "istio-inbound-tproxy-route-table"
    )]
    #[arg(env = "PILLION_IPTABLES_TPROXY_TABLE")]
    pub(crate) tproxy_table: RouteTable,

    /// Inbound ports to capture: * for all, '' for none.
    #[arg(long, short = 'b', value_name = "PORTS", default_value = "*", alias = "istio-inbound-ports")]
    #[arg(env = "PILLION_IPTABLES_INBOUND_PORTS")]
    pub(crate) inbound_ports: AllOr<Port>,

    /// Inbound ports to leave alone: their connections reach the app past the proxy and its policies.
    #[arg(long, short = 'd', value_name = "PORTS", default_value = "", hide_default_value = true)]
    #[arg(alias = "istio-local-exclude-ports", env = "PILLION_IPTABLES_EXCLUDE_INBOUND_PORTS")]
    pub(crate) exclude_inbound_ports: List<Port>,

    /// Destinations to capture: * for all, '' for none. Loopback is never captured.
    #[arg(long, short = 'i', value_name = "CIDRS", default_value = "*", alias = "istio-service-cidr")]
    #[arg(env = "PILLION_IPTABLES_OUTBOUND_CIDRS")]
    pub(crate) outbound_cidrs: AllOr<Range>,

    /// Destinations to leave alone.
    #[arg(long, short = 'x', value_name = "CIDRS", default_value = "", hide_default_value = true)]
    #[arg(alias = "istio-service-exclude-cidr", env = "PILLION_IPTABLES_EXCLUDE_OUTBOUND_CIDRS")]
    pub(crate) exclude_outbound_cidrs: List<Range>,

    /// Outbound ports to capture whatever the destination; of use with -i '' or a list.
    #[arg(long, short = 'q', value_name = "PORTS", default_value = "", hide_default_value = true)]
    #[arg(alias = "istio-outbound-ports", env = "PILLION_IPTABLES_OUTBOUND_PORTS")]
    pub(crate) outbound_ports: List<Port>,

    /// Outbound ports to leave alone.
    #[arg(long, short = 'o', value_name = "PORTS", default_value = "", hide_default_value = true)]
    #[arg(alias = "istio-local-outbound-ports-exclude", env = "PILLION_IPTABLES_EXCLUDE_OUTBOUND_PORTS")]
    pub(crate) exclude_outbound_ports: List<Port>,
}

/// The packet to follow.
#[derive(Debug, Args)]
#[command(next_help_heading = "The packet to follow")]
pub(crate) struct PacketFlags {
    /// Whether the packet comes in from the network or goes out from a process of this namespace.
    #[arg(long, value_enum, requires = "destination", requires = "port")]
    pub(crate) direction: Option<DirectionFlag>,
    /// Where it comes from.
    #[arg(long, value_name = "ADDRESS", requires = "direction")]
    pub(crate) source: Option<IpAddr>,
    /// Where it goes to.
    #[arg(long, value_name = "ADDRESS", requires = "direction")]
    pub(crate) destination: Option<IpAddr>,
    /// The port it goes to.
    #[arg(long, requires = "direction")]
    pub(crate) port: Option<Port>,
    #[arg(long, value_enum, default_value_t = ProtocolFlag::Tcp)]
    pub(crate) protocol: ProtocolFlag,
    /// The user that sends it.
    #[arg(long, requires = "direction")]
    pub(crate) uid: Option<Id>,
    /// The group that sends it.
    #[arg(long, requires = "direction")]
    pub(crate) gid: Option<Id>,
    /// The SO_MARK of the socket that sends it.
    #[arg(long, requires = "direction")]
    pub(crate) mark: Option<Mark>,
    /// The mark that its connection has, TPROXY mode's on the app's answers to the proxy.
    #[arg(long, value_name = "MARK", requires = "direction")]
    pub(crate) connection_mark: Option<Mark>,
    /// The interface it passes: lo for what stays on this host. By default what the addresses say.
    #[arg(long, value_name = "NAME", requires = "direction")]
    pub(crate) interface: Option<Interface>,
    /// It belongs to a connection that is open already.
    #[arg(long, requires = "direction")]
    pub(crate) established: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DirectionFlag {
    In,
    Out,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProtocolFlag {
    Tcp,
    Udp,
}

/// The name of a network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface(pub(crate) String);

impl FromStr for Interface {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let fits = (1..=15).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-@".contains(&b));
        fits.then(|| Self(text.to_owned())).ok_or_else(|| ValueError::new("the name of an interface", text))
    }
}

/// Values with commas between; nothing at all is the empty list. Spaces around a value are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

impl<T: FromStr<Err = ValueError>> FromStr for List<T> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        text.split(',').map(|item| item.trim_matches(' ').parse()).collect::<Result<_, _>>().map(Self)
    }
}

/// A list, or `*` for everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AllOr<T>(pub(crate) Selection<T>);

impl<T: FromStr<Err = ValueError>> FromStr for AllOr<T> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "*" {
            return Ok(Self(Selection::All));
        }
        text.parse().map(|List(list)| Self(Selection::Only(list)))
    }
}

#[cfg(test)]
mod tests;
