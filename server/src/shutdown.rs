//! The end of a run: who asks for it, and the order in which things stop.

use crate::state::State;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Waits for SIGTERM, SIGINT or `/-/quit`.
pub async fn requested(state: &State) {
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => drop(signals.recv().await),
            Err(error) => {
                tracing::error!(err = %error, "cannot listen for SIGTERM");
                std::future::pending::<()>().await;
            }
        }
    };
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = terminate => tracing::warn!(signal = "SIGTERM", "Received an OS signal, exiting gracefully..."),
        () = interrupt => tracing::warn!(signal = "SIGINT", "Received an OS signal, exiting gracefully..."),
        () = state.quit.notified() => tracing::warn!("Received termination request via web service, exiting gracefully..."),
    }
}

/// Stops in order: scraping ends and no connection is taken; what is in flight finishes; the store is
/// flushed and closed. Each step takes a bounded time.
///
/// # Errors
/// What could not be made durable.
pub async fn stop(
    state: &Arc<State>,
    stop_serving: &watch::Sender<bool>,
    serving: JoinHandle<()>,
) -> Result<(), String> {
    if let Some(scraping) = state.scraping.get() {
        tracing::info!("Stopping scrape manager...");
        if tokio::time::timeout(state.settings.shutdown_timeout, scraping.shutdown()).await.is_err() {
            tracing::warn!("a scrape was still running when the time for stopping was up");
        }
    }
    // Requests in flight keep the store they began with; later ones hear that it is gone.
    stop_serving.send_replace(true);
    if let Err(error) = serving.await {
        tracing::error!(err = %error, "the server of connections panicked");
    }
    state.set_stopping();
    let Some(store) = state.take_store() else { return Ok(()) };
    tracing::info!("Closing the store...");
    match tokio::task::spawn_blocking(move || store.close()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(chronolith_storage::error::error_chain(&error)),
        Err(error) => Err(format!("closing the store panicked: {error}")),
    }
}
