# Both images: `docker build --target sidecar -t steno-sidecar .` and `docker build --target operator -t steno-operator .`
# Each holds the program and the libraries it needs, nothing else: no shell, no package manager, non-root, root may be read-only.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ make perl valgrind ca-certificates && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The sidecar is built for what it was seen to do (release/build); for its work it needs the loopback interface and a place in /tmp.
RUN rustup component add llvm-tools && release/build && cargo build --release --locked -p steno-operator && cp target/tuned/steno-sidecar target/release/
# The program, the C library and its loader, and the system's CA certificates, at their own places.
RUN for name in steno-sidecar steno-operator; do \
      mkdir -p /image/$name/usr/local/bin /image/$name/etc/ssl/certs /image/$name/var/lib/steno \
      && strip -o /image/$name/usr/local/bin/$name target/release/$name \
      && cp /etc/ssl/certs/ca-certificates.crt /image/$name/etc/ssl/certs/ \
      && ldd target/release/$name | grep -o '/[^ ]*' | xargs -I{} cp --parents -L {} /image/$name || exit 1; \
    done

FROM scratch AS operator
COPY --from=build /image/steno-operator /
USER 65532:65532
EXPOSE 10250 8081
ENTRYPOINT ["/usr/local/bin/steno-operator"]
CMD ["run"]

FROM scratch AS sidecar
COPY --from=build /image/steno-sidecar /
COPY --from=build --chown=65532:65532 /image/steno-sidecar/var/lib/steno /var/lib/steno
USER 65532:65532
EXPOSE 9600 9601
ENTRYPOINT ["/usr/local/bin/steno-sidecar"]
CMD ["run"]
