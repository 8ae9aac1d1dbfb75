//! The program `pillion-iptables`; everything is in the library.

fn main() -> std::process::ExitCode {
    pillion_iptables::main_with(std::env::args_os())
}
