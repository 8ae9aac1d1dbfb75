//! `greeter`: a server that speaks first. Its client sends nothing before the banner has come, so a sidecar that
//! waits for the client's first bytes has to give up waiting.

use clap::Parser;
use tokio::io::AsyncWriteExt;

use crate::{echo, server};

/// A TCP app that sends a banner line at once and then sends back what it gets.
#[derive(Debug, Parser)]
#[command(name = "greeter", version)]
pub(crate) struct Options {
    #[command(flatten)]
    listen: crate::Listen,
    /// The banner, without its line end.
    #[arg(long, default_value = "220 greeter ready")]
    banner: String,
}

/// Serves until a signal.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let banner = format!("{}\r\n", options.banner);
    server::serve(options.listen.listen, move |mut stream, _, _| {
        let banner = banner.clone();
        async move {
            // How a client's connection ends is the client's business.
            if stream.write_all(banner.as_bytes()).await.is_ok() {
                let _ = echo::echo(&mut stream).await;
            }
        }
    })
    .await
}
