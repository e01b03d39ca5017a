//! Accepting connections: a limit over all addresses, time limits for reading, and an orderly end.

use crate::front::Front;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// Binds every address; each may be a name that means several.
///
/// # Errors
/// Which address failed, and why.
pub async fn bind(addresses: &[String]) -> Result<Vec<TcpListener>, String> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(crate::cli::full_address(address)).await.map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    ": another program listens there; choose a port with --web.listen-address=HOST:PORT"
                }
                std::io::ErrorKind::PermissionDenied => ": ports below 1024 are for the superuser",
                _ => "",
            };
            format!("cannot listen on {address}: {error}{hint}")
        })?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Who sent a request, in its extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once, over all addresses.
    pub max_connections: usize,
    /// Time to read the head of a request, idle time of a connection included.
    pub read_timeout: Duration,
    /// How long a stop waits for requests in flight.
    pub shutdown_timeout: Duration,
}

/// Serves until `stop` says true, then finishes what is in flight for a bounded time.
pub async fn serve(listeners: Vec<TcpListener>, front: Front, limits: Limits, stop: watch::Receiver<bool>) {
    // Each address holds a permit while it waits; without one for each, the last ones would starve.
    let n_permits = limits.max_connections + listeners.len().saturating_sub(1);
    let gate = Arc::new(Semaphore::new(n_permits));
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            tokio::spawn(accept(listener, front.clone(), limits, Arc::clone(&gate), stop.clone()))
        })
        .collect();
    for task in accepting {
        // A task that panicked has been logged; the others go on.
        let _ = task.await;
    }
    // All permits together mean that no connection is left.
    let all = u32::try_from(n_permits).unwrap_or(u32::MAX);
    if tokio::time::timeout(limits.shutdown_timeout, gate.acquire_many(all)).await.is_err() {
        tracing::warn!("requests were still in flight when the time for stopping was up");
    }
}

async fn accept(
    listener: TcpListener,
    front: Front,
    limits: Limits,
    gate: Arc<Semaphore>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = async {
            // The permit comes first: over the limit, connections wait in the kernel's queue.
            let permit = Arc::clone(&gate).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            both = accepted => both,
        };
        let Ok(permit) = permit else { return };
        match accepted {
            Ok((stream, peer)) => {
                let connection = serve_connection(stream, peer, front.clone(), limits, stop.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: others have to end before this can work.
                tracing::error!(err = %error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    front: Front,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    // Small answers are not held back; where this fails, nothing is lost but time.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        let front = &front;
        async move { Ok::<_, Infallible>(front.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.read_timeout)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let stopped = async move {
        // What `wait_for` borrows must not live on across the next await.
        drop(stop.wait_for(|stop| *stop).await);
    };
    let ended = tokio::select! {
        result = connection.as_mut() => Some(result),
        () = stopped => None,
    };
    let result = match ended {
        Some(result) => result,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, err = %error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::starting_state;
    use axum::routing::get;
    use axum::{Extension, Router};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn every_address_is_served_until_the_stop() {
        let listeners = bind(&["127.0.0.1:0".to_owned(), "localhost:0".to_owned()]).await.unwrap();
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let peer =
            |Extension(Peer(peer)): Extension<Peer>| async move { peer.ip().is_loopback().to_string() };
        let (state, _folder) = starting_state(&[]);
        let front = Front::with_router(state, Router::new().route("/", get(peer)));
        let limits = Limits {
            max_connections: 1,
            read_timeout: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(10),
        };
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(serve(listeners, front, limits, stopped));
        for address in &addresses {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with("\r\ntrue"), "{address}: {text}");
        }
        stop.send_replace(true);
        serving.await.unwrap();
        assert!(TcpStream::connect(addresses[0]).await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_refused_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let text = bind(std::slice::from_ref(&address)).await.unwrap_err();
        assert!(text.starts_with(&format!("cannot listen on {address}: Address already in use")), "{text}");
        assert!(text.ends_with("choose a port with --web.listen-address=HOST:PORT"), "{text}");
    }
}
