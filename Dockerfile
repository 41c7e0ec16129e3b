# syntax=docker/dockerfile:1

# What dependencies follow from: manifests, and a stub for every target that they name. Its content stays the same
# while only sources change, so the layer that builds dependencies does too.
FROM rust:1.95-slim-bookworm AS manifests
WORKDIR /source
COPY . .
RUN find crates xtask tests -name '*.rs' \
      ! -path '*/src/lib.rs' ! -path '*/src/main.rs' ! -path '*/benches/*' ! -path '*/tests/*' -delete \
 && find crates xtask tests -name '*.rs' -exec sh -c 'for file; do echo "fn main() { }" > "$file"; done' _ {} + \
 && find . -type f ! -name '*.rs' ! -name Cargo.toml ! -name Cargo.lock -delete \
 && find . -type d -empty -delete

FROM rust:1.95-slim-bookworm AS build
# The Kafka client is built from source.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ make perl \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY --from=manifests /source .
RUN cargo build --release --locked --package kintsugi
COPY crates crates
COPY models models
# Cargo goes by times, and the stubs are younger than the sources.
RUN find crates -name '*.rs' -exec touch {} + \
 && cargo build --release --locked --package kintsugi \
 && strip --strip-debug target/release/kintsugi

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates curl \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --user-group --uid 10001 --home-dir /data --shell /usr/sbin/nologin kintsugi \
 && install --directory --owner=kintsugi --group=kintsugi /data
COPY --from=build /source/target/release/kintsugi /usr/local/bin/kintsugi
COPY examples/support-desk /example
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 7878
# Handled by the node itself: it ends what it is at.
STOPSIGNAL SIGTERM
ENTRYPOINT ["kintsugi"]
CMD ["up", "/example", "--data-dir", "/data"]
