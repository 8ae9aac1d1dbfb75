//! `pillion-proxy`, the sidecar.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pillion_proxy::main_with(std::env::args_os())
}
