//! Connections: straight, to a Unix socket or through a proxy, with TLS on top where the URL asks for it.

use super::HttpError;
use super::proxy::{Proxies, Proxy, Scheme};
use super::tls::{self, Material};
use crate::config::HttpClientConfig;
use hyper::http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::SocksV5;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;

/// No proxy says more than this about a tunnel.
const MAX_TUNNEL_HEAD_BYTES: usize = 16 << 10;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("the URL has no host")]
    NoHost,
    #[error("dial {to}")]
    Dial { to: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("dial unix {}", path.display())]
    DialUnix { path: PathBuf, source: io::Error },
    #[error("proxy {proxy} answered {status:?} to CONNECT {to}")]
    Tunnel { proxy: String, to: String, status: String },
    #[error("proxy {proxy} broke off")]
    Proxy { proxy: String, source: io::Error },
    #[error("{0:?} is no name of a server")]
    ServerName(String),
    #[error("TLS handshake with {with}")]
    Handshake { with: String, source: io::Error },
}

/// Makes connections for one client.
#[derive(Clone)]
pub(super) struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    tcp: HttpConnector,
    unix_socket: Option<PathBuf>,
    proxies: Proxies,
    /// The head of a `CONNECT` after its first lines.
    connect_headers: String,
    tls: Arc<ClientConfig>,
    proxy_tls: Arc<ClientConfig>,
    /// `tls_config.server_name`, instead of the host of the URL.
    server_name: Option<String>,
}

impl Connector {
    pub fn new(
        config: &HttpClientConfig,
        material: &Material,
        proxies: Proxies,
        unix_socket: Option<&Path>,
    ) -> Result<Self, HttpError> {
        let mut tcp = HttpConnector::new();
        // URLs of https come here, too: TLS is put on top later.
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let mut connect_headers = String::new();
        for (name, values) in &config.proxy_connect_header {
            for value in values {
                let is_text = |text: &str| !text.bytes().any(|byte| byte.is_ascii_control());
                if name.is_empty() || !is_text(name) || name.contains([' ', ':']) || !is_text(value.expose())
                {
                    return Err(HttpError::Header(format!("proxy_connect_header {name:?}")));
                }
                connect_headers.push_str(&format!("{name}: {}\r\n", value.expose()));
            }
        }
        Ok(Self {
            shared: Arc::new(Shared {
                tcp,
                unix_socket: unix_socket.map(Path::to_owned),
                proxies,
                connect_headers,
                tls: tls::client_config(&config.tls, material, config.enable_http2)?,
                proxy_tls: tls::client_config(&config.tls, material, false)?,
                server_name: Some(config.tls.server_name.clone()).filter(|name| !name.is_empty()),
            }),
        })
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.connect(&target).await })
    }
}

impl Shared {
    async fn connect(&self, target: &Uri) -> Result<Stream, ConnectError> {
        let host = target.host().ok_or(ConnectError::NoHost)?;
        let is_https = target.scheme_str() == Some("https");
        let address = format!("{host}:{}", target.port_u16().unwrap_or(if is_https { 443 } else { 80 }));
        let mut is_proxied = false;
        let plain: Box<dyn Io> = if let Some(path) = &self.unix_socket {
            let connected = UnixStream::connect(path).await;
            Box::new(connected.map_err(|source| ConnectError::DialUnix { path: path.clone(), source })?)
        } else if let Some(proxy) = self.proxies.of(target) {
            match proxy.scheme {
                Scheme::Socks5 => self.through_socks(proxy, &address).await?,
                Scheme::Http | Scheme::Https => {
                    let mut stream = self.dial(&proxy.uri, proxy.address()).await?;
                    if proxy.scheme == Scheme::Https {
                        let name = proxy.uri.host().unwrap_or_default();
                        stream = self.secure(stream, &self.proxy_tls, name).await?.0;
                    }
                    if is_https {
                        self.tunnel(&mut stream, proxy, &address).await?;
                    } else {
                        is_proxied = true;
                    }
                    stream
                }
            }
        } else {
            self.dial(target, &address).await?
        };
        if !is_https {
            return Ok(Stream { io: TokioIo::new(plain), is_http2: false, is_proxied });
        }
        let (secure, is_http2) = self.secure(plain, &self.tls, host).await?;
        Ok(Stream { io: TokioIo::new(secure), is_http2, is_proxied: false })
    }

    async fn dial(&self, uri: &Uri, address: &str) -> Result<Box<dyn Io>, ConnectError> {
        let connected = self.tcp.clone().call(uri.clone()).await;
        let stream =
            connected.map_err(|error| ConnectError::Dial { to: address.to_owned(), source: error.into() })?;
        Ok(Box::new(stream.into_inner()))
    }

    async fn through_socks(&self, proxy: &Proxy, address: &str) -> Result<Box<dyn Io>, ConnectError> {
        let mut socks = SocksV5::new(proxy.uri.clone(), self.tcp.clone());
        if let Some((name, password)) = &proxy.user {
            socks = socks.with_auth(name.clone(), password.clone());
        }
        let failed = |source| ConnectError::Dial {
            to: format!("{address} through SOCKS proxy {}", proxy.address()),
            source,
        };
        // The proxy is told name and port, whatever the scheme.
        let target: Uri = format!("http://{address}").parse().map_err(|_| ConnectError::NoHost)?;
        let stream = socks.call(target).await.map_err(|error| failed(error.into()))?;
        Ok(Box::new(stream.into_inner()))
    }

    async fn tunnel(&self, stream: &mut Box<dyn Io>, proxy: &Proxy, to: &str) -> Result<(), ConnectError> {
        let broken = |source| ConnectError::Proxy { proxy: proxy.address().to_owned(), source };
        let mut head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{}", self.connect_headers);
        if let Some(authorization) = proxy.authorization()
            && let Ok(authorization) = authorization.to_str()
        {
            head.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await.map_err(broken)?;
        let mut answer = Vec::new();
        // Byte by byte, because what follows the head belongs to the target.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= MAX_TUNNEL_HEAD_BYTES {
                return Err(broken(io::Error::other("its answer to CONNECT has no end")));
            }
            answer.push(stream.read_u8().await.map_err(broken)?);
        }
        let line = String::from_utf8_lossy(&answer);
        let status =
            line.lines().next().and_then(|line| line.split_once(' ')).map_or("", |(_, status)| status);
        if status.starts_with("200") {
            return Ok(());
        }
        let proxy = proxy.address().to_owned();
        Err(ConnectError::Tunnel { proxy, to: to.to_owned(), status: status.trim().to_owned() })
    }

    /// Puts TLS on a connection; the second part says whether HTTP/2 was agreed on.
    async fn secure(
        &self,
        stream: Box<dyn Io>,
        config: &Arc<ClientConfig>,
        host: &str,
    ) -> Result<(Box<dyn Io>, bool), ConnectError> {
        let name = self.server_name.as_deref().unwrap_or(host).trim_matches(['[', ']']);
        let server_name =
            ServerName::try_from(name.to_owned()).map_err(|_| ConnectError::ServerName(name.to_owned()))?;
        let connecting = TlsConnector::from(Arc::clone(config)).connect(server_name, stream);
        let stream =
            connecting.await.map_err(|source| ConnectError::Handshake { with: name.to_owned(), source })?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((Box::new(stream), is_http2))
    }
}

/// Any connection.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection that knows what hyper asks about it.
pub(super) struct Stream {
    io: TokioIo<Box<dyn Io>>,
    is_http2: bool,
    /// The other end is a proxy that wants to see whole URLs.
    is_proxied: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let connected = Connected::new().proxy(self.is_proxied);
        if self.is_http2 { connected.negotiated_h2() } else { connected }
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
