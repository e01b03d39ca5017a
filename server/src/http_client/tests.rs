//! The client against servers, proxies and token endpoints in this process.

use super::*;
use crate::config::{Config, Environment};
use chronolith_storage::error::error_chain;
use http_body_util::BodyExt;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// An authority that signs for servers and clients.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key, both PEM.
struct Identity {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn sign(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    fn roots(&self) -> Arc<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        Arc::new(roots)
    }
}

fn acceptor(identity: &Identity, clients: Option<&Authority>, alpn: &[&[u8]]) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        Some(authority) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(authority.roots(), provider).build().unwrap(),
        ),
        None => builder.with_no_client_auth(),
    };
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Requests that a server got: head and body as they came, and the name that TLS asked for.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn last(&self) -> String {
        self.0.lock().last().cloned().unwrap_or_default()
    }

    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

type Answer = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Reads one request; `None` at the end of the connection.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8_lossy(&request).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    request.extend_from_slice(&body);
    Some(String::from_utf8_lossy(&request).into_owned())
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, note: &str, seen: &Seen, answer: &Answer) {
    while let Some(request) = read_request(&mut stream).await {
        let response = answer(&request);
        seen.0.lock().push(format!("{note}{request}"));
        if stream.write_all(response.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A server that answers with what `answer` makes of a request, over TLS if there is an acceptor.
async fn serve(
    tls: Option<TlsAcceptor>,
    answer: impl Fn(&str) -> String + Send + Sync + 'static,
) -> (u16, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (seen, answer): (Seen, Answer) = (Seen::default(), Arc::new(answer));
    let seen_by_server = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, seen, answer) = (tls.clone(), seen_by_server.clone(), Arc::clone(&answer));
            tokio::spawn(async move {
                let Some(tls) = tls else { return converse(stream, "", &seen, &answer).await };
                let Ok(stream) = tls.accept(stream).await else { return };
                let name = stream.get_ref().1.server_name().unwrap_or("no name").to_owned();
                converse(stream, &format!("[{name}] "), &seen, &answer).await;
            });
        }
    });
    (port, seen)
}

/// A proxy that tunnels and, asked in plain, answers itself.
async fn serve_proxy(status: &'static str) -> (u16, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let seen_by_proxy = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = seen_by_proxy.clone();
            tokio::spawn(async move {
                let Some(request) = read_request(&mut stream).await else { return };
                seen.0.lock().push(request.clone());
                let Some(target) = request.strip_prefix("CONNECT ") else {
                    let _ = stream.write_all(ok("from the proxy").as_bytes()).await;
                    return;
                };
                let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await;
                let target = target.split(' ').next().unwrap_or_default();
                if let (true, Ok(mut other)) = (status.starts_with("200"), TcpStream::connect(target).await) {
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut other).await;
                }
            });
        }
    });
    (port, seen)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A client as the configuration of a job makes it.
fn client(yaml: &str) -> HttpClient {
    let lines: String = yaml.lines().map(|line| format!("  {line}\n")).collect();
    let text = format!("scrape_configs:\n- job_name: test\n{lines}");
    let config = Config::from_text(&text, Path::new("test.yml"), &Environment(&|_| None));
    let config = config.unwrap_or_else(|error| panic!("{error}"));
    HttpClient::new(&config.scrape_configs[0].http, None).unwrap_or_else(|error| panic!("{error}"))
}

/// The body, or the error as a target shows it.
async fn get(client: &HttpClient, url: &str) -> Result<String, String> {
    let response = client.get(url, HeaderMap::new()).await.map_err(|error| error_chain(&error))?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    if status == 200 { Ok(body) } else { Err(format!("{status}: {body}")) }
}

fn write(folder: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn a_server_is_trusted_by_its_authority_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let tls = acceptor(&authority.sign("127.0.0.1"), None, &[]);
    let (port, seen) = serve(Some(tls), |_| ok("a 1\n")).await;
    let url = format!("https://127.0.0.1:{port}/metrics");
    let ca = write(&folder, "ca.pem", &authority.pem);
    let other = write(&folder, "other.pem", &stranger.pem);
    let trusting = client(&format!("tls_config: {{ca_file: {ca}}}"));
    assert_eq!(get(&trusting, &url).await.as_deref(), Ok("a 1\n"));
    assert!(seen.last().starts_with("[no name] GET /metrics HTTP/1.1\r\n"), "{}", seen.last());
    let error = get(&client(&format!("tls_config: {{ca_file: {other}}}")), &url).await.unwrap_err();
    assert!(error.starts_with("TLS handshake with 127.0.0.1: invalid peer certificate"), "{error}");
    let careless = client(&format!("tls_config: {{ca_file: {other}, insecure_skip_verify: true}}"));
    assert_eq!(get(&careless, &url).await.as_deref(), Ok("a 1\n"));

    // A certificate that is replaced counts from the next request on.
    write(&folder, "ca.pem", &stranger.pem);
    assert!(get(&trusting, &url).await.is_err());
    write(&folder, "ca.pem", &authority.pem);
    assert!(get(&trusting, &url).await.is_ok());
}

#[tokio::test]
async fn the_server_name_is_asked_for_and_checked() {
    let authority = Authority::new();
    let tls = acceptor(&authority.sign("metrics.internal"), None, &[]);
    let (port, seen) = serve(Some(tls), |_| ok("a 1\n")).await;
    let url = format!("https://127.0.0.1:{port}/metrics");
    let ca = authority.pem.replace('\n', "\\n");
    let error = get(&client(&format!("tls_config: {{ca: \"{ca}\"}}")), &url).await.unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
    let named = client(&format!("tls_config: {{ca: \"{ca}\", server_name: metrics.internal}}"));
    assert_eq!(get(&named, &url).await.as_deref(), Ok("a 1\n"));
    assert!(seen.last().starts_with("[metrics.internal] GET"), "{}", seen.last());
}

#[tokio::test]
async fn a_client_shows_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let tls = acceptor(&authority.sign("127.0.0.1"), Some(&authority), &[]);
    let (port, _) = serve(Some(tls), |_| ok("a 1\n")).await;
    let url = format!("https://127.0.0.1:{port}/metrics");
    let ca = write(&folder, "ca.pem", &authority.pem);
    let identity = authority.sign("scraper");
    let certificate = write(&folder, "cert.pem", &identity.certificate);
    let key = write(&folder, "key.pem", &identity.key);
    assert!(get(&client(&format!("tls_config: {{ca_file: {ca}}}")), &url).await.is_err());
    let known = format!("tls_config: {{ca_file: {ca}, cert_file: {certificate}, key_file: {key}}}");
    assert_eq!(get(&client(&known), &url).await.as_deref(), Ok("a 1\n"));
    let old = known.replace('}', ", max_version: TLS12}");
    assert_eq!(get(&client(&old), &url).await.as_deref(), Ok("a 1\n"));
}

#[tokio::test]
async fn http2_is_spoken_where_both_sides_can() {
    let authority = Authority::new();
    let identity = authority.sign("127.0.0.1");
    let tls = acceptor(&identity, None, &[b"h2", b"http/1.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/metrics", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = tls.accept(stream).await.unwrap();
        let answer = |request: Request<Incoming>| async move {
            let version = format!("{:?}", request.version());
            Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(version))))
        };
        let service = hyper::service::service_fn(answer);
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
    });
    let ca = authority.pem.replace('\n', "\\n");
    let answer = get(&client(&format!("tls_config: {{ca: \"{ca}\"}}")), &url).await;
    assert_eq!(answer.as_deref(), Ok("HTTP/2.0"));
    let tls = acceptor(&identity, None, &[b"h2", b"http/1.1"]);
    let (port, _) = serve(Some(tls), |_| ok("HTTP/1.1")).await;
    let old = client(&format!("enable_http2: false\ntls_config: {{ca: \"{ca}\"}}"));
    assert_eq!(get(&old, &format!("https://127.0.0.1:{port}/")).await.as_deref(), Ok("HTTP/1.1"));
}

#[tokio::test]
async fn proxies_are_asked_for_what_they_are_for() {
    let (port, seen) = serve(None, |_| ok("direct")).await;
    let (proxy, asked) = serve_proxy("200 Connection established").await;
    let url = format!("http://127.0.0.1:{port}/metrics");
    let proxied = client(&format!("proxy_url: http://user:word@127.0.0.1:{proxy}"));
    assert_eq!(get(&proxied, &url).await.as_deref(), Ok("from the proxy"));
    let request = asked.last().to_lowercase();
    assert!(request.starts_with(&format!("get {url} http/1.1\r\n")), "{request}");
    assert!(request.contains("proxy-authorization: basic dxnlcjp3b3jk\r\n"), "{request}");
    assert_eq!(seen.len(), 0);
    let excepted = client(&format!("proxy_url: http://127.0.0.1:{proxy}\nno_proxy: 127.0.0.1"));
    assert_eq!(get(&excepted, &url).await.as_deref(), Ok("direct"));
    let gone = client("proxy_url: http://127.0.0.1:1");
    let error = get(&gone, &url).await.unwrap_err();
    assert!(error.starts_with("dial 127.0.0.1:1: "), "{error}");
}

#[tokio::test]
async fn tls_goes_through_a_tunnel() {
    let authority = Authority::new();
    let tls = acceptor(&authority.sign("127.0.0.1"), None, &[]);
    let (port, _) = serve(Some(tls), |_| ok("a 1\n")).await;
    let url = format!("https://127.0.0.1:{port}/metrics");
    let ca = authority.pem.replace('\n', "\\n");
    let (proxy, asked) = serve_proxy("200 Connection established").await;
    let with = |proxy: u16| {
        client(&format!(
            "tls_config: {{ca: \"{ca}\"}}\nproxy_url: http://u:p@127.0.0.1:{proxy}\nproxy_connect_header: {{X-Token: [one, two]}}"
        ))
    };
    assert_eq!(get(&with(proxy), &url).await.as_deref(), Ok("a 1\n"));
    assert_eq!(
        asked.last(),
        format!(
            "CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Token: one\r\nX-Token: two\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
        )
    );
    let (proxy, _) = serve_proxy("403 Forbidden").await;
    let error = get(&with(proxy), &url).await.unwrap_err();
    let expected = format!("proxy 127.0.0.1:{proxy} answered \"403 Forbidden\" to CONNECT 127.0.0.1:{port}");
    assert_eq!(error, expected);
}

#[tokio::test]
async fn secrets_in_files_are_read_for_each_request() {
    let folder = tempfile::tempdir().unwrap();
    let (port, seen) = serve(None, |_| ok("")).await;
    let url = format!("http://127.0.0.1:{port}/");
    let file = write(&folder, "token", "first\n");
    let bearer = client(&format!("authorization: {{credentials_file: {file}}}"));
    for token in ["first", "second"] {
        write(&folder, "token", &format!("{token}\n"));
        get(&bearer, &url).await.unwrap();
        assert!(seen.last().contains(&format!("authorization: Bearer {token}\r\n")), "{}", seen.last());
    }
    let basic = client(&format!("basic_auth: {{username: user, password_file: {file}}}"));
    write(&folder, "token", "pass");
    get(&basic, &url).await.unwrap();
    assert!(seen.last().contains("authorization: Basic dXNlcjpwYXNz\r\n"), "{}", seen.last());
    std::fs::remove_file(&file).unwrap();
    let error = get(&basic, &url).await.unwrap_err();
    assert!(error.starts_with(&format!("unable to read password file {file}: ")), "{error}");
}

#[tokio::test]
async fn a_redirect_to_another_host_gets_no_credentials() {
    let (port, seen) = serve(None, |request| {
        if request.starts_with("GET /away") {
            let port =
                request.split("port=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
            format!(
                "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://localhost:{port}/there\r\n\r\n"
            )
        } else if request.starts_with("GET /round") {
            "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: round\r\n\r\n".to_owned()
        } else {
            ok("arrived")
        }
    })
    .await;
    let client = client("authorization: {credentials: hush}");
    let base = format!("http://127.0.0.1:{port}");
    assert_eq!(get(&client, &format!("{base}/away?port={port}")).await.as_deref(), Ok("arrived"));
    let requests = seen.0.lock().clone();
    assert!(requests[0].contains("authorization: Bearer hush"), "{requests:?}");
    assert!(requests[1].starts_with("GET /there") && !requests[1].contains("hush"), "{requests:?}");
    let error = get(&client, &format!("{base}/round")).await.unwrap_err();
    assert_eq!(error, "stopped after 10 redirects");
}

#[tokio::test]
async fn tokens_are_fetched_kept_and_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let lifetime = Arc::new(Mutex::new("3600".to_owned()));
    let answer_lifetime = Arc::clone(&lifetime);
    let (token_port, asked) = serve(None, move |_| {
        let lifetime = answer_lifetime.lock().clone();
        ok(&format!("{{\"access_token\":\"t1\",\"token_type\":\"bearer\",\"expires_in\":{lifetime}}}"))
    })
    .await;
    let (port, seen) = serve(None, |_| ok("a 1\n")).await;
    let url = format!("http://127.0.0.1:{port}/metrics");
    let secret = write(&folder, "secret", "hush");
    let client = client(&format!(
        "oauth2: {{client_id: 'me&', client_secret_file: {secret}, token_url: 'http://127.0.0.1:{token_port}/token', scopes: [a, b], endpoint_params: {{audience: x y}}}}"
    ));
    for _ in 0..2 {
        get(&client, &url).await.unwrap();
        assert!(seen.last().contains("authorization: Bearer t1\r\n"), "{}", seen.last());
    }
    assert_eq!(asked.len(), 1, "the token is kept");
    let request = asked.last();
    assert!(request.starts_with("POST /token HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\ngrant_type=client_credentials&scope=a+b&audience=x+y"), "{request}");
    // "me%26:hush"
    assert!(request.contains("authorization: Basic bWUlMjY6aHVzaA==\r\n"), "{request}");
    write(&folder, "secret", "other");
    *lifetime.lock() = "\"5\"".to_owned();
    get(&client, &url).await.unwrap();
    assert_eq!(asked.len(), 2, "another secret wants another token");
    get(&client, &url).await.unwrap();
    assert_eq!(asked.len(), 3, "a token that is about to expire is renewed");
}

#[tokio::test]
async fn a_token_endpoint_may_want_the_credentials_in_the_form() {
    let (token_port, asked) = serve(None, |request| {
        if request.contains("client_secret=hush") {
            ok("{\"access_token\":\"t2\"}")
        } else {
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nnope".to_owned()
        }
    })
    .await;
    let (port, seen) = serve(None, |_| ok("a 1\n")).await;
    let url = format!("http://127.0.0.1:{port}/metrics");
    let with = |secret: &str| {
        client(&format!(
            "oauth2: {{client_id: me, client_secret: {secret}, token_url: 'http://127.0.0.1:{token_port}/token'}}"
        ))
    };
    get(&with("hush"), &url).await.unwrap();
    assert!(seen.last().contains("authorization: Bearer t2\r\n"), "{}", seen.last());
    assert_eq!(asked.len(), 2);
    let error = get(&with("wrong"), &url).await.unwrap_err();
    assert_eq!(
        error,
        format!(
            "oauth2: cannot fetch a token from http://127.0.0.1:{token_port}/token: oauth2: the endpoint answered 401 Unauthorized: \"nope\""
        )
    );
    assert_eq!(seen.len(), 1, "without a token nothing is asked for");
}
