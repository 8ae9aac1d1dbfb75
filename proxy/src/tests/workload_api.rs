//! Sidecars that serve the Workload API, and such that have their identity from one.

use std::os::unix::fs::PermissionsExt;

use pillion_testkit::peer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::workers::Workers;

#[tokio::test]
async fn a_sidecar_gives_its_identity_to_another_process_of_its_workload() {
    let lab = Lab::new();
    lab.mode(STRICT);
    let app = peer::echo_app().await;
    let path = lab.folder.path().join("workload.sock");
    let first = lab
        .in_front_of(app.address, &format!("workloadApi: {{socket: {}, mode: \"0600\"}}", path.display()))
        .await;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let inbound =
        format!("inbound: {{listeners: [{{address: \"127.0.0.1:0\", forward: \"{}\"}}]}}", app.address);
    let identity = format!("workloadApi: \"unix://{}\"", path.display());
    let second = lab.sidecar_by(&identity, "backend", "app: backend", &inbound).await;
    let mut client = lab.tls_client(second.inbound(), Some("frontend"), &["istio"]).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    timeout(PATIENCE, client.read_exact(&mut [0; 5])).await.unwrap().unwrap();

    let serial = |sidecar: &Sidecar| {
        sidecar.running.shared.credentials.borrow().as_ref().map(|current| current.svid.serial.clone())
    };
    assert_eq!(serial(&first), serial(&second));
    let renewed = lab.held("backend");
    let _ = renewed.write(&lab.folder.path().join("backend"), &lab.ca.bundle_pem());
    let old = serial(&second);
    second.eventually("the renewed certificate", || serial(&second) != old).await;

    first.running.stop().await;
    drop(first);
    second.eventually("the socket goes with its sidecar", || !path.exists()).await;
    let mut client = lab.tls_client(second.inbound(), Some("frontend"), &["istio"]).await.unwrap();
    client.write_all(b"again").await.unwrap();
    timeout(PATIENCE, client.read_exact(&mut [0; 5])).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_socket_that_is_in_use_stops_the_start() {
    let lab = Lab::new();
    let app = peer::echo_app().await;
    let more = format!("workloadApi: {{socket: {}}}", lab.folder.path().join("workload.sock").display());
    let _first = lab.in_front_of(app.address, &more).await;
    let text = format!(
        "workload: {{serviceAccount: backend}}\nidentity: {{files: {{certificate: c, key: k, bundle: b}}}}\n\
         admin: {{address: \"127.0.0.1:0\"}}\nreadiness: {{address: \"127.0.0.1:0\"}}\n\
         metrics: {{address: \"127.0.0.1:0\"}}\n\
         inbound: {{listeners: [{{address: \"127.0.0.1:0\", forward: \"127.0.0.1:1\"}}]}}\n{more}\n"
    );
    let raw: RawSettings = pillion_mesh::yaml::read("settings.yaml", &text).unwrap();
    let settings = Settings::try_from(raw).unwrap();
    let error = start(settings, LogLevel::fixed(), Workers::here()).await.unwrap_err().to_string();
    assert!(error.ends_with("somebody listens there already; end it, or choose another path"), "{error}");
}
