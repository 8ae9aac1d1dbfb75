use rstest::rstest;

use super::*;

fn parse(line: &[&str]) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from([&["pillion-iptables"], line].concat())
}

#[test]
fn the_definition_holds_together() {
    use clap::CommandFactory;
    Arguments::command().debug_assert();
}

#[test]
fn istios_flags_are_understood() {
    let letters = "apply -p 1 -z 2 -e 3 -u 4,5 -g 6 -m TPROXY -b 80,8080 -d 22 -i 10.0.0.0/8 -x 10.1.0.0/16 -q 443 -o 25 \
                   -t 7 -r 8 -n";
    let names = "apply --envoy-port 1 --inbound-capture-port 2 --inbound-tunnel-port 3 --proxy-uid 4,5 --proxy-gid 6 \
                 --istio-inbound-interception-mode TPROXY --istio-inbound-ports 80,8080 --istio-local-exclude-ports 22 \
                 --istio-service-cidr 10.0.0.0/8 --istio-service-exclude-cidr 10.1.0.0/16 --istio-outbound-ports 443 \
                 --istio-local-outbound-ports-exclude 25 --istio-inbound-tproxy-mark 7 --istio-inbound-tproxy-route-table 8 \
                 --dry-run";
    let [letters, names] =
        [letters, names].map(|line| parse(&line.split_whitespace().collect::<Vec<_>>()).unwrap());
    assert_eq!(format!("{letters:?}"), format!("{names:?}"));
}

/// What is no typed value never gets as far as a rule.
#[rstest]
#[case::rule_in_a_port(&["-p", "15001 -j ACCEPT"])]
#[case::line_in_a_port(&["-d", "22\n-A OUTPUT -j ACCEPT"])]
#[case::line_after_a_port(&["-d", "22\n"])]
#[case::tab_around_a_port(&["-d", "22,\t23"])]
#[case::port_zero(&["-z", "0"])]
#[case::port_too_large(&["-z", "65536"])]
#[case::signed_port(&["-z", "+80"])]
#[case::port_range(&["-b", "80:90"])]
#[case::digits_of_another_script(&["-b", "٨٠"])]
#[case::all_and_some(&["-b", "*,80"])]
#[case::empty_item(&["-b", "80,,90"])]
#[case::user_by_name(&["-u", "root"])]
#[case::uid_that_is_none(&["-u", "4294967295"])]
#[case::uid_with_match(&["-u", "1337 ! --gid-owner 0"])]
#[case::negated_gid(&["-g", "!1337"])]
#[case::range_with_target(&["-i", "10.0.0.0/8 -j RETURN"])]
#[case::range_with_line(&["-x", "10.0.0.0/8\nCOMMIT"])]
#[case::prefix_too_long(&["-x", "10.0.0.0/33"])]
#[case::host_name(&["-x", "example.org"])]
#[case::everything_excluded(&["-x", "*"])]
#[case::mark_of_every_packet(&["-t", "0"])]
#[case::mark_with_mask(&["--proxy-mark", "1/1"])]
#[case::mark_that_is_no_number(&["--proxy-mark", "0x+1"])]
#[case::main_route_table(&["-r", "254"])]
#[case::route_table_by_name(&["-r", "main"])]
#[case::mode_with_rule(&["-m", "REDIRECT --to-ports 1"])]
#[case::unknown_back_end(&["--backend", "/tmp/iptables"])]
fn req_37_hostile_text_is_refused(#[case] flags: &[&str]) {
    let error = parse(&[&["apply"], flags].concat()).unwrap_err();
    assert_eq!(
        error.kind(),
        match flags[0] {
            "-m" | "--backend" => clap::error::ErrorKind::InvalidValue,
            _ => clap::error::ErrorKind::ValueValidation,
        }
    );
}

#[rstest]
#[case("", &[])]
#[case("80", &[80])]
#[case("80, 8080", &[80, 8080])]
fn a_list_has_commas_between(#[case] text: &str, #[case] ports: &[u32]) {
    let List(ids) = text.parse::<List<Id>>().unwrap();
    assert_eq!(ids, ports.iter().copied().map(Id).collect::<Vec<_>>());
}

#[rstest]
#[case::destination_missing(&["explain", "--direction", "in", "--port", "80"])]
#[case::port_missing(&["explain", "--direction", "in", "--destination", "10.0.0.1"])]
#[case::direction_missing(&["explain", "--port", "80"])]
#[case::interface_name_with_a_slash(&["explain", "--direction", "in", "--interface", "../lo", "--destination", "::1", "--port", "1"])]
fn half_a_packet_is_refused(#[case] line: &[&str]) {
    assert!(parse(line).is_err());
}
