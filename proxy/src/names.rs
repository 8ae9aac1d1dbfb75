//! What the hosts file and DNS call an address, for tools that show addresses to people. Never a proof of who is there.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::dns::Dns;

/// Addresses that are asked for at once.
const MOST: usize = 64;

/// The names of the first 64 `addresses`, as far as there are any; waits no longer than one question to DNS may take.
///
/// docker-compose's own DNS calls a container `SERVICE.NETWORK` or `PROJECT_SERVICE_1.NETWORK`.
pub async fn of(addresses: impl IntoIterator<Item = IpAddr>) -> HashMap<IpAddr, String> {
    let dns = Arc::new(Dns::system());
    let mut asked = JoinSet::new();
    for address in addresses.into_iter().take(MOST) {
        let dns = Arc::clone(&dns);
        asked.spawn(async move { Some((address, dns.name_of(address).await?)) });
    }
    asked.join_all().await.into_iter().flatten().collect()
}
