# The sidecar and the libraries it needs, nothing else: no shell, no package manager, non-root, root may be read-only.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ make perl ca-certificates && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p steno-app
# The binary, the C library and its loader, and the system's CA certificates, at their own places.
RUN mkdir -p /image/usr/local/bin /image/etc/ssl/certs /image/var/lib/steno \
 && cp target/release/steno-sidecar /image/usr/local/bin/ \
 && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
 && ldd target/release/steno-sidecar | grep -o '/[^ ]*' | xargs -I{} cp --parents -L {} /image

FROM scratch
COPY --from=build /image /
COPY --from=build --chown=65532:65532 /image/var/lib/steno /var/lib/steno
USER 65532:65532
EXPOSE 9600 9601
ENTRYPOINT ["/usr/local/bin/steno-sidecar"]
CMD ["run"]
