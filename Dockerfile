# Two images: `mercato` (the default target), every role, and `provider`, the development payment provider. Built by dev/image; nothing of
# the build is left in them but what is copied below: the program, and the two libraries it wants beside those of the base, glibc and OpenSSL.
ARG RUST_VERSION=1.95

# Only what the dependencies follow from. The next stage's layers are used again for as long as this stage's content stays the same.
FROM rust:${RUST_VERSION}-bookworm AS manifests
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
COPY . .
RUN dev/delivery/manifests /src

FROM rust:${RUST_VERSION}-bookworm AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
ENV SQLX_OFFLINE=true CARGO_TERM_COLOR=never
COPY --from=manifests /src .
RUN cargo build --locked --profile dist -p mercato -p mercato-provider --bin mercato --bin mercato-provider
COPY . .
# what mercato_build_info tells; below the layer of dependencies, which stays when it changes
ARG REVISION=unknown
# cargo goes by the files' times, and the empty files it has just compiled are younger than ours
RUN find . -name '*.rs' -not -path './target/*' -exec touch {} + \
    && MERCATO_REVISION="${REVISION}" cargo build --locked --profile dist -p mercato -p mercato-provider --bin mercato --bin mercato-provider
# glibc and OpenSSL come with the base image; what else the programs want is copied from here, with what dpkg knows of it, where scanners look
RUN mkdir -p /out/lib /out/data /out/packages && cp target/dist/mercato target/dist/mercato-provider /out/ \
    && ldd /out/mercato /out/mercato-provider | awk '/lib(gcc_s|z)\.so/ { print $3 }' | sort -u | xargs -I% cp -L % /out/lib/ \
    && for package in libgcc-s1 zlib1g; do dpkg-query -s "${package}" >"/out/packages/${package}"; done

# what both images are
FROM gcr.io/distroless/base-debian12:nonroot AS runtime
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG SOURCE=""
ARG CREATED=""
LABEL org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=build /out/lib/ /usr/lib/
COPY --from=build /out/packages/ /var/lib/dpkg/status.d/
USER 65532:65532

FROM runtime AS provider
LABEL org.opencontainers.image.title="mercato-provider" \
      org.opencontainers.image.description="A payment provider for development: it moves no money"
COPY --from=build /out/mercato-provider /usr/local/bin/mercato-provider
# a new volume gets this folder's owner
COPY --from=build --chown=65532:65532 /out/data /data
EXPOSE 8090
ENTRYPOINT ["/usr/local/bin/mercato-provider", "--inside-container", "--addr", "0.0.0.0:8090", "--data", "/data"]

FROM runtime AS mercato
LABEL org.opencontainers.image.title="mercato" \
      org.opencontainers.image.description="Mercato, a commerce backend: every role, its migrations and the edge's configuration"
COPY --from=build /out/mercato /usr/local/bin/mercato
# a new volume for the edge's configuration gets this folder's owner
COPY --from=build --chown=65532:65532 /out/data /edge
ENV MERCATO_GRPC_ADDR=0.0.0.0:50051 MERCATO_ADMIN_ADDR=0.0.0.0:9464 MERCATO_GATEWAY_HTTP_ADDR=0.0.0.0:8081
EXPOSE 50051 9464 8081
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["/usr/local/bin/mercato", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/mercato"]
CMD ["run", "--role", "all"]
