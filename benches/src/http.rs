//! A blocking HTTP/1.1 client that keeps its connection: the sender must cost little beside the
//! server it measures, and an endurance run must know exactly what became of a request.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longest answer that is read.
const MAX_BODY_BYTES: u64 = 1 << 30;

/// Host, port and path prefix of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `host:port`.
    pub authority: String,
    /// With a leading slash.
    pub path: String,
}

impl Url {
    /// Reads `http://host:port/path`.
    ///
    /// # Errors
    /// A text that says what is missing.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let rest =
            text.strip_prefix("http://").ok_or_else(|| format!("{text}: only http:// URLs are supported"))?;
        let (authority, path) =
            rest.split_once('/').map_or((rest, String::new()), |(a, p)| (a, p.to_owned()));
        if authority.is_empty() {
            return Err(format!("{text}: no host"));
        }
        let authority =
            if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Self { authority, path: format!("/{path}") })
    }
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// One connection, opened when first needed and again after an error.
#[derive(Debug)]
pub struct Client {
    authority: String,
    timeout: Duration,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    /// A client for `host:port`.
    pub fn new(authority: impl Into<String>, timeout: Duration) -> Self {
        Self { authority: authority.into(), timeout, connection: None }
    }

    /// `GET path`.
    ///
    /// # Errors
    /// I/O errors; the connection is given up.
    pub fn get(&mut self, path: &str) -> Result<Response> {
        self.request("GET", path, &[], &[])
    }

    /// `POST path` with a body.
    ///
    /// # Errors
    /// I/O errors; what became of the request is not known then, unless the error is
    /// `ConnectionRefused`: nothing was sent.
    pub fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
        self.request("POST", path, headers, body)
    }

    fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let (response, connection) = exchange(connection, &self.authority, method, path, headers, body)?;
        let close = response.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        self.connection = (!close).then_some(connection);
        Ok(response)
    }

    fn connect(&self) -> Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect(&self.authority)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        Ok(BufReader::with_capacity(64 << 10, stream))
    }
}

fn exchange(
    mut connection: BufReader<TcpStream>,
    authority: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<(Response, BufReader<TcpStream>)> {
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut message = head.into_bytes();
    message.extend_from_slice(body);
    let written = connection.get_mut().write_all(&message);
    // A server may refuse a request, and close, before it has read the body.
    let response = read_response(&mut connection).map_err(|error| written.err().unwrap_or(error))?;
    Ok((response, connection))
}

fn read_response(connection: &mut BufReader<TcpStream>) -> Result<Response> {
    let invalid = |what: &str| Error::new(ErrorKind::InvalidData, what.to_owned());
    let status_line = read_line(connection)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| invalid(&format!("no status in {status_line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(connection)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid("header without a colon"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: Vec::new() };
    if response.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        loop {
            let line = read_line(connection)?;
            let size = u64::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16)
                .map_err(|_| invalid("chunk without a size"))?;
            read_into(connection, size, &mut response.body)?;
            read_line(connection)?;
            if size == 0 {
                break;
            }
        }
    } else if status != 204 && status != 304 {
        let size = response.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        read_into(connection, size, &mut response.body)?;
    }
    Ok(response)
}

fn read_into(connection: &mut BufReader<TcpStream>, size: u64, body: &mut Vec<u8>) -> Result<()> {
    if size > MAX_BODY_BYTES {
        return Err(Error::new(ErrorKind::InvalidData, format!("answer of {size} bytes")));
    }
    let read = connection.by_ref().take(size).read_to_end(body)?;
    if (read as u64) < size {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

fn read_line(connection: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    let read = connection.by_ref().take(64 << 10).read_line(&mut line)?;
    if read == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Percent-encodes a query parameter.
pub fn encode_component(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn urls_are_taken_apart() {
        let url = Url::parse("http://127.0.0.1:9090/api/v1/write").unwrap();
        assert_eq!(url, Url { authority: "127.0.0.1:9090".into(), path: "/api/v1/write".into() });
        assert_eq!(Url::parse("http://host").unwrap(), Url { authority: "host:80".into(), path: "/".into() });
        assert!(Url::parse("https://host").is_err());
    }

    #[test]
    fn a_connection_is_kept_over_plain_and_chunked_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            for answer in [
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
                "HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                "HTTP/1.1 204 No Content\r\n\r\n",
            ] {
                let mut size = 0;
                loop {
                    let line = read_line_of(&mut reader);
                    if let Some(value) = line.strip_prefix("Content-Length: ") {
                        size = value.parse().unwrap();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; size];
                reader.read_exact(&mut body).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut client = Client::new(address, Duration::from_secs(5));
        assert_eq!(client.get("/").unwrap().text(), "hi");
        let response = client.post("/x", &[("A", "b")], b"body").unwrap();
        assert_eq!((response.status, response.text()), (400, "abc".to_owned()));
        assert_eq!(client.get("/").unwrap().status, 204);
        server.join().unwrap();
    }

    fn read_line_of(reader: &mut BufReader<TcpStream>) -> String {
        super::read_line(reader).unwrap()
    }
}
