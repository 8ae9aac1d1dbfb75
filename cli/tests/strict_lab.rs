//! The lab of examples/labs/strict without containers, by its own mesh folder: a web frontend without a sidecar, customers
//! with one, and a gateway in front of both. The sidecars, the apps and curl are real.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use pillion_cli::lab::{Lab, Node, Process, RunningSidecar, Sidecar, wait_until};
use pillion_mesh::reason::Reason;
use serde_json::Value;

use common::SOON;

#[test]
fn strict_resets_the_frontend_without_a_sidecar_while_the_gateway_goes_on() {
    let Some(lab) = StrictLab::start() else { return };

    lab.frontend_comes_to_show("200");
    assert_eq!(lab.customers_by_the_gateway()["name"], "customers");
    let (request, _) = lab.customers.request_log().pop().unwrap();
    assert_eq!(request.tls.as_ref().map(|tls| tls.peer.as_str()), Some(GATEWAY_ID), "{request:?}");

    let strict = fs::read_to_string(folder().join("policies/strict-mtls.yaml")).unwrap();
    lab.lab.mesh().write("strict-mtls.yaml", &strict).unwrap();
    lab.frontend_comes_to_show("ECONNRESET");
    for _ in 0..5 {
        assert_eq!(lab.frontend()["errno"], "ECONNRESET");
        assert_eq!(lab.customers_by_the_gateway()["name"], "customers");
    }
    let refused =
        lab.customers.wait_for_record(SOON, |record| record.reason == Some(Reason::StrictPlaintext)).unwrap();
    assert_eq!(refused.client.ip(), lab.web_frontend.v4(), "{refused:?}");
    assert!(
        refused.mode.as_ref().is_some_and(|mode| mode.because.contains("default/default")),
        "{refused:?}"
    );

    lab.lab.mesh().remove("strict-mtls.yaml").unwrap();
    lab.frontend_comes_to_show("200");
    assert_eq!(lab.customers_by_the_gateway()["name"], "customers");
}

const GATEWAY_ID: &str = "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway";

/// As compose.yaml of the lab has it.
struct StrictLab {
    customers: RunningSidecar,
    web_frontend: Node,
    visitor: Node,
    gateway_url: String,
    _gateway: RunningSidecar,
    _apps: [Process; 2],
    lab: Lab,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/labs/strict")
}

impl StrictLab {
    fn start() -> Option<Self> {
        let lab = common::lab()?;
        let [gateway, web_frontend, customers, visitor] =
            ["gateway", "web-frontend", "customers", "visitor"].map(|name| lab.node(name).unwrap());
        let ca = lab.ca(&["istio-system/istio-ingressgateway", "customers"], "").unwrap();
        for name in ["gateway.yaml", "web-frontend.yaml", "customers.yaml"] {
            lab.mesh().write(name, &fs::read_to_string(folder().join("mesh").join(name)).unwrap()).unwrap();
        }
        let customers_app = ["example", "backend", "--name", "customers", "--listen", "0.0.0.0:3000"];
        let frontend_app =
            ["example", "frontend", "--name", "web-frontend", "--backend", "http://customers:3000"];
        let apps =
            [(&customers, &customers_app[..]), (&web_frontend, &frontend_app[..])].map(|(node, args)| {
                let app = node.start_pillion("app", args).unwrap();
                app.wait_for_line(SOON, "listening on").unwrap();
                app
            });
        let customers = Sidecar::new("customers").label("version", "v1").start(&customers, &ca).unwrap();
        let gateway_url = format!("http://{}:8080", gateway.v4());
        let gateway = Sidecar::new("istio-system/istio-ingressgateway")
            .label("istio", "ingressgateway")
            .gateway(80, 8080)
            .start(&gateway, &ca)
            .unwrap();
        Some(Self { customers, web_frontend, visitor, gateway_url, _gateway: gateway, _apps: apps, lab })
    }

    fn curl(&self, args: &[&str]) -> Value {
        let fixed = ["--silent", "--show-error", "--max-time", "10", &self.gateway_url];
        let answer = self.visitor.run("curl", &[&fixed[..], args].concat()).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// What the web frontend has to show of its call.
    fn frontend(&self) -> Value {
        let shown = self.curl(&[]);
        assert_eq!(shown["name"], "web-frontend");
        shown
    }

    fn customers_by_the_gateway(&self) -> Value {
        self.curl(&["--header", "Host: customers.default.svc.cluster.local"])
    }

    fn frontend_comes_to_show(&self, outcome: &str) {
        let what = format!("the frontend to show {outcome}");
        let shows = || {
            let shown = self.frontend();
            let word = shown["errno"].as_str().map_or_else(|| shown["status"].to_string(), str::to_owned);
            Ok((word == outcome).then_some(()))
        };
        wait_until(SOON, &what, shows).unwrap();
    }
}
