//! `pillion analyze`, `pillion describe` and `pillion authz check` as a person types them: `tests/policies/NAME.console`
//! are sessions that a terminal would show. `UPDATE_GOLDEN=1` writes them anew.
// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::PILLION;
use common::console::Console;
use pillion_testkit::TestCa;
use rstest::rstest;
use serde_json::Value;

#[rstest]
#[case("analyze")]
#[case("describe")]
#[case("authz")]
fn each_session_goes_as_it_is_written(#[case] name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/policies/{name}.console"));
    let written = fs::read_to_string(&path).unwrap();
    let seen = Console::new().replay(&written);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &seen).unwrap();
        return;
    }
    snapbox::assert_data_eq!(seen, snapbox::Data::text(written).raw());
}

/// A proxy that ends with the test.
struct Proxy {
    child: Child,
    admin: String,
}

impl Proxy {
    /// Starts a proxy on ports that the kernel chooses and waits until it says where its admin API is.
    fn start(config: &Path) -> Self {
        let mut child = Command::new(PILLION)
            .args(["proxy", "--log-format", "json", "--config"])
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let admin = lines.by_ref().find_map(|line| {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let address =
                line["message"].as_str()?.strip_prefix("listening on ")?.strip_suffix(" (admin)")?;
            Some(format!("http://{address}"))
        });
        // Whatever it says afterwards is taken, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, admin: admin.expect("the proxy says where its admin API listens") }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn json(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = Command::new(PILLION).args(arguments).args(["-o", "json"]).output().unwrap();
    let printed = serde_json::from_slice(&output.stdout);
    (printed.unwrap_or_else(|_| panic!("{arguments:?}: {output:?}")), output.status.code())
}

/// The files and the proxy that has read them give the same answers, in the same words and with the same exit codes.
#[test]
fn a_running_proxy_says_what_the_files_say() {
    let folder = tempfile::tempdir().unwrap();
    let ca = TestCa::root("root");
    let _paths = ca.issue("spiffe://cluster.local/ns/shop/sa/catalog").write(folder.path(), &ca.bundle_pem());
    let config = folder.path().join("proxy.yaml");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let [certificate, key, bundle] =
        ["svid.pem", "svid.key", "bundle.pem"].map(|name| folder.path().join(name));
    fs::write(
        &config,
        format!(
            "workload: {{namespace: shop, serviceAccount: catalog, labels: {{app: catalog}}}}\n\
             identity: {{files: {{certificate: {}, key: {}, bundle: {}}}}}\n\
             mesh: {}\n\
             inbound: {{listeners: [{{address: 127.0.0.1:0, forward: 127.0.0.1:8080}}]}}\n\
             admin: {{address: 127.0.0.1:0}}\nreadiness: {{address: 127.0.0.1:0}}\nmetrics: {{address: 127.0.0.1:0}}\n",
            certificate.display(),
            key.display(),
            bundle.display(),
            root.join("examples/zero-trust/mesh").display(),
        ),
    )
    .unwrap();
    let proxy = Proxy::start(&config);
    let config = config.display().to_string();
    const WEB: [&str; 4] = ["--from", "cluster.local/ns/shop/sa/frontend", "--port", "8080"];
    for question in [
        &["describe"][..],
        &["authz", "check"],
        &[&["authz", "check", "--method", "GET", "--path", "/api/products?a=%20&b"], &WEB[..]].concat(),
        &[
            &["authz", "check", "--method", "DELETE", "--path", "/api/products", "--header", "x-a=b c&d"],
            &WEB[..],
        ]
        .concat(),
        &["authz", "check", "--from", "plaintext", "--port", "8080"],
    ] {
        let of_proxy = json(&[question, &["--admin", &proxy.admin]].concat());
        let of_files = json(&[question, &["--config", &config]].concat());
        assert_eq!(of_proxy, of_files, "{question:?}");
    }
}
