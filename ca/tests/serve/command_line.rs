//! The commands for people, and the exit codes.

use std::process::{Command, Output};

use rcgen::KeyPair;
use rstest::rstest;

use crate::support::{BACKEND, Ca, Client, Home, csr};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

#[tokio::test]
async fn a_token_created_beside_a_running_ca_counts_at_once() {
    let home = Home::new();
    let ca = home.start();
    let create = |ttl: &str| {
        let output = run(home.command(&["token", "create", "--id", BACKEND, "--ttl", ttl]).env_clear());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    };
    let client = Client::new(&ca, &home);
    client.enroll(&create("1h"), "").await;
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let expired = client.sign(Some(&create("1ms")), csr(&key)).await.unwrap();
    assert_eq!(expired.status, 401);
    assert!(ca.audit_line(2)["reason"].as_str().unwrap().contains("expired at"));
}

#[tokio::test]
async fn req_33_a_one_time_token_counts_once_also_over_a_restart_and_its_replay_is_told() {
    let home = Home::new();
    let first = home.start();
    let output = run(&mut home.command(&["token", "create", "--id", BACKEND, "--ttl", "10m", "--once"]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let token = text(&output.stdout).trim().to_owned();
    Client::new(&first, &home).enroll(&token, "").await;
    assert_eq!(first.audit_line(1)["evidence"], "one-time token");
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let replay = async |ca: &Ca, line| {
        let answer = Client::new(ca, &home).sign(Some(&token), csr(&key)).await.unwrap();
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (401, r#"{"status":401,"title":"Unauthorized"}"#)
        );
        let line = ca.audit_line(line);
        assert_eq!(line["refusal"], "token_replayed");
        assert!(line["reason"].as_str().unwrap().contains("a replay"), "{line}");
    };
    replay(&first, 2).await;
    drop(first);
    replay(&home.start(), 1).await;
}

#[tokio::test]
async fn req_33_of_many_who_show_a_one_time_token_at_once_one_gets_a_certificate() {
    let home = Home::new();
    let ca = home.start();
    let output = run(&mut home.command(&["token", "create", "--id", BACKEND, "--once"]));
    let token = text(&output.stdout).trim().to_owned();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (client, token) = (Client::new(&ca, &home), token.clone());
        let body = csr(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap());
        asking.spawn(async move { client.sign(Some(&token), body).await.unwrap().status });
    }
    let mut statuses = asking.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![201], vec![401; 19]].concat());
}

#[test]
fn in_hurried_time_the_root_is_made_ahead_of_the_world_and_commands_need_the_same_origin() {
    use pillion_mesh::wire::rfc3339;
    use std::time::{Duration, SystemTime};
    let home = Home::with("time: {scale: 2880}");
    let create = ["token", "create", "--id", BACKEND, "--ttl", "24h"];
    let output = run(&mut home.command(&create));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("time.origin"), "{}", text(&output.stderr));
    // A minute in the world is two days in hurried time.
    let minute_ago = SystemTime::now() - Duration::from_secs(60);
    let origin = format!("--time-origin={}", rfc3339::print(minute_ago));
    let ca = Ca::start(home.command(&["serve", "--log-format", "json", &origin]));
    let loud = ca.log().into_iter().find(|line| line["factor"] == 2_880).expect("nothing tells of it");
    assert_eq!(loud["level"], "WARN");
    let status = text(&run(&mut home.command(&["root", "status", &origin])).stdout);
    let not_before = status.lines().find_map(|line| line.strip_prefix("not before")).unwrap().trim();
    let tomorrow = rfc3339::print(SystemTime::now() + Duration::from_secs(24 * 3600));
    assert!(*not_before > *tomorrow, "{status}");
    assert!(run(home.command(&create).arg(&origin)).status.success());
}

#[test]
fn a_token_for_an_identity_that_is_not_registered_is_not_made() {
    let home = Home::new();
    let _ca = home.start();
    let stranger = "spiffe://cluster.local/ns/default/sa/stranger";
    let output = run(&mut home.command(&["token", "create", "--id", stranger]));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("not in registrations"), "{}", text(&output.stderr));
}

#[test]
fn the_root_is_shown_to_people() {
    let home = Home::new();
    let before = run(&mut home.command(&["root", "status"]));
    assert_eq!(before.status.code(), Some(1));
    assert!(text(&before.stderr).contains("holds no root"), "{}", text(&before.stderr));
    let _ca = home.start();
    let output = run(&mut home.command(&["root", "status"]));
    let shown = text(&output.stdout);
    for part in ["trust domain  cluster.local", "SHA-256", "not after"] {
        assert!(output.status.success() && shown.contains(part), "{part:?} is not in {shown}");
    }
    // For programs the same.
    let told = run(&mut home.command(&["root", "status", "-o", "json"]));
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    let root = &told["roots"][0];
    assert_eq!((&root["stage"], &told["next"]["step"]), (&"current".into(), &"nothing".into()), "{told:#}");
    for field in
        ["name", "subject", "notBefore", "notAfter", "sha256", "published", "signsSince", "longestLife"]
    {
        let value = root[field].as_str().unwrap_or_else(|| panic!("no {field} in {told:#}"));
        assert!(shown.contains(value), "{field} {value} is not in {shown}");
    }
    let yaml = text(&run(&mut home.command(&["root", "status", "-o", "yaml"])).stdout);
    assert!(yaml.contains("trustDomain: cluster.local") && yaml.contains("stage: current"), "{yaml}");
}

#[test]
fn a_check_touches_nothing() {
    let home = Home::new();
    let output = run(&mut home.command(&["serve", "--check"]));
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).ends_with("ca.yaml: ok\n"), "{}", text(&output.stdout));
    assert!(!home.path("state").exists() && !home.path("run").exists());
}

#[rstest]
#[case::signer("signer: {certificate: a}", "signer.key: is missing")]
#[case::unknown_key("registration: []", "registrations")]
fn a_wrong_configuration_ends_with_2(#[case] more: &str, #[case] expected: &str) {
    let home = Home::with(more);
    for arguments in [&["serve"][..], &["serve", "--check"], &["root", "status"]] {
        let output = run(&mut home.command(arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
    assert!(!home.path("state").exists());
}

#[rstest]
#[case(&["--help"], 0)]
#[case(&["--version"], 0)]
#[case(&["serve", "--help"], 0)]
#[case(&[], 2)]
#[case(&["serve"], 2)]
#[case(&["serve", "--config", "/nowhere/ca.yaml"], 2)]
#[case(&["reign"], 2)]
fn arguments_have_their_exit_codes(#[case] arguments: &[&str], #[case] code: i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion-ca"));
    let output = run(command.env_clear().args(arguments));
    assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
}

#[test]
fn help_names_the_environment_variable_of_every_flag() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion-ca"));
    let help = text(&run(command.env_clear().args(["serve", "--help"])).stdout);
    for name in [
        "CONFIG",
        "TRUST_DOMAIN",
        "LISTEN",
        "DNS_NAMES",
        "STATE",
        "MONITORING",
        "WORKLOAD_TTL_DEFAULT",
        "WORKLOAD_TTL_MAX",
        "BUNDLE_FILE",
        "LIMITS_CONNECTIONS",
        "LIMITS_REQUEST_TIMEOUT",
        "TOKENS_LIFE",
        "SIGNER_CERTIFICATE",
        "SIGNER_KEY",
        "SIGNER_CHAIN",
        "ROTATION_AUTOMATIC",
        "ROTATION_ROOT_KEY_TYPE",
        "ROTATION_ROOT_LIFE",
        "ROTATION_INTERMEDIATE_LIFE",
        "ROTATION_PUBLISH_AHEAD",
        "TIME_SCALE",
        "TIME_ORIGIN",
        "LIMITS_ADDRESS_PER_MINUTE",
        "LIMITS_IDENTITY_PER_MINUTE",
        "LOG_FORMAT",
    ] {
        assert!(help.contains(&format!("[env: PILLION_CA_{name}=")), "{name} is not in {help}");
    }
}

#[test]
fn the_environment_stands_in_for_the_file() {
    let home = Home::new();
    let elsewhere = home.path("elsewhere");
    let mut command = home.command(&["serve", "--log-format", "json"]);
    command.env("PILLION_CA_STATE", &elsewhere);
    let _ca = Ca::start(command);
    assert!(elsewhere.join("signers.json").exists());
    assert!(!home.path("state").exists());
}

#[test]
fn an_address_in_use_ends_with_1() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&mut home.command(&["serve", "--listen", &address]));
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains(&format!("cannot listen on {address} (listen)")), "{error}");
}
