# The same recipes as CI: each calls a step of .ci/run. `just` alone lists them.

_list:
    @just --list --unsorted

# Everything that CI does, in its order
ci:
    .ci/run

# Installs what the tests need (apt and pip, as root)
tools:
    .ci/run tools

# Writes all code in the one layout
fmt:
    cargo fmt --all

# Layout, lints and documentation
lint:
    .ci/run fmt clippy doc

# All tests; what needs root, Envoy or iptables is skipped where they are missing
test *filter:
    cargo test --workspace {{ filter }}

# All tests as CI runs them: a skip is a failure
test-all:
    .ci/run tools test

# What 10,000 policies and endpoints cost to load and to decide by; a table at the end
bench *filter:
    cargo bench --package pillion-benches -- {{ filter }}

# The mesh of network namespaces, told step by step in the terminal
demo *options:
    cargo run --release --bin pillion -- demo {{ options }}

# The compose demo: frontend on http://localhost:8080, legacy on http://localhost:8081
up:
    docker compose --profile legacy up --build

# Removes the compose demo
down:
    docker compose --profile legacy down --volumes

# Runs the compose demo and asserts what it shows
compose:
    .ci/run compose

# Is every command in README.md one that CI runs?
readme:
    .ci/run readme

# Licences, banned crates, advisories (needs `cargo install --locked cargo-deny`)
deny:
    cargo deny check
