//! openssl and curl as peers, and as a second opinion on what goes over the wire.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use pillion_testkit::TestCa;
use pillion_testkit::authority::Paths;
use rstest::rstest;

use super::harness::{Mesh, PATIENCE, Process, call, echo_app, id, program, text};

/// Runs `openssl s_client` against `address`, types one line, and returns all it printed once the echo came back or
/// the connection ended.
fn s_client(mesh: &Mesh, address: SocketAddr, workload: Option<&str>, more: &[&str]) -> String {
    let bundle = mesh.identity("s_client").bundle;
    typed_by_hand(address, &bundle, workload.map(|name| mesh.identity(name)).as_ref(), more)
}

/// The same with the files of an identity.
pub(crate) fn typed_by_hand(
    address: SocketAddr,
    bundle: &Path,
    shown: Option<&Paths>,
    more: &[&str],
) -> String {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-connect", &address.to_string(), "-CAfile", &text(bundle)])
        .args(["-verify_return_error", "-servername", "outbound_.80_._.backend.default.svc.cluster.local"])
        .args(more);
    if let Some(paths) = shown {
        command.args(["-cert", &text(&paths.certificate), "-key", &text(&paths.key)]);
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The pipe breaks where the handshake failed; what openssl printed says so.
    let _ = stdin.write_all(b"typed by hand\n");
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = err.read_to_string(&mut text);
        text
    });
    let (mut printed, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = out.read(&mut buffer) {
        printed.extend_from_slice(&buffer[..read]);
        if printed.windows(13).any(|window| window == b"typed by hand") {
            break;
        }
    }
    drop(stdin);
    let _ = child.kill();
    let _ = child.wait();
    String::from_utf8_lossy(&printed).into_owned() + &errors.join().unwrap()
}

#[rstest]
#[case::tls_1_3(&["-tls1_3"], "TLSv1.3", true)]
#[case::tls_1_2(&["-tls1_2"], "TLSv1.2", true)]
#[case::only_p256(&["-tls1_3", "-groups", "P-256"], "TLSv1.3", true)]
#[case::tls_1_1(&["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], "", false)]
fn req_24_s_client_with_an_svid_is_served_by_tls_1_2_and_newer(
    #[case] more: &[&str],
    #[case] version: &str,
    #[case] served: bool,
) {
    if program("OPENSSL", "openssl").is_none() {
        return;
    }
    let mesh = Mesh::new();
    mesh.mode("STRICT");
    let (pillion, address) = mesh.in_front_of(echo_app());
    let printed = s_client(&mesh, address, Some("frontend"), &[&["-alpn", "istio"], more].concat());
    assert_eq!(printed.contains("typed by hand"), served, "{printed}");
    if served {
        assert!(printed.contains("ALPN protocol: istio"), "{printed}");
        pillion.wait_for_line(&[&id("frontend"), version]);
    }
}

#[test]
fn s_client_without_a_certificate_is_refused() {
    if program("OPENSSL", "openssl").is_none() {
        return;
    }
    let mesh = Mesh::new();
    mesh.mode("STRICT");
    let (pillion, address) = mesh.in_front_of(echo_app());
    let printed = s_client(&mesh, address, None, &["-alpn", "istio"]);
    assert!(!printed.contains("typed by hand"), "{printed}");
    pillion.wait_for_line(&["no_client_certificate"]);
}

/// Requirement 18: a ticket is good for no early data, and TLS 1.2 gives none.
#[test]
fn req_18_openssl_sees_a_ticket_without_early_data_and_none_in_tls_1_2() {
    if program("OPENSSL", "openssl").is_none() {
        return;
    }
    let mesh = Mesh::new();
    mesh.mode("STRICT");
    let (_pillion, address) = mesh.in_front_of(echo_app());
    let session = text(&mesh.path("session.pem"));
    let keeping = ["-alpn", "istio", "-tls1_3", "-sess_out", &session];
    let printed = s_client(&mesh, address, Some("frontend"), &keeping);
    assert!(printed.contains("Early data was not sent"), "{printed}");
    let told =
        Command::new("openssl").args(["sess_id", "-noout", "-text", "-in", &session]).output().unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("TLS session ticket:") && told.contains("Max Early Data: 0"), "{told}");
    let printed = s_client(&mesh, address, Some("frontend"), &["-alpn", "istio", "-tls1_2"]);
    assert!(printed.contains("typed by hand") && !printed.contains("TLS session ticket:"), "{printed}");
}

/// The app's own TLS under PERMISSIVE: openssl at both ends finishes its handshake through the sidecar.
#[test]
fn req_20_openssl_speaks_through_permissive_to_openssl() {
    if program("OPENSSL", "openssl").is_none() {
        return;
    }
    let mesh = Mesh::new();
    mesh.mode("PERMISSIVE");
    let (_server, app) = s_server(&mesh, "backend", &["-rev"]);
    let (_pillion, address) = mesh.in_front_of(app);
    let paths = mesh.identity("s_client");
    let output = Command::new("openssl")
        .args(["s_client", "-quiet", "-no_ign_eof", "-connect", &address.to_string()])
        .args(["-CAfile", &text(&paths.bundle)])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(printed.contains("verify return:1"), "{printed}");
}

/// `openssl s_server` that shows the SVID of `name`, and where it listens.
fn s_server(mesh: &Mesh, name: &str, more: &[&str]) -> (Process, SocketAddr) {
    let paths = mesh.identity(name);
    let mut command = Command::new("openssl");
    command
        .args(["s_server", "-accept", "127.0.0.1:0", "-CAfile", &text(&paths.bundle)])
        .args(["-cert", &text(&paths.certificate), "-key", &text(&paths.key), "-naccept", "4"])
        .args(more);
    let process = Process::start(command);
    let address = process.wait_for(|line| line.strip_prefix("ACCEPT ")?.trim().parse().ok());
    (process, address)
}

#[rstest]
#[case::tls_1_3(&["-tls1_3"], "TLSv1.3")]
#[case::tls_1_2(&["-tls1_2"], "TLSv1.2")]
fn pillion_calls_s_server_and_proves_itself(#[case] version: &[&str], #[case] named: &str) {
    if program("OPENSSL", "openssl").is_none() {
        return;
    }
    let mesh = Mesh::new();
    let more = [&["-Verify", "2", "-verify_return_error", "-alpn", "istio", "-rev"], version].concat();
    let (_server, server) = s_server(&mesh, "backend", &more);
    mesh.backend_at(server);
    let (pillion, address) = mesh.towards_backend();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"stressed\n").unwrap();
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"desserts\n");
    drop(stream);
    pillion.wait_for_line(&[&id("backend"), named]);
}

#[test]
fn pillion_refuses_an_s_server_that_is_somebody_else() {
    if program("OPENSSL", "openssl").is_none() {
        return;
    }
    let mesh = Mesh::new();
    let (_server, server) = s_server(&mesh, "impostor", &["-alpn", "istio", "-rev"]);
    mesh.backend_at(server);
    let (pillion, address) = mesh.towards_backend();
    assert!(call(address, b"secret\n").is_err());
    let line = pillion.wait_for_line(&["identity_unexpected"]);
    assert!(line.contains(&id("impostor")) && line.contains(&id("backend")), "{line}");
}

/// An authority of the web for a server outside the mesh: openssl with the certificate and key of `api.example.com`.
fn api_server(mesh: &Mesh, web: &TestCa, more: &[&str]) -> (Process, SocketAddr) {
    let paths = mesh.write("api", &web.issue_server(&["api.example.com"]));
    let mut command = Command::new("openssl");
    command
        .args(["s_server", "-accept", "127.0.0.1:0", "-rev", "-naccept", "4"])
        .args(["-cert", &text(&paths.certificate), "-key", &text(&paths.key)])
        .args(more);
    let process = Process::start(command);
    let address = process.wait_for(|line| line.strip_prefix("ACCEPT ")?.trim().parse().ok());
    (process, address)
}

/// Whether the app's plaintext comes back reversed.
fn is_reversed(address: SocketAddr) -> bool {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = [0; 9];
    let answered = stream.write_all(b"stressed\n").and_then(|()| stream.read_exact(&mut answer));
    answered.is_ok() && &answer == b"desserts\n"
}

/// SIMPLE: openssl is believed by its DNS name and root and, since it does not ask, shown nothing.
#[rstest]
#[case::tls_1_3(&["-tls1_3"], "TLSv1.3")]
#[case::tls_1_2(&["-tls1_2"], "TLSv1.2")]
fn pillion_speaks_simple_tls_to_s_server(#[case] version: &[&str], #[case] named: &str) {
    if program("OPENSSL", "openssl").is_none() {
        return;
    }
    let (mesh, web) = (Mesh::new(), TestCa::root("root of the web"));
    let (_server, server) = api_server(&mesh, &web, version);
    std::fs::write(mesh.path("web.pem"), web.bundle_pem()).unwrap();
    mesh.api_at(server, &format!("mode: SIMPLE, caCertificates: {}", text(&mesh.path("web.pem"))));
    let (pillion, address) = mesh.towards_api(&[]);
    assert!(is_reversed(address), "{}", pillion.printed());
    pillion.wait_for_line(&["  TLS api.example.com", named]);
}

/// MUTUAL: openssl asks for a certificate, verifies it and prints whose it is. SIMPLE is not let in by it.
#[rstest]
#[case::tls_1_3(&["-tls1_3"], "TLSv1.3")]
#[case::tls_1_2(&["-tls1_2"], "TLSv1.2")]
fn pillion_shows_its_certificate_to_s_server_by_mutual_tls(#[case] version: &[&str], #[case] named: &str) {
    if program("OPENSSL", "openssl").is_none() {
        return;
    }
    let (mesh, web) = (Mesh::new(), TestCa::root("root of the web"));
    let shown = mesh.write(
        "client",
        &web.issue_with("spiffe://unused/x", |leaf| {
            leaf.subject_alt_names.clear();
            leaf.distinguished_name.push(rcgen::DnType::CommonName, "the client");
        }),
    );
    std::fs::write(mesh.path("web.pem"), web.bundle_pem()).unwrap();
    let roots = text(&mesh.path("web.pem"));
    let asks = [&["-CAfile", &roots, "-Verify", "2", "-verify_return_error"], version].concat();
    let (openssl, server) = api_server(&mesh, &web, &asks);
    let client = [("clientCertificate", &shown.certificate), ("privateKey", &shown.key)];
    let client: String = client.iter().map(|(field, path)| format!(", {field}: {}", text(path))).collect();
    mesh.api_at(server, &format!("mode: MUTUAL, caCertificates: {roots}{client}"));
    let (pillion, address) = mesh.towards_api(&[]);
    assert!(is_reversed(address), "{}", pillion.printed());
    pillion.wait_for_line(&["  mTLS api.example.com", named]);
    openssl.wait_for_line(&["the client"]);

    mesh.api_at(server, &format!("mode: SIMPLE, caCertificates: {roots}"));
    let (pillion, address) = mesh.towards_api(&[]);
    assert!(!is_reversed(address), "{}", pillion.printed());
    pillion.wait_for_line(&["peer_refused"]);
}

/// Where a rule names no roots, those of the system count; where there are none, nobody is believed.
#[test]
fn the_systems_roots_vouch_for_s_server_where_a_rule_names_none() {
    if program("OPENSSL", "openssl").is_none() {
        return;
    }
    let (mesh, web) = (Mesh::new(), TestCa::root("root of the web"));
    let (_server, server) = api_server(&mesh, &web, &[]);
    std::fs::write(mesh.path("web.pem"), web.bundle_pem()).unwrap();
    mesh.api_at(server, "mode: SIMPLE");
    let (pillion, address) = mesh.towards_api(&[("SSL_CERT_FILE", &mesh.path("web.pem"))]);
    assert!(is_reversed(address), "{}", pillion.printed());
    pillion.wait_for_line(&["1 root certificate of the system"]);

    let (pillion, address) = mesh.towards_api(&[("SSL_CERT_FILE", Path::new("/nonexistent"))]);
    assert!(!is_reversed(address));
    pillion.wait_for_line(&["tls_files_unusable", "install its package ca-certificates"]);

    let (pillion, address) = mesh.towards_api(&[]);
    assert!(!is_reversed(address));
    pillion.wait_for_line(&["certificate_untrusted", "does not lead to a root of the system"]);
}

/// curl has no way to check a SPIFFE ID, but it presents one.
#[test]
fn curl_with_an_svid_is_served_under_strict_and_without_one_is_reset() {
    let (Some(curl), Some(_)) = (program("CURL", "curl"), program("OPENSSL", "openssl")) else { return };
    let mesh = Mesh::new();
    mesh.mode("STRICT");
    let (_pillion, address) = mesh.in_front_of(http_app());
    let paths = mesh.identity("frontend");
    // curl offers no ALPN of the mesh; STRICT terminates all TLS and asks for the certificate.
    let output = Command::new(&curl)
        .args(["--silent", "--show-error", "--insecure", "--max-time", "20"])
        .args(["--cert", &text(&paths.certificate), "--key", &text(&paths.key)])
        .arg(format!("https://{address}/"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello", "{output:?}");
    let output = Command::new(&curl)
        .args(["--silent", "--show-error", "--max-time", "20", &format!("http://{address}/")])
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains("reset by peer"), "{complaint}");
}

/// Answers every request with `hello`.
fn http_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            let mut byte = [0; 1];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
        }
    });
    address
}
