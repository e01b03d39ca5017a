//! Which requests go through which proxy.
//!
//! Source: Go, `golang.org/x/net/http/httpproxy`, `proxy.go`.

use super::HttpError;
use super::credentials::basic;
use crate::config::HttpClientConfig;
use hyper::header::HeaderValue;
use hyper::http::Uri;
use std::net::IpAddr;

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
    Socks5,
}

/// One proxy.
#[derive(Clone, Debug)]
pub(super) struct Proxy {
    pub scheme: Scheme,
    /// Scheme and authority with port, without user and password.
    pub uri: Uri,
    pub user: Option<(String, String)>,
}

impl Proxy {
    fn parse(text: &str) -> Result<Self, HttpError> {
        let wrong = |reason: String| HttpError::Proxy(reason);
        let uri: Uri = text.parse().map_err(|error| wrong(format!("not a URL: {error}")))?;
        let (scheme, port) = match uri.scheme_str() {
            Some("http") => (Scheme::Http, 80),
            Some("https") => (Scheme::Https, 443),
            Some("socks5" | "socks5h") => (Scheme::Socks5, 1080),
            Some(other) => {
                return Err(wrong(format!("unknown scheme {other:?}; it is http, https, socks5 or socks5h")));
            }
            None => return Err(wrong("no scheme; write http://host:port".to_owned())),
        };
        let authority = uri.authority().filter(|authority| !authority.host().is_empty());
        let Some(authority) = authority else { return Err(wrong("no host".to_owned())) };
        let user = authority.as_str().rsplit_once('@').map(|(user, _)| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            (unescape(name), unescape(password))
        });
        let port = authority.port_u16().unwrap_or(port);
        let scheme_text = uri.scheme_str().unwrap_or("http");
        let plain = format!("{scheme_text}://{}:{port}", authority.host());
        let uri = plain.parse().map_err(|error| wrong(format!("not a URL: {error}")))?;
        Ok(Self { scheme, uri, user })
    }

    /// What a proxy that speaks HTTP is told about the user.
    pub fn authorization(&self) -> Option<HeaderValue> {
        let (name, password) = self.user.as_ref().filter(|_| self.scheme != Scheme::Socks5)?;
        Some(basic(name, password))
    }

    /// Name and port, for messages.
    pub fn address(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }
}

/// Checks a `proxy_url`.
pub(crate) fn check_url(text: &str) -> Result<(), HttpError> {
    Proxy::parse(text).map(drop)
}

/// The proxies of a configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    exceptions: Option<Exceptions>,
}

impl Proxies {
    /// By `proxy_url` or by environment variables, which `environment` looks up.
    pub fn new(
        config: &HttpClientConfig,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, HttpError> {
        if let Some(url) = &config.proxy_url {
            let proxy = Proxy::parse(url)?;
            // As upstream, hosts of this machine are exceptions only where there are exceptions at all.
            let exceptions = Some(&config.no_proxy).filter(|list| !list.is_empty());
            return Ok(Self {
                http: Some(proxy.clone()),
                https: Some(proxy),
                exceptions: exceptions.map(|list| Exceptions::parse(list)),
            });
        }
        if !config.proxy_from_environment {
            return Ok(Self::default());
        }
        let variable = |name: &str| {
            [name.to_owned(), name.to_ascii_lowercase()]
                .iter()
                .find_map(|name| environment(name))
                .filter(|value| !value.is_empty())
        };
        let proxy = |name: &str| match variable(name) {
            None => Ok(None),
            Some(url) => {
                let url = if url.contains("://") { url } else { format!("http://{url}") };
                let wrong = |error| HttpError::Proxy(format!("environment variable {name}: {error}"));
                Proxy::parse(&url).map(Some).map_err(wrong)
            }
        };
        // In a CGI program, that variable is a header of whoever asked.
        let is_cgi = environment("REQUEST_METHOD").is_some();
        Ok(Self {
            http: if is_cgi { None } else { proxy("HTTP_PROXY")? },
            https: proxy("HTTPS_PROXY")?,
            exceptions: Some(Exceptions::parse(&variable("NO_PROXY").unwrap_or_default())),
        })
    }

    /// The proxy for a request, if it goes through one.
    pub fn of(&self, url: &Uri) -> Option<&Proxy> {
        let is_https = url.scheme_str() == Some("https");
        let proxy = if is_https { &self.https } else { &self.http }.as_ref()?;
        let host = super::host_of(url);
        let port = url.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let is_exception = self.exceptions.as_ref().is_some_and(|list| list.contains(&host, port));
        (!is_exception).then_some(proxy)
    }
}

/// `no_proxy`: hosts that are reached directly. Those of this machine always are.
#[derive(Clone, Debug, Default)]
struct Exceptions {
    all: bool,
    rules: Vec<(Rule, Option<u16>)>,
}

#[derive(Clone, Debug)]
enum Rule {
    Address(IpAddr),
    Network(IpAddr, u8),
    /// With a dot before it: the domain's hosts, and the domain itself if `and_itself`.
    Domain {
        suffix: String,
        and_itself: bool,
    },
}

impl Exceptions {
    fn parse(list: &str) -> Self {
        let mut exceptions = Self::default();
        for entry in list.split(',').map(|entry| entry.trim().to_ascii_lowercase()) {
            if entry == "*" {
                exceptions.all = true;
                continue;
            }
            let network = entry
                .split_once('/')
                .and_then(|(address, bits)| Some(Rule::Network(address.parse().ok()?, bits.parse().ok()?)));
            if let Some(network) = network {
                exceptions.rules.push((network, None));
                continue;
            }
            let (host, port) = match entry.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                    let Ok(port) = port.parse() else { continue };
                    (host, Some(port))
                }
                _ => (entry.as_str(), None),
            };
            let host = host.trim_matches(['[', ']']);
            if host.is_empty() {
                continue;
            }
            let rule = match host.parse() {
                Ok(address) => Rule::Address(address),
                Err(_) => {
                    let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
                    match host.strip_prefix('.') {
                        Some(_) => Rule::Domain { suffix: host.to_owned(), and_itself: false },
                        None => Rule::Domain { suffix: format!(".{host}"), and_itself: true },
                    }
                }
            };
            exceptions.rules.push((rule, port));
        }
        exceptions
    }

    fn contains(&self, host: &str, port: u16) -> bool {
        let address: Option<IpAddr> = host.parse().ok();
        if self.all || host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        self.rules.iter().any(|(rule, rule_port)| {
            let matches = match rule {
                Rule::Address(rule) => address == Some(*rule),
                Rule::Network(network, bits) => {
                    address.is_some_and(|address| is_within(address, *network, *bits))
                }
                Rule::Domain { suffix, and_itself } => {
                    host.ends_with(suffix.as_str()) || (*and_itself && host == &suffix[1..])
                }
            };
            matches && rule_port.is_none_or(|rule_port| rule_port == port)
        })
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

/// Resolves `%41` and the like; what is no escape stays.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| after.get(..2)).flatten();
        let escaped = escaped.and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                out.push(value);
                rest = &after[2..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(list: &str, host: &str) -> bool {
        let (host, port) = host.rsplit_once('|').unwrap_or((host, "80"));
        Exceptions::parse(list).contains(host, port.parse().unwrap())
    }

    #[test]
    fn exceptions_are_hosts_domains_addresses_and_networks() {
        for (list, host) in [
            ("", "localhost"),
            ("", "127.0.0.1"),
            ("", "::1"),
            ("*", "example.com"),
            ("example.com", "example.com"),
            ("example.com", "www.example.com"),
            (" x, .Example.com", "www.example.com"),
            ("*.example.com", "www.example.com"),
            ("10.0.0.0/8", "10.200.3.4"),
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3:9100", "10.1.2.3|9100"),
            ("2001:db8::/32", "2001:db8::7"),
            ("[2001:db8::7]:80", "2001:db8::7"),
            ("0.0.0.0/0", "8.8.8.8"),
        ] {
            assert!(direct(list, host), "{list:?} has {host}");
        }
        for (list, host) in [
            ("", "example.com"),
            ("example.com", "badexample.com"),
            (".example.com", "example.com"),
            ("example.com:8080", "example.com"),
            ("10.0.0.0/8", "11.0.0.1"),
            ("10.0.0.0/8", "2001:db8::7"),
            ("10.1.2.3:9100", "10.1.2.3|80"),
        ] {
            assert!(!direct(list, host), "{list:?} has not {host}");
        }
    }

    #[test]
    fn a_proxy_url_says_scheme_host_and_user() {
        let proxy = Proxy::parse("http://us%40er:p%3Aw@proxy.example").unwrap();
        assert_eq!((proxy.scheme, proxy.address()), (Scheme::Http, "proxy.example:80"));
        assert_eq!(proxy.user, Some(("us@er".to_owned(), "p:w".to_owned())));
        assert_eq!(Proxy::parse("socks5://h").unwrap().address(), "h:1080");
        for (bad, reason) in [
            ("proxy:3128", "no scheme; write http://host:port"),
            ("proxy", "no scheme; write http://host:port"),
            ("ftp://x", "unknown scheme \"ftp\""),
            ("http://a b/", "not a URL"),
        ] {
            let error = Proxy::parse(bad).unwrap_err().to_string();
            assert!(error.contains(reason), "{bad}: {error}");
        }
    }

    #[test]
    fn the_environment_names_proxies_by_scheme() {
        let config = HttpClientConfig { proxy_from_environment: true, ..HttpClientConfig::default() };
        let environment = |name: &str| match name {
            "HTTP_PROXY" => Some("plain:3128".to_owned()),
            "https_proxy" => Some("http://secure:3128".to_owned()),
            "no_proxy" => Some("internal".to_owned()),
            _ => None,
        };
        let proxies = Proxies::new(&config, &environment).unwrap();
        let of = |url: &str| proxies.of(&url.parse().unwrap()).map(|proxy| proxy.address().to_owned());
        assert_eq!(of("http://a/").as_deref(), Some("plain:3128"));
        assert_eq!(of("https://a/").as_deref(), Some("secure:3128"));
        assert_eq!(of("https://db.internal/"), None);
        assert_eq!(of("http://127.0.0.1:9100/"), None);
        let error = Proxies::new(&config, &|_| Some("ftp://x".to_owned())).unwrap_err().to_string();
        assert!(error.contains("environment variable"), "{error}");
    }
}
