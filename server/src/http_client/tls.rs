//! `tls_config`: certificates out of the configuration and out of files, and what rustls makes of them.

use super::HttpError;
use crate::config::{TlsConfig, TlsVersion};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// The PEM texts that a `tls_config` names, as they are now.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Material {
    ca: Option<Vec<u8>>,
    certificate: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

/// One of the three: what it is called in errors, the text, the file.
type Source<'c> = (&'static str, Option<&'c str>, Option<&'c Path>);

fn sources(config: &TlsConfig) -> [Source<'_>; 3] {
    [
        ("CA", config.ca.as_deref(), config.ca_file.as_deref()),
        ("certificate", config.cert.as_deref(), config.cert_file.as_deref()),
        ("key", config.key.as_ref().map(|key| key.expose()), config.key_file.as_deref()),
    ]
}

impl Material {
    /// Reads the files; blocks.
    pub fn read(config: &TlsConfig) -> Result<Self, HttpError> {
        let [ca, certificate, key] = sources(config).map(|(what, text, file)| match (text, file) {
            (Some(text), _) => Ok(Some(text.as_bytes().to_vec())),
            (None, Some(file)) => {
                std::fs::read(file).map(Some).map_err(|source| unreadable(what, file, source))
            }
            (None, None) => Ok(None),
        });
        Ok(Self { ca: ca?, certificate: certificate?, key: key? })
    }

    /// Reads the files.
    pub async fn read_async(config: &TlsConfig) -> Result<Self, HttpError> {
        let config = config.clone();
        let read = tokio::task::spawn_blocking(move || Self::read(&config)).await;
        read.unwrap_or_else(|_| Err(HttpError::Tls("reading the files panicked".to_owned())))
    }
}

fn unreadable(what: &'static str, file: &Path, source: std::io::Error) -> HttpError {
    HttpError::File { what, file: file.to_owned(), source }
}

/// Checks a `tls_config` with the files it names. An error comes with the key that is to blame.
pub(crate) fn check(config: &TlsConfig) -> Result<(), (&'static str, HttpError)> {
    let key_of = |what: &str, is_text: bool| match (what, is_text) {
        ("CA", true) => "ca",
        ("CA", false) => "ca_file",
        ("certificate", true) => "cert",
        ("certificate", false) => "cert_file",
        (_, true) => "key",
        (_, false) => "key_file",
    };
    let [ca, certificate, key] = sources(config).map(|(what, text, _)| key_of(what, text.is_some()));
    let material = Material::read(config).map_err(|error| {
        let to_blame = match &error {
            HttpError::File { what, .. } => key_of(what, false),
            _ => ca,
        };
        (to_blame, error)
    })?;
    let _ = roots(&material).map_err(|error| (ca, error))?;
    if let Some(pem) = &material.certificate {
        let _ = certificates(pem, "certificate").map_err(|error| (certificate, error))?;
    }
    if let Some(pem) = &material.key {
        let _ = private_key(pem).map_err(|error| (key, error))?;
    }
    if config.max_version.is_some_and(|max| max < TlsVersion::Tls12) {
        let reason = "TLS before 1.2 is not supported; the lowest max_version is TLS12";
        return Err(("max_version", HttpError::Tls(reason.to_owned())));
    }
    client_config(config, &material, false).map(drop).map_err(|error| (certificate, error))
}

/// What rustls needs to know. `offers_http2` is for connections to targets, not to proxies.
pub(super) fn client_config(
    config: &TlsConfig,
    material: &Material,
    offers_http2: bool,
) -> Result<Arc<ClientConfig>, HttpError> {
    let failed = |error: rustls::Error| HttpError::Tls(error.to_string());
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(config)?)
        .map_err(failed)?;
    let verifier: Arc<dyn ServerCertVerifier> = if config.insecure_skip_verify {
        Arc::new(NotVerified(provider))
    } else {
        let roots = roots(material)?;
        if roots.is_empty() {
            // Only connections that need TLS may fail for it.
            Arc::new(NoRoots(provider))
        } else {
            WebPkiServerVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| HttpError::Tls(error.to_string()))?
        }
    };
    // "Dangerous" is rustls's word for a verifier of one's own; ours are below.
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut tls = match (&material.certificate, &material.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate, "certificate")?;
            builder.with_client_auth_cert(chain, private_key(key)?).map_err(|error| {
                HttpError::Tls(format!("the certificate and its key do not work together: {error}"))
            })?
        }
        _ => builder.with_no_client_auth(),
    };
    if offers_http2 {
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    Ok(Arc::new(tls))
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

fn versions(config: &TlsConfig) -> Result<Vec<&'static SupportedProtocolVersion>, HttpError> {
    let min = config.min_version.unwrap_or(TlsVersion::Tls12);
    let max = config.max_version.unwrap_or(TlsVersion::Tls13);
    let known = [(TlsVersion::Tls12, &rustls::version::TLS12), (TlsVersion::Tls13, &rustls::version::TLS13)];
    let wanted = known.into_iter().filter(|(version, _)| (min..=max).contains(version));
    let versions: Vec<_> = wanted.map(|(_, version)| version).collect();
    if versions.is_empty() {
        return Err(HttpError::Tls("TLS before 1.2 is not supported".to_owned()));
    }
    Ok(versions)
}

/// The authorities that the configuration names, or else those of the system.
fn roots(material: &Material) -> Result<Arc<RootCertStore>, HttpError> {
    let Some(pem) = &material.ca else { return Ok(system_roots()) };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, "CA")? {
        roots
            .add(certificate)
            .map_err(|error| HttpError::Tls(format!("unusable CA certificate: {error}")))?;
    }
    Ok(Arc::new(roots))
}

fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let load = || {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "cannot load some of the system's certificate authorities");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        Arc::new(roots)
    };
    Arc::clone(ROOTS.get_or_init(load))
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, HttpError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err(HttpError::Tls(format!("the {what} holds no certificate in PEM"))),
        Ok(all) => Ok(all),
        Err(error) => Err(HttpError::Tls(format!("the {what} is not PEM: {error}"))),
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, HttpError> {
    // The error of the parser may quote the key.
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        HttpError::Tls("the key holds no private key in PEM (encrypted keys are not read)".to_owned())
    })
}

/// `insecure_skip_verify`: any certificate will do, as long as the server has its key.
#[derive(Debug)]
struct NotVerified(Arc<CryptoProvider>);

impl ServerCertVerifier for NotVerified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A system without certificate authorities: no certificate will do.
#[derive(Debug)]
struct NoRoots(Arc<CryptoProvider>);

impl ServerCertVerifier for NoRoots {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let reason =
            "this system has no certificate authorities; install ca-certificates or set tls_config.ca_file";
        Err(rustls::Error::General(reason.to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("no certificate was accepted".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("no certificate was accepted".to_owned()))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
