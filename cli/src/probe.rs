//! `pillion probe URL`: asks a health endpoint once, for container images that hold no curl.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::http;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Exit code 0 when the answer is 2xx within two seconds, its body on stdout; otherwise 1 with the cause on stderr.
pub(crate) fn run(url: &str) -> ExitCode {
    match http::get(url, TIMEOUT) {
        Ok(answer) if answer.is_success() => {
            // A reader that has seen enough may have closed the pipe.
            let _ = io::stdout().write_all(answer.body.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            eprintln!(
                "pillion probe: {url}: expected a 2xx answer, got {}: {}",
                answer.status,
                answer.body.trim()
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("pillion probe: {url}: {error}");
            ExitCode::FAILURE
        }
    }
}
