use clap::Parser;
use rstest::rstest;

use super::*;
use crate::arguments::{Arguments, Command};

/// The checked wishes of `apply` with these flags.
pub(crate) fn capture(flags: &[&str]) -> Result<Capture, WishError> {
    let line = [&["pillion-iptables", "apply"], flags].concat();
    match Arguments::try_parse_from(line).unwrap().command {
        Command::Apply(apply) => Capture::check(&apply.capture),
        other => panic!("apply was parsed as {other:?}"),
    }
}

#[test]
fn without_flags_it_is_istios_sidecar() {
    let wanted = Capture {
        mode: Mode::Redirect,
        proxy: vec![Owner::Uid(1337), Owner::Gid(1337)],
        outbound_port: Port(15001),
        inbound_port: Port(15006),
        proxy_ports: vec![Port(15008), Port(15021), Port(15090)],
        inbound: Selection::All,
        exclude_inbound: vec![],
        outbound: Selection::All,
        exclude_outbound: vec![],
        outbound_ports: vec![],
        exclude_outbound_ports: vec![],
    };
    assert_eq!(capture(&[]), Ok(wanted));
}

#[test]
fn lists_are_ordered_and_say_nothing_twice() {
    let wishes = capture(&["-d", "9000,22,9000,15021", "-x", "10.1.2.3/16,10.1.0.0/16,9.9.9.9"]).unwrap();
    assert_eq!(wishes.exclude_inbound, [Port(22), Port(9000)]);
    assert_eq!(wishes.exclude_outbound, ["9.9.9.9/32".parse().unwrap(), "10.1.0.0/16".parse().unwrap()]);
}

#[rstest]
#[case::no_owner(&["-u", "", "-g", ""], WishError::NoOwner)]
#[case::one_port_for_both(&["-p", "15006"], WishError::SamePort(Port(15006)))]
#[case::loopback_captured(&["-i", "10.0.0.0/8,127.0.0.1"], WishError::Loopback("127.0.0.1/32".parse().unwrap()))]
#[case::loopback_of_ipv6_captured(&["-i", "::1/128"], WishError::Loopback("::1/128".parse().unwrap()))]
#[case::mark_of_self_calls(&["-m", "TPROXY", "-t", "1338"], WishError::SameMark(Mark(1338)))]
#[case::one_mark_for_two(&["-m", "TPROXY", "--proxy-mark", "1337"], WishError::SameMark(Mark(1337)))]
#[case::proxy_mark_of_self_calls(&["-m", "TPROXY", "--proxy-mark", "1338"], WishError::SameMark(Mark(1338)))]
fn wishes_that_cannot_be_kept_are_refused(#[case] flags: &[&str], #[case] error: WishError) {
    assert_eq!(capture(flags), Err(error));
}

#[test]
fn a_mark_alone_tells_the_proxy() {
    let wishes = capture(&["-u", "", "-g", "", "--proxy-mark", "0x539"]).unwrap();
    assert_eq!(wishes.proxy, [Owner::Mark(Mark(1337))]);
}
