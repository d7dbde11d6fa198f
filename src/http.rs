//! The HTTP endpoint: health, metrics and a small JSON API, answered from the shared view; `/api/v1/explain` is asked of the task and
//! waits for it two seconds at most. `/api` wants the bearer token when one is configured; errors are `application/problem+json`. Nothing
//! here holds the pipeline up, and a drain never waits long for it.

mod api;

use crate::config::Secret;
use crate::detector::Settings;
use crate::finding::severity::Privileged;
use crate::host_clock;
use crate::metrics::Metrics;
use crate::questions::Questions;
use crate::view::{Health, View};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// How long open requests may go on after the shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(2);

/// Why the endpoint is not there.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Another process has the port.
    #[error("http.listen: {address} is in use by another process; stop it or choose another port")]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address can't be listened on.
    #[error("http.listen: can't listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Serving broke off.
    #[error("the HTTP endpoint stopped: {0}")]
    Serve(std::io::Error),
}

/// What the endpoint answers from.
#[derive(Clone, Debug)]
pub struct Reads {
    /// Open findings and clocks.
    pub view: Arc<View>,
    /// Live and ready.
    pub health: Arc<Health>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// What only the task can answer.
    pub questions: Questions,
    /// For the findings' form.
    pub settings: Settings,
    /// For the findings' form.
    pub privileged: Privileged,
    /// Bearer token of `/api`.
    pub api_token: Option<Secret>,
}

/// Takes the port.
///
/// # Errors
/// The port is in use or can't be listened on; the message names `http.listen`.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => HttpError::InUse { address },
        _ => HttpError::Listen { address, source },
    })
}

/// Answers until `shutdown` resolves, then at most two seconds longer.
///
/// # Errors
/// The listener broke.
pub async fn serve(listener: TcpListener, reads: Reads, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), HttpError> {
    let (ended, asked) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async move {
        shutdown.await;
        // The receiver is gone only when serving has ended already.
        let _ = ended.send(());
    };
    let serving = axum::serve(listener, router(reads)).with_graceful_shutdown(shutdown).into_future();
    tokio::select! {
        done = serving => done.map_err(HttpError::Serve),
        () = async { let _ = asked.await; tokio::time::sleep(DRAIN).await; } => Ok(()),
    }
}

fn router(reads: Reads) -> Router {
    let reads = Arc::new(reads);
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .nest("/api/v1", api::router(&reads))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async { problem(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here") })
        .with_state(reads)
}

async fn livez(State(reads): State<Arc<Reads>>) -> Response {
    healthy(reads.health.not_live())
}

async fn readyz(State(reads): State<Arc<Reads>>) -> Response {
    healthy(reads.health.not_ready())
}

fn healthy(reason: Option<String>) -> Response {
    match reason {
        None => (StatusCode::OK, "ok\n").into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics(State(reads): State<Arc<Reads>>) -> Response {
    let text = reads.metrics.text(host_clock::monotonic());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// An error as RFC 9457 wants it.
fn problem(status: StatusCode, detail: &str) -> Response {
    let body = serde_json::json!({ "type": "about:blank", "title": status.canonical_reason().unwrap_or("error"), "status": status.as_u16(), "detail": detail });
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

#[cfg(test)]
mod tests;
