# The images: `--target operator`, `--target agent` and, for the backend ipsec, `--target ipsec`.
#
# From the sources, with docker, podman or buildah:
#   docker build --target operator --build-arg BUILDER=rust:1.95-bookworm --tag registry.example.com/tartan/tartan-operator:0.1.0 .
#   docker build --target agent --build-arg BUILDER=rust:1.95-bookworm --tag registry.example.com/tartan/tartan-node-agent:0.1.0 .
#   docker build --target ipsec --tag registry.example.com/tartan/tartan-ipsec:0.1.0 .
# From programs that are built already, in a context that holds nothing but them and the licences: `cargo xtask image`.

ARG BASE=debian:bookworm-slim
ARG BUILDER=debian:bookworm-slim

# Takes the programs out of the context, or compiles them where BUILDER has cargo.
FROM ${BUILDER} AS programs
WORKDIR /context
COPY . .
RUN set -eu; mkdir /programs; \
    if command -v cargo > /dev/null; then \
        cargo build --release --locked --package tartan-operator --package tartan-node-agent \
            --package tartan-forwarder --package tartan-wireguard --target-dir /target; \
        cargo run --release --locked --package xtask --target-dir /target -- licences THIRD-PARTY-LICENSES; \
        cp LICENSE THIRD-PARTY-LICENSES /programs; \
        cd /target/release; cp tartan-operator tartan-node-agent tartan-forwarder tartan-wireguard /programs; \
    elif [ -x tartan-operator ] && [ -x tartan-node-agent ] && [ -x tartan-forwarder ] && [ -x tartan-wireguard ]; then \
        cp tartan-operator tartan-node-agent tartan-forwarder tartan-wireguard \
            LICENSE THIRD-PARTY-LICENSES /programs; \
    else \
        echo "there is neither cargo nor a program: add --build-arg BUILDER=rust:1.95-bookworm" >&2; exit 1; \
    fi

# Root is only needed to choose another user: the operator touches nothing of its node.
FROM ${BASE} AS operator
COPY --from=programs /programs/LICENSE /programs/THIRD-PARTY-LICENSES /usr/share/doc/tartan/
COPY --from=programs /programs/tartan-operator /usr/bin/tartan-operator
USER 65532:65532
ENTRYPOINT ["/usr/bin/tartan-operator"]
CMD ["run"]

# The standard CNI plugins that the agent's configuration names; the chart can install them on nodes.
FROM ${BASE} AS cni-plugins
RUN apt-get update \
    && apt-get install --yes --no-install-recommends containernetworking-plugins \
    && mkdir /cni && cd /usr/lib/cni && cp bridge host-local loopback portmap /cni

# strongSwan's daemon, without the programs that would start it by its own configuration. A daemon that is asked to end
# takes what it negotiated out of the kernel; one that is killed leaves it, and packets flow until the next one is there.
FROM ${BASE} AS ipsec
RUN apt-get update \
    && apt-get install --yes --no-install-recommends charon-systemd libstrongswan-standard-plugins \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
STOPSIGNAL SIGKILL
ENTRYPOINT ["/usr/sbin/charon-systemd"]

# `nft` is how the agent writes nftables; `ip` is for the administrator's programs of the backend extension. The forwarder
# and the user-space WireGuard are in the same image, so that nodes pull one.
FROM ${BASE} AS agent
RUN apt-get update \
    && apt-get install --yes --no-install-recommends iproute2 nftables \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
COPY --from=cni-plugins /cni /usr/lib/cni
COPY --from=programs /programs/LICENSE /programs/THIRD-PARTY-LICENSES /usr/share/doc/tartan/
COPY --from=programs /programs/tartan-node-agent /programs/tartan-forwarder /programs/tartan-wireguard /usr/bin/
ENTRYPOINT ["/usr/bin/tartan-node-agent"]
CMD ["run"]
