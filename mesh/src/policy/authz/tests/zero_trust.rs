//! A shop whose namespace denies all, lets two pairs talk, and keeps two namespaces out.

use super::ask::{allows, policies};

const POLICIES: &str = r#"
# Nobody may call anything in the shop that is not allowed below.
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nothing-by-default, namespace: production}
spec: {}
---
# The frontend reads the catalog.
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: frontend-reads-catalog, namespace: production}
spec:
  selector: {matchLabels: {app: product-catalog}}
  action: ALLOW
  rules:
  - from:
    - source: {principals: ["cluster.local/ns/production/sa/frontend"]}
    to:
    - operation: {methods: ["GET"], paths: ["/api/v1/products", "/api/v1/products/*"]}
---
# Payment reads and writes orders.
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: payment-works-on-orders, namespace: production}
spec:
  selector: {matchLabels: {app: orders}}
  action: ALLOW
  rules:
  - from:
    - source: {principals: ["cluster.local/ns/production/sa/payment-service"]}
    to:
    - operation: {methods: ["GET", "POST", "PUT"], paths: ["/api/v1/orders/*"]}
---
# Whatever is allowed, not for these.
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-development, namespace: production}
spec:
  action: DENY
  rules:
  - from:
    - source: {namespaces: ["development", "testing"]}
"#;

const SERVICES: [&str; 5] = ["frontend", "product-catalog", "cart", "payment-service", "orders"];

/// The first path of each service's API.
fn path(service: &str) -> String {
    let what = service.trim_start_matches("product-").trim_end_matches("-service");
    if what == "catalog" { "/api/v1/products/7".to_owned() } else { format!("/api/v1/{what}/7") }
}

fn callers() -> Vec<String> {
    let own = SERVICES.map(|name| format!("cluster.local/ns/production/sa/{name}"));
    let others =
        ["cluster.local/ns/development/sa/frontend", "cluster.local/ns/testing/sa/tester", "plaintext"];
    own.into_iter().chain(others.map(str::to_owned)).collect()
}

/// Who may call whom. The drawing that usually goes with such policies also has the frontend call the cart and the cart
/// call payment; no policy allows either, so both are denied.
#[test]
fn exactly_two_pairs_may_talk() {
    let mut table = String::new();
    for caller in callers() {
        for service in SERVICES {
            let policies = policies(POLICIES, &format!("production/{service} app={service}"), &[]);
            let request = format!("{caller} to=8080 GET {service}{}", path(service));
            if allows(&policies, &request) {
                table += &format!("{} -> {service}\n", caller.rsplit('/').next().unwrap());
            }
        }
    }
    assert_eq!(table, "frontend -> product-catalog\npayment-service -> orders\n");
}

#[test]
fn the_pairs_may_use_these_methods_and_paths() {
    let mut table = String::new();
    for (caller, service, paths) in [
        ("frontend", "product-catalog", ["/api/v1/products", "/api/v1/products/7", "/api/v1/productsx", "/"]),
        ("payment-service", "orders", ["/api/v1/orders", "/api/v1/orders/7", "/api/v1/orders/../admin", "/"]),
    ] {
        let policies = policies(POLICIES, &format!("production/{service} app={service}"), &[]);
        for path in paths {
            let allowed = |method: &&str| {
                allows(
                    &policies,
                    &format!("cluster.local/ns/production/sa/{caller} to=8080 {method} {service}{path}"),
                )
            };
            let methods: Vec<&str> = ["GET", "HEAD", "POST", "PUT", "DELETE"]
                .into_iter()
                .filter(|method| allowed(method))
                .collect();
            table += &format!("{service}{path}: {}\n", methods.join(" "));
        }
    }
    assert_eq!(
        table,
        "product-catalog/api/v1/products: GET\n\
         product-catalog/api/v1/products/7: GET\n\
         product-catalog/api/v1/productsx: \n\
         product-catalog/: \n\
         orders/api/v1/orders: \n\
         orders/api/v1/orders/7: GET POST PUT\n\
         orders/api/v1/orders/../admin: \n\
         orders/: \n"
    );
}

/// Without HTTP nothing is allowed at all: both ALLOW rules ask for methods and paths.
#[test]
fn on_a_tcp_port_nobody_may_talk() {
    for caller in callers() {
        for service in SERVICES {
            let policies = policies(POLICIES, &format!("production/{service} app={service}"), &[]);
            assert!(!allows(&policies, &format!("{caller} to=8080")), "{caller} {service}");
        }
    }
}

#[test]
fn other_namespaces_are_not_touched() {
    let policies = policies(POLICIES, "staging/orders app=orders", &[]);
    assert!(callers().iter().all(|caller| allows(&policies, caller)));
}
