//! The real binary against brokers that demand TLS, log-ins and permissions, and what it keeps to itself.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod support;

#[path = "security/certificates.rs"]
mod certificates;
#[path = "security/connections.rs"]
mod connections;
#[path = "security/fortress.rs"]
mod fortress;
#[path = "security/permissions.rs"]
mod permissions;
#[path = "security/secrets.rs"]
mod secrets;
