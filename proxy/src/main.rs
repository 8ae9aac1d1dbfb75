//! `pillion-proxy`, the sidecar.

use std::process::ExitCode;

fn main() -> ExitCode {
    pillion_proxy::main_with(std::env::args_os())
}
