//! The other leg of a connection: what another sidecar tells of the same one.

use std::collections::HashMap;

use pillion_mesh::legs;
use pillion_mesh::wire::ConnectionRecord;
use serde::Deserialize;
use serde_json::{Value, json};

use super::proxy::Proxy;

#[derive(Deserialize)]
struct Page {
    connections: Vec<ConnectionRecord>,
}

/// Which connection of another of `proxies` is the connection `id` of `number`; else why none is known.
pub(super) async fn find(proxies: &[&Proxy], number: usize, id: u64) -> Value {
    let mut known: HashMap<usize, Vec<ConnectionRecord>> = HashMap::new();
    for (of, proxy) in proxies.iter().enumerate() {
        // One that does not answer is told of elsewhere; here its connections are not known.
        known.insert(of, connections(proxy).await.unwrap_or_default());
    }
    let ours = known.remove(&number).unwrap_or_default();
    let Some(record) = ours.iter().find(|record| record.id == id) else {
        return json!({ "other": null, "because": format!("connection {id} is not known any more") });
    };
    let Some(other) = legs::other(record, known.values().flatten()) else {
        return json!({
            "other": null,
            "because": "no other sidecar that is shown here tells of it: its peer has none, or that one is not among --proxy, \
                        or it has forgotten it, or an address is rewritten between the two",
        });
    };
    let of = known.iter().find(|(_, records)| records.iter().any(|known| std::ptr::eq(known, other)));
    json!({ "other": of.map(|(proxy, _)| json!({ "proxy": proxy, "id": other.id })), "because": null })
}

async fn connections(proxy: &Proxy) -> Option<Vec<ConnectionRecord>> {
    let (_, body) = proxy.get("/connections?state=all").await.ok()?;
    serde_json::from_slice::<Page>(&body).ok().map(|page| page.connections)
}
