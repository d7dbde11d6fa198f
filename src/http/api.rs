//! `/api/v1`: status, the open findings, explanations. All but the last are read from the shared view; a query parameter that is not known is refused.

use super::{Reads, problem};
use crate::finding::json;
use crate::questions::{Answer, Subject};
use crate::view::Selection;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;

/// How long an explanation is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Findings a page when `limit` is not given, and at most.
const LIMIT: (usize, usize) = (100, 1000);

pub(super) fn router(reads: &Arc<Reads>) -> Router<Arc<Reads>> {
    Router::new()
        .route("/status", get(status))
        .route("/findings", get(findings))
        .route("/explain", get(explain))
        .route_layer(middleware::from_fn_with_state(Arc::clone(reads), authorize))
}

/// Lets a request pass that bears the token. Digests are compared, so that the time taken says nothing about the token.
async fn authorize(State(reads): State<Arc<Reads>>, request: Request, next: Next) -> Response {
    if let Some(token) = &reads.api_token {
        let given = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.strip_prefix("Bearer "))
            .unwrap_or("");
        if Sha256::digest(given.as_bytes()) != Sha256::digest(token.expose().as_bytes()) {
            let mut refused =
                problem(StatusCode::UNAUTHORIZED, "send the header Authorization: Bearer TOKEN with the token of http.api_token");
            refused.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            return refused;
        }
    }
    next.run(request).await
}

async fn status(State(reads): State<Arc<Reads>>) -> Response {
    let not_ready = reads.health.not_ready();
    let mut body = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": not_ready.is_none(),
        "open_findings": reads.view.open_findings(),
        "arrival_clocks": reads.view.arrival_clocks(),
        "suppression": reads.view.rules(),
    });
    if let (Some(reason), Some(body)) = (not_ready, body.as_object_mut()) {
        body.insert("not_ready".into(), reason.into());
    }
    json_response(body.to_string())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FindingsQuery {
    state: Option<String>,
    tenant: Option<String>,
    device: Option<String>,
    ip: Option<String>,
    limit: Option<usize>,
}

async fn findings(State(reads): State<Arc<Reads>>, query: Result<Query<FindingsQuery>, QueryRejection>) -> Response {
    let query = match query {
        Ok(Query(query)) => query,
        Err(rejection) => return problem(StatusCode::BAD_REQUEST, &rejection.body_text()),
    };
    if query.state.as_deref().is_some_and(|s| s != "open") {
        return problem(StatusCode::BAD_REQUEST, "state: only open findings are listed; expected state=open");
    }
    let limit = query.limit.unwrap_or(LIMIT.0);
    if limit == 0 || limit > LIMIT.1 {
        return problem(StatusCode::BAD_REQUEST, &format!("limit: expected a number from 1 to {}", LIMIT.1));
    }
    let found = reads.view.select(&Selection { tenant: query.tenant, device: query.device, ip: query.ip });
    let page: Vec<String> = found.iter().take(limit).map(|c| json::to_json(c, &reads.settings, &reads.privileged)).collect();
    json_response(format!(r#"{{"total":{},"findings":[{}]}}"#, found.len(), page.join(",")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainQuery {
    tenant: Option<String>,
    device: String,
    ip: String,
    port: Option<u16>,
}

async fn explain(State(reads): State<Arc<Reads>>, query: Result<Query<ExplainQuery>, QueryRejection>) -> Response {
    let query = match query {
        Ok(Query(query)) => query,
        Err(rejection) => return problem(StatusCode::BAD_REQUEST, &rejection.body_text()),
    };
    let of = Subject { tenant: query.tenant, device: query.device, ip: query.ip, port: query.port };
    match reads.questions.ask(of, PATIENCE).await {
        Ok(Answer::Explained(said)) => match serde_json::to_string(&said) {
            Ok(body) => json_response(body),
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        },
        Ok(Answer::UnknownTenant) => {
            problem(StatusCode::NOT_FOUND, "tenant: nothing was heard of it; /api/v1/status lists those that are known")
        }
        Ok(Answer::SeveralTenants) => problem(StatusCode::BAD_REQUEST, "tenant: there are several; /api/v1/status lists them"),
        Err(none) => problem(StatusCode::SERVICE_UNAVAILABLE, &none.to_string()),
    }
}

fn json_response(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body).into_response()
}
