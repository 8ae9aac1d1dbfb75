//! The library `spiffe` of Python as a client of the Workload API that a sidecar serves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pillion_testkit::{Held, TestCa};
use serde_json::{Value, json};

use super::harness::{Mesh, Process, id, program, text};

const LISTENERS: &str = "inbound: {listeners: [{address: \"127.0.0.1:0\", forward: \"127.0.0.1:1\"}]}";

/// The folder that the library is installed in, and a Python that can use it.
fn library() -> Option<(PathBuf, PathBuf)> {
    Some((program("PILLION_TEST_SPIFFE", "spiffe")?, program("PILLION_TEST_PYTHON", "python3")?))
}

fn client((library, python): &(PathBuf, PathBuf), socket: &Path) -> Process {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/spiffe_client.py");
    let mut command = Command::new(python);
    command.arg(script).arg(format!("unix://{}", socket.display()));
    command.env("PYTHONPATH", library).env("PYTHONDONTWRITEBYTECODE", "1");
    Process::start(command)
}

/// A sidecar of `backend` that serves the Workload API on `socket`.
fn sidecar(mesh: &Mesh, socket: &Path, more: &str) -> Process {
    mesh.sidecar("backend", &format!("{LISTENERS}\nworkloadApi: {{socket: {}}}\n{more}", text(socket)))
}

fn hex(der: &[u8]) -> String {
    der.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn object(line: &str) -> Option<Value> {
    serde_json::from_str(line).ok()
}

/// Waits until the app was given exactly this.
fn given(app: &Process, held: &Held, bundles: &[(&str, &[&TestCa])]) {
    let bundles: serde_json::Map<_, _> = bundles
        .iter()
        .map(|(name, roots)| {
            let mut roots: Vec<_> = roots.iter().map(|root| hex(root.root_certificate())).collect();
            roots.sort();
            ((*name).to_owned(), json!(roots))
        })
        .collect();
    let expected = json!({
        "id": id("backend"),
        "chain": held.chain.iter().map(|certificate| hex(certificate)).collect::<Vec<_>>(),
        "keyIsTheLeafs": true,
        "bundles": bundles,
    });
    app.wait_for(|line| (object(line)? == expected).then_some(()));
}

#[test]
fn an_app_gets_its_sidecars_identity_by_a_spiffe_library_and_every_renewal() {
    let Some(library) = library() else { return };
    let (mesh, foreign) = (Mesh::new(), TestCa::root("foreign root"));
    let socket = mesh.path("workload.sock");
    let other = mesh.path("other.pem");
    fs::write(&other, foreign.bundle_pem()).unwrap();
    let federation =
        format!("federation: [{{trustDomain: other.example, bundle: {{file: {}}}}}]", text(&other));
    let sidecar = sidecar(&mesh, &socket, &federation);
    sidecar.wait_for_line(&["trust bundle of other.example"]);

    let renew = |held: &Held| _ = mesh.write("mesh-backend", held);
    let intermediate = mesh.ca.intermediate("intermediate");
    let first = intermediate.issue(&id("backend"));
    renew(&first);
    let app = client(&library, &socket);
    given(&app, &first, &[("cluster.local", &[&mesh.ca]), ("other.example", &[&foreign])]);
    app.wait_for(|line| {
        (object(line)? == json!({"fetched": ["cluster.local", "other.example"]})).then_some(())
    });
    let jwt = app.wait_for(|line| Some(object(line)?.get("jwt")?.as_str()?.to_owned()));
    assert!(jwt.to_ascii_uppercase().contains("UNIMPLEMENTED") || jwt.contains("not implemented"), "{jwt}");

    let second = mesh.ca.issue(&id("backend"));
    renew(&second);
    given(&app, &second, &[("cluster.local", &[&mesh.ca]), ("other.example", &[&foreign])]);

    let next = TestCa::root("next foreign root");
    fs::write(&other, foreign.bundle_pem() + &next.bundle_pem()).unwrap();
    given(&app, &second, &[("cluster.local", &[&mesh.ca]), ("other.example", &[&foreign, &next])]);
    sidecar.wait_for_line(&["FetchX509SVID of the Workload API: given", &id("backend")]);
}
