# Two stages: librdkafka, OpenSSL and zstd are built and linked in the first, so the second needs nothing but a C library.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin firstseen

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin firstseen \
    && install -d -o firstseen -g firstseen -m 0750 /var/lib/firstseen
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/target/release/firstseen /usr/local/bin/firstseen
COPY LICENSE NOTICE /usr/share/doc/firstseen/
COPY docs/firstseen.toml /etc/firstseen/firstseen.toml
USER 10001:10001
WORKDIR /var/lib/firstseen
VOLUME /var/lib/firstseen
EXPOSE 9464
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/firstseen"]
CMD ["run", "--config", "/etc/firstseen/firstseen.toml"]
