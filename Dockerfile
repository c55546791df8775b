# Both images: `docker build --target sidecar -t steno-sidecar .` and `docker build --target operator -t steno-operator .`
# Each holds the program and the libraries it needs, nothing else: no shell, no package manager, non-root, root may be read-only.
# The sidecar is built for what it was seen to do (release/build: 20 minutes on two cores); `--build-arg TUNED=0` leaves that out.
FROM rust:1.95.0-bookworm AS base
RUN apt-get update && apt-get install -y --no-install-recommends g++ make perl valgrind ca-certificates && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# Puts a program, the C library and its loader, and the system's CA certificates at their own places below /image.
RUN printf '%s\n' '#!/bin/sh -e' \
      'mkdir -p /image/usr/local/bin /image/etc/ssl/certs /image/var/lib/steno' \
      'strip -o "/image/usr/local/bin/$(basename "$1")" "$1"' \
      'cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/' \
      'ldd "$1" | grep -o "/[^ ]*" | xargs -I{} cp --parents -L {} /image' >/usr/local/bin/to-image && chmod +x /usr/local/bin/to-image

FROM base AS build-operator
RUN cargo build --release --locked -p steno-operator && to-image target/release/steno-operator && rm -rf target

FROM base AS build-sidecar
ARG TUNED=1
RUN if [ "$TUNED" = 1 ]; then rustup component add llvm-tools && release/build && to-image target/tuned/steno-sidecar; \
    else cargo build --release --locked -p steno-app && to-image target/release/steno-sidecar; fi && rm -rf target

FROM scratch AS operator
COPY --from=build-operator /image /
USER 65532:65532
EXPOSE 10250 8081
ENTRYPOINT ["/usr/local/bin/steno-operator"]
CMD ["run"]

FROM scratch AS sidecar
COPY --from=build-sidecar /image /
COPY --from=build-sidecar --chown=65532:65532 /image/var/lib/steno /var/lib/steno
USER 65532:65532
EXPOSE 9600 9601
ENTRYPOINT ["/usr/local/bin/steno-sidecar"]
CMD ["run"]
