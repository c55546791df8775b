# The sidecar, static but for libc, non-root. Debian's glibc is that of distroless.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ make perl && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p steno-app

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/steno-sidecar /usr/local/bin/steno-sidecar
USER 65532:65532
EXPOSE 9600 9601
ENTRYPOINT ["/usr/local/bin/steno-sidecar"]
CMD ["run"]
