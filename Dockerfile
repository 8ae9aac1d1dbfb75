# One binary, four images by target: proxy, ca, init (the only one with iptables) and services (the example apps).
# Builds with BuildKit and with the classic builder.

FROM rust:1-slim-bookworm AS build
WORKDIR /src

# The dependencies are a layer of their own, built for empty crates: a change of our code does not build them again.
COPY Cargo.toml Cargo.lock ./
COPY mesh/Cargo.toml mesh/
COPY proxy/Cargo.toml proxy/
COPY ca/Cargo.toml ca/
COPY iptables/Cargo.toml iptables/
COPY cli/Cargo.toml cli/
COPY testkit/Cargo.toml testkit/
COPY benches/Cargo.toml benches/
COPY examples/services/Cargo.toml examples/services/
RUN for crate in mesh proxy ca iptables cli testkit benches examples/services; do \
      mkdir -p "$crate/src" && : > "$crate/src/lib.rs" && echo 'fn main() {}' > "$crate/src/main.rs" || exit 1; \
    done \
    && mkdir benches/benches && for bench in policies handshakes instructions; do echo 'fn main() {}' > "benches/benches/$bench.rs"; done \
    && cargo build --profile dist --locked --package pillion

COPY . .
# Cargo compares times: a file that is older than its empty stand-in would count as built.
RUN find . -path ./target -prune -o -type f -exec touch {} + \
    && cargo build --profile dist --locked --package pillion --bin pillion


FROM debian:bookworm-slim AS runtime
# Traffic of uid 1337 is not captured, so only the proxy runs as it in a workload's network namespace. A new volume
# takes the owner of the folder that it is mounted on.
RUN groupadd --gid 1337 pillion \
    && useradd --uid 1337 --gid pillion --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin pillion \
    && install -d -o pillion -g pillion -m 0700 /var/lib/pillion-ca \
    && install -d -o pillion -g pillion -m 0755 /run/pillion
COPY --from=build /src/target/dist/pillion /usr/local/bin/
# By its own name the binary is the person's tool; by these it is what they say.
RUN for name in pillion-proxy pillion-ca pillion-iptables; do ln -s pillion "/usr/local/bin/$name"; done


FROM runtime AS proxy
# The roots of the web, for DestinationRules that name none.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
USER pillion
EXPOSE 15001 15006 15021 15090
ENTRYPOINT ["pillion-proxy"]


FROM runtime AS ca
USER pillion
EXPOSE 15012 15014
ENTRYPOINT ["pillion-ca"]


FROM runtime AS services
USER nobody
EXPOSE 8080
ENTRYPOINT ["pillion", "example"]


FROM runtime AS init
RUN apt-get update \
    && apt-get install --yes --no-install-recommends iptables iproute2 \
    && rm -rf /var/lib/apt/lists/*
ENTRYPOINT ["pillion-iptables"]
