//! `firstseen run`: the service and its HTTP endpoint, until a signal or a failure.

use super::config;
use crate::cli;
use crate::config::Config;
use crate::finding::severity::Privileged;
use crate::http::{self, Reads};
use crate::service::{Service, ServiceError, Shared};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long after a signal the process may live, whatever a broker or a disk that hangs keeps it from finishing.
const EXIT_WITHIN: Duration = Duration::from_secs(9);

pub(super) fn run(args: &cli::Run) -> anyhow::Result<ExitCode> {
    let config = config(Some(&args.config))?;
    let runtime = runtime()?;
    let endpoint = runtime.block_on(Endpoint::open(&config))?;
    tracing::info!(http = %endpoint.address, "starting: /readyz says what is waited for");
    let stop = endpoint.shared.clone();
    runtime.spawn(async move {
        match signal().await {
            Ok(name) => tracing::info!("{name}: draining"),
            Err(error) => tracing::error!(%error, "signals can't be waited for"),
        }
        stop.request_stop();
        tokio::time::sleep(EXIT_WITHIN).await;
        // As safe as a kill: what is published is journaled.
        tracing::warn!("the drain did not finish in time; the next start goes on from the journal and publishes what is missing, once");
        std::process::exit(0);
    });
    let service = match Service::start_by(&config, endpoint.shared.clone(), args.accept_partial_baseline) {
        Err(ServiceError::Stopped) => {
            tracing::info!("stopped while the start waited for the brokers: nothing was begun");
            endpoint.close(&runtime);
            return Ok(ExitCode::SUCCESS);
        }
        outcome => outcome?,
    };
    tracing::info!(topics = ?config.input.topics, state = %config.state.dir.display(), http = %endpoint.address, "running");
    let ended = loop {
        if let Some(ended) = service.ended(Duration::from_secs(3600)) {
            break ended;
        }
    };
    endpoint.close(&runtime);
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// The runtime of the HTTP endpoint and of signals; the pipeline has threads of its own.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

async fn signal() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// The HTTP endpoint, up before the state is restored, so that probes hear why it is not ready.
pub(super) struct Endpoint {
    pub(super) shared: Shared,
    pub(super) address: SocketAddr,
    close: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<Result<(), http::HttpError>>,
}

impl Endpoint {
    pub(super) async fn open(config: &Config) -> Result<Endpoint, ServiceError> {
        let shared = Shared::default();
        let listener = http::bind(config.http.listen).await?;
        let address = listener.local_addr().unwrap_or(config.http.listen);
        let (close, closed) = oneshot::channel();
        let reads = Reads {
            view: Arc::clone(&shared.view),
            health: Arc::clone(&shared.health),
            metrics: Arc::clone(&shared.metrics),
            questions: shared.questions.clone(),
            settings: config.detector_settings(),
            // The configuration was checked with the same call.
            privileged: Privileged::new(&config.detection.privileged_servers).unwrap_or_else(|_| Privileged::none()),
            api_token: config.http.api_token.clone(),
        };
        let serving = tokio::spawn(http::serve(listener, reads, async {
            // A sender that is dropped closes as well.
            let _ = closed.await;
        }));
        Ok(Endpoint { shared, address, close, serving })
    }

    pub(super) fn close(self, runtime: &tokio::runtime::Runtime) {
        let _ = self.close.send(());
        if let Ok(Err(error)) = runtime.block_on(self.serving) {
            tracing::warn!(%error, "the HTTP endpoint did not close cleanly");
        }
    }
}
