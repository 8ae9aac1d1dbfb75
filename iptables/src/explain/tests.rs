use clap::Parser;
use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::arguments::{Arguments, Command};
use crate::capture::Capture;
use crate::capture::tests::capture;
use crate::render::tests::any_flags;

/// What `explain` with these flags says of the packet.
fn verdict(flags: &str) -> String {
    let line = format!("pillion-iptables explain {flags}");
    let Command::Explain(explain) = Arguments::try_parse_from(line.split_whitespace()).unwrap().command
    else {
        panic!("explain was parsed as another command");
    };
    let packet = Packet::from_flags(&explain.packet).unwrap();
    let plan = Plan::new(&Capture::check(&explain.capture).unwrap(), packet.family());
    match Walk::new(&plan, &packet, false).verdict() {
        Verdict::Inbound { .. } => "inbound",
        Verdict::Outbound { .. } => "outbound",
        Verdict::BackToProxy => "back to the proxy",
        Verdict::NotCaptured => "not captured",
    }
    .to_owned()
}

const OWN: &str = "--source 10.0.0.2 --destination 10.0.0.2 --port 8080";
const OWN_V6: &str = "--source fd00::2 --destination fd00::2 --port 8080";

#[rstest]
// From outside.
#[case::app_port("--direction in --destination 10.0.0.2 --port 8080", "inbound")]
#[case::app_port_ipv6("--direction in --destination fd00::2 --port 8080", "inbound")]
#[case::tunnel("--direction in --destination 10.0.0.2 --port 15008", "not captured")]
#[case::readiness("--direction in --destination 10.0.0.2 --port 15021", "not captured")]
#[case::metrics("--direction in --destination 10.0.0.2 --port 15090", "not captured")]
#[case::excluded("-d 22 --direction in --destination 10.0.0.2 --port 22", "not captured")]
#[case::not_included("-b 80 --direction in --destination 10.0.0.2 --port 22", "not captured")]
#[case::included("-b 80 --direction in --destination 10.0.0.2 --port 80", "inbound")]
#[case::udp_in("--direction in --destination 10.0.0.2 --port 8080 --protocol udp", "not captured")]
#[case::open_connection("--direction in --destination 10.0.0.2 --port 8080 --established", "not captured")]
// From the app.
#[case::out("--direction out --destination 10.0.0.3 --port 80 --uid 1000", "outbound")]
#[case::out_ipv6("--direction out --destination fd00::3 --port 80 --uid 1000", "outbound")]
#[case::out_by_nobody("--direction out --destination 10.0.0.3 --port 80", "outbound")]
#[case::udp_out("--direction out --destination 10.0.0.3 --port 53 --uid 1000 --protocol udp", "not captured")]
#[case::loopback("--direction out --destination 127.0.0.1 --port 80 --uid 1000", "not captured")]
#[case::loopback_ipv6("--direction out --destination ::1 --port 80 --uid 1000", "not captured")]
#[case::dockers_dns("--direction out --destination 127.0.0.11 --port 53 --uid 1000", "not captured")]
#[case::excluded_port("-o 25 --direction out --destination 10.0.0.3 --port 25 --uid 1000", "not captured")]
#[case::excluded_range("-x 10.0.0.0/8 --direction out --destination 10.0.0.3 --port 80", "not captured")]
#[case::included_range("-i 10.0.0.0/8 --direction out --destination 10.0.0.3 --port 80", "outbound")]
#[case::not_included_range("-i 10.0.0.0/8 --direction out --destination 11.0.0.3 --port 80", "not captured")]
#[case::included_port("-i 10.0.0.0/8 -q 80 --direction out --destination 11.0.0.3 --port 80", "outbound")]
#[case::exclusion_before_inclusion(
    "-q 80 -x 11.0.0.0/8 --direction out --destination 11.0.0.3 --port 80",
    "not captured"
)]
// From the proxy.
#[case::proxy_by_uid("--direction out --destination 10.0.0.3 --port 80 --uid 1337", "not captured")]
#[case::proxy_by_gid("--direction out --destination 10.0.0.3 --port 80 --gid 1337", "not captured")]
#[case::proxy_to_dockers_dns("--direction out --destination 127.0.0.11 --port 53 --uid 1337", "not captured")]
#[case::proxy_by_mark(
    "-u= -g= --proxy-mark 9 --direction out --destination 10.0.0.3 --port 80 --uid 0 --mark 9",
    "not captured"
)]
#[case::other_mark(
    "-u= -g= --proxy-mark 9 --direction out --destination 10.0.0.3 --port 80 --mark 8",
    "outbound"
)]
fn a_packet_ends_up_where_it_should(
    #[case] packet: &str,
    #[case] wanted: &str,
    #[values("REDIRECT", "TPROXY")] mode: &str,
) {
    assert_eq!(verdict(&format!("-m {mode} {packet}")), wanted);
}

#[rstest]
#[case::the_apps("--uid 1000", "not captured")]
#[case::the_proxys_by_uid("--uid 1337", "inbound")]
#[case::the_proxys_by_gid("--uid 0 --gid 1337", "inbound")]
#[case::the_proxys_by_mark("-u= -g= --proxy-mark 9 --mark 9", "inbound")]
#[case::the_proxys_to_a_port_left_alone("-d 8080 --uid 1337", "not captured")]
fn a_call_to_the_own_address(
    #[case] whose: &str,
    #[case] wanted: &str,
    #[values("REDIRECT", "TPROXY")] mode: &str,
    #[values(OWN, OWN_V6)] own: &str,
) {
    assert_eq!(verdict(&format!("-m {mode} --direction out {own} {whose}")), wanted);
}

#[rstest]
#[case::towards_the_app(
    "--source 10.0.0.9 --destination 10.0.0.2 --mark 1337 --uid 1337 --interface lo",
    "not captured"
)]
#[case::from_its_loopback_address(
    "--source 127.0.0.6 --destination 10.0.0.2 --uid 1337 --interface lo",
    "not captured"
)]
#[case::the_answer(
    "--source 10.0.0.2 --destination 10.0.0.9 --uid 1000 --established --connection-mark 1337",
    "back to the proxy"
)]
#[case::an_answer_to_somebody_else(
    "--source 10.0.0.2 --destination 10.0.0.9 --uid 1000 --established",
    "not captured"
)]
fn between_proxy_and_app_under_tproxy(#[case] packet: &str, #[case] wanted: &str) {
    assert_eq!(verdict(&format!("-m TPROXY --direction out --port 8080 {packet}")), wanted);
}

/// What the proxy uses to get past the rules is of no use to others: its source address counts on lo only, its ports
/// lead to the proxy and never to the app, and what is made for the capture ports reaches the proxy too, which refuses it.
#[rstest]
#[case::its_source_address("--source 127.0.0.6 --port 8080")]
#[case::its_source_address_named_on_another_interface("--source 127.0.0.6 --port 8080 --interface eth0")]
#[case::outbound_capture_port("--source 10.0.0.9 --port 15001")]
#[case::inbound_capture_port("--source 10.0.0.9 --port 15006")]
#[case::admin_port("--source 10.0.0.9 --port 15000")]
#[case::a_uid_that_arrives_from_elsewhere("--source 10.0.0.9 --port 8080 --uid 1337 --gid 1337")]
fn req_38_a_peer_cannot_get_past_the_proxy(#[case] packet: &str, #[values("REDIRECT", "TPROXY")] mode: &str) {
    assert_eq!(verdict(&format!("-m {mode} --direction in --destination 10.0.0.2 {packet}")), "inbound");
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let address = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
        Just(IpAddr::from([127, 0, 0, 11])),
        Just(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16])),
    ];
    (any::<bool>(), address, 1..=u16::MAX, any::<bool>(), any::<bool>(), prop::option::of(0..2000_u32))
        .prop_map(|(out, destination, port, loopback, established, uid)| Packet {
            direction: if out { Direction::Out } else { Direction::In },
            tcp: true,
            source: None,
            destination,
            port: port.to_string().parse().unwrap(),
            uid,
            gid: None,
            mark: None,
            connection_mark: None,
            loopback: loopback || destination.is_loopback(),
            established,
        })
}

fn verdict_of(flags: &[String], packet: &Packet) -> Verdict {
    let wishes = capture(&flags.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    Walk::new(&Plan::new(&wishes, packet.family()), packet, false).verdict()
}

proptest! {
    /// Whatever is wished for, the proxy's packets never come back to its outbound port: there is no loop.
    #[test]
    fn the_proxy_never_captures_itself_outbound(flags in any_flags(), mut packet in any_packet()) {
        packet.direction = Direction::Out;
        packet.uid = Some(1337);
        let looped = matches!(verdict_of(&flags, &packet), Verdict::Outbound { .. });
        prop_assert!(!looped);
    }

    #[test]
    fn what_goes_to_loopback_is_never_captured(flags in any_flags(), mut packet in any_packet()) {
        prop_assume!(packet.destination.is_loopback());
        packet.direction = Direction::Out;
        prop_assert_eq!(verdict_of(&flags, &packet), Verdict::NotCaptured);
    }

    /// To see more changes nothing: the same rules take the packet, and every other one on its way says what did not fit.
    #[test]
    fn rules_that_are_passed_over_are_shown_beside_those_that_take_it(flags in any_flags(), packet in any_packet()) {
        let wishes = capture(&flags.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        let plan = Plan::new(&wishes, packet.family());
        let (taken, all) = (Walk::new(&plan, &packet, false), Walk::new(&plan, &packet, true));
        prop_assert_eq!(taken.verdict(), all.verdict());
        let numbers = |steps: &[Step]| {
            let steps = steps.iter().filter(|step| step.passed_over.is_none());
            steps.map(|step| (step.chain, step.number)).collect::<Vec<_>>()
        };
        prop_assert_eq!(numbers(&taken.steps), numbers(&all.steps));
        prop_assert_eq!(taken.steps.len(), numbers(&taken.steps).len());
    }

    /// Without exclusions nothing new from outside reaches the app past the proxy.
    #[test]
    fn all_that_arrives_from_outside_is_inbound(mut packet in any_packet(), tproxy in any::<bool>()) {
        packet.direction = Direction::In;
        (packet.loopback, packet.established) = (false, false);
        let own = ["15008", "15021", "15090"].contains(&packet.port.to_string().as_str());
        let mode = if tproxy { "--mode=TPROXY" } else { "--mode=REDIRECT" };
        let captured = matches!(verdict_of(&[mode.to_owned()], &packet), Verdict::Inbound { .. });
        prop_assert_eq!(captured, !own);
    }
}

#[test]
fn the_way_is_told_rule_by_rule() {
    let plan = Plan::new(&capture(&[]).unwrap(), Family::V4);
    let packet = Packet {
        direction: Direction::In,
        tcp: true,
        source: None,
        destination: IpAddr::from([10, 0, 0, 2]),
        port: "8080".parse().unwrap(),
        uid: None,
        gid: None,
        mark: None,
        connection_mark: None,
        loopback: false,
        established: false,
    };
    let told = Walk::new(&plan, &packet, false).to_string();
    snapbox::assert_data_eq!(
        told,
        snapbox::str![[r#"
nat PREROUTING 1: -p tcp -j PILLION_INBOUND
    TCP that arrives is inbound; UDP is not captured.
nat PILLION_INBOUND 4: -j PILLION_IN_REDIRECT
    Every other port is captured, declared or not.
nat PILLION_IN_REDIRECT 1: -p tcp -j REDIRECT --to-ports 15006
    Inbound capture: the proxy takes it on port 15006 and asks conntrack where it was going.
=> captured inbound: the proxy gets it on port 15006

"#]]
    );
}

#[rstest]
#[case(
    "--direction out --destination 10.0.0.3 --port 80 --uid 1000",
    "--uid-owner 1337 -j RETURN\n      passed over: its user is 1000"
)]
#[case(
    "--direction out --destination 10.0.0.3 --port 80",
    "--gid-owner 1337 -j RETURN\n      passed over: its group is not known"
)]
#[case(
    "--direction out --destination 10.0.0.3 --port 80",
    "-d 127.0.0.0/8 -j RETURN\n      passed over: it goes to 10.0.0.3"
)]
#[case(
    "--direction in --destination 10.0.0.2 --port 80",
    "--dport 15021 -j RETURN\n      passed over: it goes to port 80"
)]
#[case(
    "--direction in --destination 10.0.0.2 --port 80 --protocol udp",
    "-p tcp -j PILLION_INBOUND\n      passed over: it is not TCP"
)]
#[case(
    "-u= -g= --proxy-mark 9 --direction out --destination 10.0.0.3 --port 80 --mark 8",
    "passed over: its mark is 8"
)]
fn a_rule_that_is_passed_over_says_what_did_not_fit(#[case] packet: &str, #[case] words: &str) {
    let line = format!("pillion-iptables explain --passed-over {packet}");
    let Command::Explain(explain) = Arguments::try_parse_from(line.split_whitespace()).unwrap().command
    else {
        panic!("explain was parsed as another command");
    };
    let packet = Packet::from_flags(&explain.packet).unwrap();
    let plan = Plan::new(&Capture::check(&explain.capture).unwrap(), packet.family());
    let told = Walk::new(&plan, &packet, explain.passed_over).to_string();
    assert!(told.contains(words), "{told}");
}

#[test]
fn every_rule_is_listed_with_its_reason() {
    let plan = Plan::new(
        &capture(&["-m", "TPROXY", "-d", "22", "-x", "10.0.0.0/8", "-q", "80"]).unwrap(),
        Family::V4,
    );
    let listed = all_rules(&plan);
    for rule in &plan.rules {
        assert!(
            listed.contains(render::spec(rule).trim_start()) && listed.contains(&rule.why),
            "{rule:?}\n{listed}"
        );
    }
}
