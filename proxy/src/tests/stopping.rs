//! Changes and ends while connections are open: policy, drain.

use std::io;

use pillion_testkit::peer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::listener::{self, How, Role};
use crate::settings::{InboundListener, InterceptionMode};
use crate::workers::Workers;

async fn says_hello<S: AsyncReadExt + AsyncWriteExt + Unpin>(stream: &mut S) -> io::Result<()> {
    stream.write_all(b"hello").await?;
    let mut answer = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await??;
    assert_eq!(&answer, b"hello");
    Ok(())
}

#[tokio::test]
async fn a_stricter_policy_cuts_open_plaintext_and_spares_open_mtls() {
    let lab = Lab::new();
    lab.mode(PERMISSIVE);
    let app = peer::echo_app().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut plain = TcpStream::connect(sidecar.inbound()).await.unwrap();
    let mut mesh = lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap();
    says_hello(&mut plain).await.unwrap();
    says_hello(&mut mesh).await.unwrap();

    lab.mode(STRICT);
    let error = timeout(PATIENCE, plain.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    says_hello(&mut mesh).await.unwrap();

    lab.resources(None);
    sidecar
        .eventually("plaintext let in again", || {
            sidecar.running.shared.snapshot.borrow().snapshot.modes.for_port(app.address.port()).mode
                == pillion_mesh::policy::mode::Mode::Permissive
        })
        .await;
    says_hello(&mut TcpStream::connect(sidecar.inbound()).await.unwrap()).await.unwrap();
    says_hello(&mut mesh).await.unwrap();
}

#[tokio::test]
async fn a_setting_keeps_open_connections_whatever_the_policy_becomes() {
    let lab = Lab::new();
    lab.mode(PERMISSIVE);
    let app = peer::echo_app().await;
    let sidecar = lab.in_front_of(app.address, "policyChange: keep").await;
    let mut plain = TcpStream::connect(sidecar.inbound()).await.unwrap();
    says_hello(&mut plain).await.unwrap();
    lab.mode(STRICT);
    sidecar
        .eventually("a refusal of new plaintext", || {
            sidecar.running.shared.snapshot.borrow().snapshot.modes.for_port(app.address.port()).mode
                == pillion_mesh::policy::mode::Mode::Strict
        })
        .await;
    says_hello(&mut plain).await.unwrap();
}

#[tokio::test]
async fn a_broken_policy_leaves_the_last_good_one_in_force() {
    let lab = Lab::new();
    lab.mode(STRICT);
    let app = peer::echo_app().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    lab.mode("DISABLED");
    sidecar
        .eventually("the fault in the snapshot", || {
            sidecar.running.shared.snapshot.borrow().last_error.is_some()
        })
        .await;
    let fault = sidecar.running.shared.snapshot.borrow().last_error.clone().unwrap();
    assert!(fault.contains("resources.yaml:4:") && fault.contains("DISABLE"), "{fault}");
    assert!(peer::send_and_half_close(sidecar.inbound(), b"x").await.is_err());
    assert!(
        sidecar.metrics().contains("pillion_policy_reload_total{result=\"failure\"} 1"),
        "{}",
        sidecar.metrics()
    );

    fs::remove_dir_all(lab.mesh()).unwrap();
    sidecar
        .eventually("the missing folder as a fault", || {
            sidecar
                .running
                .shared
                .snapshot
                .borrow()
                .last_error
                .as_ref()
                .is_some_and(|fault| !fault.contains(":4:"))
        })
        .await;
    assert!(
        peer::send_and_half_close(sidecar.inbound(), b"x").await.is_err(),
        "a vanished folder opened the port"
    );
}

#[tokio::test]
async fn draining_lets_open_connections_finish_and_takes_no_new_ones() {
    let lab = Lab::new();
    lab.mode(PERMISSIVE);
    let app = peer::echo_app().await;
    let sidecar = lab.in_front_of(app.address, "drain: {timeout: 10s}").await;
    let mut open = lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap();
    says_hello(&mut open).await.unwrap();
    let (address, shared) = (sidecar.inbound(), sidecar.running.shared.clone());
    let stopping = tokio::spawn(async move { sidecar.running.stop().await });
    timeout(PATIENCE, async {
        while TcpStream::connect(address).await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("new connections are still taken");
    says_hello(&mut open).await.unwrap();
    assert!(!stopping.is_finished());
    open.shutdown().await.unwrap();
    let mut rest = Vec::new();
    open.read_to_end(&mut rest).await.unwrap();
    timeout(PATIENCE, stopping).await.unwrap().unwrap();
    assert_eq!(shared.connections.len(), 0);
}

#[tokio::test]
async fn the_drain_deadline_cuts_what_is_still_open() {
    let lab = Lab::new();
    lab.mode(PERMISSIVE);
    let app = peer::echo_app().await;
    let sidecar = lab.in_front_of(app.address, "drain: {timeout: 200ms}").await;
    let mut open = TcpStream::connect(sidecar.inbound()).await.unwrap();
    says_hello(&mut open).await.unwrap();
    timeout(PATIENCE, sidecar.running.stop()).await.unwrap();
    let error = timeout(PATIENCE, open.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Clients whom the kernel had let in before the listener closed are served, not cut.
#[tokio::test]
async fn draining_serves_what_already_waits_in_the_backlog() {
    let lab = Lab::new();
    let app = peer::echo_app().await;
    let sidecar = lab.in_front_of(app.address, "drain: {timeout: 10s}").await;
    let shared = sidecar.running.shared.clone();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let role = Role::Inbound(InboundListener { address: any, forward: app.address });
    let workers = Workers::here();
    let keepalive = shared.settings.limits.keepalive;
    let how = How { interception: InterceptionMode::Redirect, keepalive, workers: &workers };
    let mut bound = listener::bind(&role, any, &how).unwrap();
    let bound = bound.pop().unwrap();
    let address = bound.address;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(TcpStream::connect(address).await.unwrap());
    }
    shared.drain.start();
    listener::run(bound, shared.clone(), CancellationToken::new()).await;
    for client in &mut waiting {
        says_hello(client).await.unwrap();
    }
    assert!(TcpStream::connect(address).await.is_err(), "the listener is still open");
}
