//! Settings that are right, those that are wrong and why, and who has the last word.

use clap::Parser;
use rstest::rstest;

use super::*;

/// The example of the interface, whole.
const WHOLE: &str = "
trustDomain: example.org
listen: 127.0.0.1:15012
dnsNames: [ca, localhost, 127.0.0.1, '::1']
state: /var/lib/ca
monitoring: 127.0.0.1:15014
workloadTtl: {default: 12h, max: 30d}
bundleFile: /run/bundle.pem
registrations:
- {id: spiffe://example.org/ns/default/sa/backend, tokenFile: /run/backend/token, owner: '1337:1338'}
- {id: spiffe://example.org/ns/default/sa/frontend, tokenFile: /run/frontend/token, owner: 1337}
- {id: spiffe://example.org/ns/default/sa/guest}
attestation:
  jwt:
  - {issuer: https://one.example, audience: ca, jwks: {file: /run/jwks.json}}
  - {issuer: two, audience: ca, jwks: {url: 'https://two.example:6443/openid/v1/jwks', caFile: /run/ca.pem}}
limits: {connections: 10, requestTimeout: 500ms, addressPerMinute: 7, identityPerMinute: 0}
tokens: {life: 12h}
rotation: {automatic: false, rootKeyType: rsa-3072, rootLife: 365d, intermediateLife: 60d, publishAhead: 48h}
signer: {certificate: /s/ca.pem, key: /s/ca.key, chain: /s/chain.pem}
time: {scale: 2880, origin: '1970-01-02T00:00:00Z'}
";

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    overrides: Overrides,
}

fn overrides(flags: &[&str]) -> Overrides {
    Flags::try_parse_from(["test"].iter().chain(flags)).unwrap().overrides
}

fn parse(text: &str) -> Result<Settings, SettingsError> {
    Settings::parse("ca.yaml", text, Overrides::default())
}

#[test]
fn every_setting_is_read() {
    let settings = parse(WHOLE).unwrap();
    assert_eq!(settings.trust_domain.as_str(), "example.org");
    assert_eq!(settings.listen, "127.0.0.1:15012".parse().unwrap());
    let names: Vec<_> = settings.dns_names.iter().map(ServerName::to_str).collect();
    assert_eq!(names, ["ca", "localhost", "127.0.0.1", "::1"]);
    assert_eq!(settings.workload_ttl, WorkloadTtl { default: DAY / 2, max: 30 * DAY });
    assert_eq!(settings.bundle_file.as_deref(), Some(Path::new("/run/bundle.pem")));
    let owners: Vec<_> = settings.registrations.iter().map(|registration| registration.owner).collect();
    let owner = |gid| Some(Owner { uid: 1337, gid });
    assert_eq!(owners, [owner(Some(1338)), owner(None), None]);
    assert_eq!(settings.registrations[2].token_file, None);
    let root = RootPlan { key: RootKey::Rsa3072, life: 365 * DAY, intermediate: Some(60 * DAY) };
    assert_eq!(settings.rotation, Rotation { automatic: false, root, publish_ahead: 2 * DAY });
    assert_eq!(settings.token_life, Some(DAY / 2));
    let [certificate, key, chain] = ["/s/ca.pem", "/s/ca.key", "/s/chain.pem"].map(PathBuf::from);
    assert_eq!(settings.signer, Some(ExternalFiles { certificate, key, chain: Some(chain) }));
    assert_eq!(settings.hurry, Some(Hurry::new(2_880, Some(SystemTime::UNIX_EPOCH + DAY)).unwrap()));
    let issuers: Vec<_> = settings.issuers.iter().map(|issuer| issuer.issuer.as_str()).collect();
    assert_eq!(issuers, ["https://one.example", "two"]);
    assert_eq!(settings.issuers[1].jwks.ca_file.as_deref(), Some(Path::new("/run/ca.pem")));
    assert_eq!(
        settings.limits,
        Limits {
            connections: 10,
            request_timeout: Duration::from_millis(500),
            address_per_minute: 7,
            identity_per_minute: 0
        }
    );
}

#[test]
fn what_is_left_out_has_the_documented_value() {
    let settings = parse("{}").unwrap();
    assert_eq!(settings.trust_domain.as_str(), "cluster.local");
    assert_eq!(settings.listen, "0.0.0.0:15012".parse().unwrap());
    assert_eq!(settings.monitoring, "0.0.0.0:15014".parse().unwrap());
    assert_eq!(settings.state, Path::new("/var/lib/pillion-ca"));
    assert_eq!(settings.workload_ttl, WorkloadTtl { default: DAY, max: 90 * DAY });
    assert_eq!(settings.bundle_file, None);
    assert_eq!(settings.registrations, []);
    assert_eq!(settings.issuers, []);
    assert_eq!(
        settings.limits,
        Limits {
            connections: 512,
            request_timeout: Duration::from_secs(10),
            address_per_minute: 1200,
            identity_per_minute: 600
        }
    );
}

#[test]
fn a_longest_lifetime_under_a_day_shortens_the_default() {
    let settings = parse("workloadTtl: {max: 1h}").unwrap();
    assert_eq!(settings.workload_ttl.default, DAY / 24);
}

#[rstest]
#[case("trustdomain: x", "unknown")]
#[case("trustDomain: Example.Org", "trust domain")]
#[case("listen: here", "`here` is not an address with a port")]
#[case("{listen: 0.0.0.0:1, monitoring: 0.0.0.0:1}", "monitoring: 0.0.0.0:1 is taken by listen")]
#[case("dnsNames: []", "expected at least one name")]
#[case("dnsNames: ['ca one']", "neither a DNS name nor an IP address")]
#[case("workloadTtl: {default: 24}", "duration")]
#[case("workloadTtl: {default: 500ms}", "at least 1s")]
#[case("workloadTtl: {default: 2h, max: 1h}", "longer than workloadTtl.max")]
#[case("limits: {connections: 0}", "expected 1 to 100000")]
#[case("limits: {requestTimeout: 1h}", "expected 10ms to 5m")]
#[case("registrations: [{id: backend}]", "SPIFFE ID")]
#[case("registrations: [{id: spiffe://other/ns/a/sa/b}]", "not of the trust domain cluster.local")]
#[case(
    "registrations: [{id: spiffe://cluster.local/ns/a/sa/b}, {id: spiffe://cluster.local/ns/a/sa/b}]",
    "spiffe://cluster.local/ns/a/sa/b is registered twice"
)]
#[case(
    "registrations: [{id: spiffe://cluster.local/a, tokenFile: /t}, {id: spiffe://cluster.local/b, tokenFile: /t}]",
    "two files would be written to /t"
)]
#[case(
    "{bundleFile: /t, registrations: [{id: spiffe://cluster.local/a, tokenFile: /t}]}",
    "two files would be written to /t"
)]
#[case(
    "{state: /s, registrations: [{id: spiffe://cluster.local/a, tokenFile: /s/current/key.pem}]}",
    "/s/current/key.pem would be written among the CA's own files"
)]
#[case("{state: /s, bundleFile: /s/lock}", "/s/lock would be written among the CA's own files")]
#[case("registrations: [{id: spiffe://cluster.local/a, owner: root}]", "a user ID")]
#[case("registrations: [{id: spiffe://cluster.local/a, owner: 5000000000}]", "a user ID")]
#[case("registrations: [{id: spiffe://cluster.local/a, token: x}]", "unknown")]
#[case("tokens: {life: 30s}", "expected at least 1m")]
#[case("rotation: {rootLife: 200d}", "expected at least")]
#[case("rotation: {intermediateLife: 24h}", "twice workloadTtl.default")]
#[case("rotation: {rootKeyType: ed25519}", "ecdsa-p256")]
#[case("time: {scale: 0}", "expected a factor from 1 to 100000")]
#[case("time: {scale: 2, origin: yesterday}", "`yesterday` is not a time; write it as 2026-11-26T00:00:00Z")]
#[case("time: {origin: '2026-11-26T00:00:00Z'}", "hurries nothing without time.scale")]
#[case("attestation: {jwt: [{issuer: a, audience: b, jwks: {}}]}", "expected exactly one of file and url")]
#[case(
    "attestation: {jwt: [{issuer: a, audience: b, jwks: {file: f, url: 'https://c/'}}]}",
    "exactly one of file and url"
)]
#[case(
    "attestation: {jwt: [{issuer: a, audience: b, jwks: {url: 'http://c/'}}]}",
    "expected a url such as https://"
)]
#[case(
    "attestation: {jwt: [{issuer: a, audience: b, jwks: {url: 'https://u:p@c/'}}]}",
    "expected a url such as https://"
)]
#[case("attestation: {jwt: [{issuer: a, audience: b, jwks: {file: f, caFile: c}}]}", "caFile is for a url")]
#[case("attestation: {jwt: [{issuer: a, audience: '', jwks: {file: f}}]}", "not empty")]
#[case("attestation: {jwt: [{issuer: a, jwks: {file: f}}]}", "audience")]
#[case(
    "attestation: {jwt: [{issuer: a, audience: b, jwks: {file: f}}, {issuer: a, audience: c, jwks: {file: f}}]}",
    "stands there twice"
)]
#[case("attestation: {jwks: []}", "unknown")]
#[case("signer: {certificate: a}", "signer.key: is missing")]
#[case("signer: {chain: a}", "signer.certificate: is missing")]
fn a_wrong_setting_is_refused_with_its_name(#[case] text: &str, #[case] expected: &str) {
    let error = parse(text).unwrap_err().to_string();
    assert!(error.contains(expected), "expected {expected:?}; seen {error:?}");
}

#[test]
fn a_file_without_end_is_not_read_to_its_end() {
    let error = Settings::load(Path::new("/dev/zero"), Overrides::default()).unwrap_err().to_string();
    assert!(error.contains("/dev/zero") && error.contains("more than"), "{error}");
}

#[test]
fn a_fault_in_the_file_has_its_place() {
    let error = parse("listen: 127.0.0.1:1\nmonitorin: 127.0.0.1:2\n").unwrap_err().to_string();
    assert!(error.starts_with("ca.yaml:2:"), "{error}");
    assert!(error.contains("monitoring"), "{error}");
}

#[test]
fn a_flag_has_the_last_word() {
    let flags = [
        "--trust-domain=flag.example",
        "--listen=127.0.0.1:1",
        "--monitoring=127.0.0.1:2",
        "--dns-names=one,two",
        "--state=/flag",
        "--workload-ttl-default=1h",
        "--workload-ttl-max=2h",
        "--bundle-file=/flag.pem",
        "--limits-connections=3",
        "--limits-request-timeout=4s",
        "--tokens-life=2m",
        "--signer-certificate=/c",
        "--signer-key=/k",
        "--signer-chain=/h",
        "--rotation-automatic=true",
        "--rotation-root-key-type=ecdsa-p384",
        "--rotation-root-life=300d",
        "--rotation-intermediate-life=3h",
        "--rotation-publish-ahead=5h",
        "--time-scale=5",
        "--time-origin=1970-01-02T00:00:00Z",
        "--limits-address-per-minute=5",
        "--limits-identity-per-minute=6",
    ];
    let text = WHOLE.split("registrations:").next().unwrap();
    let settings = Settings::parse("ca.yaml", text, overrides(&flags)).unwrap();
    assert_eq!(
        settings,
        Settings {
            trust_domain: "flag.example".parse().unwrap(),
            listen: "127.0.0.1:1".parse().unwrap(),
            dns_names: vec!["one".try_into().unwrap(), "two".try_into().unwrap()],
            state: "/flag".into(),
            monitoring: "127.0.0.1:2".parse().unwrap(),
            workload_ttl: WorkloadTtl { default: DAY / 24, max: DAY / 12 },
            bundle_file: Some("/flag.pem".into()),
            registrations: vec![],
            token_life: Some(Duration::from_secs(120)),
            signer: Some(ExternalFiles {
                certificate: "/c".into(),
                key: "/k".into(),
                chain: Some("/h".into()),
            }),
            rotation: Rotation {
                automatic: true,
                root: RootPlan { key: RootKey::EcdsaP384, life: 300 * DAY, intermediate: Some(DAY / 8) },
                publish_ahead: DAY * 5 / 24,
            },
            hurry: Some(Hurry { factor: 5, origin: Some(SystemTime::UNIX_EPOCH + DAY) }),
            issuers: vec![],
            limits: Limits {
                connections: 3,
                request_timeout: Duration::from_secs(4),
                address_per_minute: 5,
                identity_per_minute: 6,
            },
        }
    );
}
