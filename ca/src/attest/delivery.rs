//! Tokens in files that are replaced before they end, for as long as the CA serves.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::token::TokenStore;
use crate::clock::Clock;
use crate::settings::Registration;

/// Bounds of the time between two looks, in the world.
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(60);

/// Replaces each registration's token at half of its `life`, until `stop`. What cannot be written is said once and tried
/// again; the last token counts meanwhile.
pub(crate) async fn run(
    tokens: TokenStore,
    registrations: Vec<Registration>,
    life: Duration,
    clock: Clock,
    stop: CancellationToken,
) {
    let shared = Arc::new((tokens, registrations));
    let mut looks = tokio::time::interval((clock.world(life) / 10).clamp(OFTEN, SELDOM));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complaint = None;
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        let shared = Arc::clone(&shared);
        let deliver =
            move || shared.0.deliver(&shared.1, Some(life), clock.now()).map_err(|error| error.to_string());
        let outcome = tokio::task::spawn_blocking(deliver).await;
        let fault = outcome.map_err(|error| error.to_string()).and_then(|delivered| delivered).err();
        if fault != complaint {
            match &fault {
                Some(error) => tracing::error!(
                    error = error.as_str(),
                    "a token cannot be replaced; the last one counts to its end"
                ),
                None => tracing::info!("tokens are replaced again"),
            }
            complaint = fault;
        }
    }
}
