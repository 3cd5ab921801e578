//! A blocking connection for worker threads: the simple query protocol and COPY out, without a runtime between socket and
//! encoder.
//!
//! Place in the flow: what a [`SnapshotWorker`](crate::SnapshotWorker) reads its rows through. tokio-postgres hands each row of
//! a COPY through a channel of its own, which costs more than to digest it; here a block of rows is taken out of one large
//! buffer. *Source*: PostgreSQL documentation, "Message Formats". *Cancellation*: reads time out often enough to look at the
//! token. *Crash behaviour*: a connection that failed is not used again; dropping it ends the backend.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use tokio_util::sync::CancellationToken;

use crate::conninfo::{ConnInfo, SslMode};
use crate::error::{PgError, server_error};
use crate::tls;

/// Bytes asked for at a time: fits the second-level cache beside the rows that are made of it.
const READ: usize = 128 << 10;
/// How often a waiting read looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(100);

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn as_io(&mut self) -> &mut dyn ReadWrite {
        match self {
            Self::Tcp(s) => s,
            Self::Unix(s) => s,
            Self::Tls(s) => s.as_mut(),
        }
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// A connection.
pub(crate) struct Wire {
    stream: Stream,
    buffer: Vec<u8>,
    /// What of the buffer is not taken yet.
    unread: std::ops::Range<usize>,
    cancel: CancellationToken,
    target: String,
    pid: i32,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.target, self.pid)
    }
}

/// A message's kind and where its payload lies in the buffer.
struct Message {
    tag: u8,
    payload: std::ops::Range<usize>,
}

/// A row of text values.
pub(crate) type TextRow = Vec<Option<String>>;

impl Wire {
    /// Connects to the first host on which every statement of `begin` succeeds.
    pub(crate) fn connect(info: &ConnInfo, name: &str, begin: &[&str], cancel: &CancellationToken) -> Result<Self, PgError> {
        let mut failed = None;
        for (host, port) in &info.hosts {
            let opened = Self::open(info, host, *port, name, cancel).and_then(|mut wire| {
                begin.iter().try_for_each(|sql| wire.batch("setting up the session", sql))?;
                Ok(wire)
            });
            match opened {
                Ok(wire) => return Ok(wire),
                Err(PgError::Cancelled) => return Err(PgError::Cancelled),
                Err(e) => failed = Some(e),
            }
        }
        Err(failed.unwrap_or_else(|| PgError::Unreachable { target: info.target(), source: "no host".into() }))
    }

    fn open(info: &ConnInfo, host: &str, port: u16, name: &str, cancel: &CancellationToken) -> Result<Self, PgError> {
        let unreachable = |e: io::Error| PgError::Unreachable { target: info.target(), source: e.into() };
        let limit = Duration::from_secs(info.connect_timeout.max(1));
        let stream = if host.starts_with('/') {
            let stream = UnixStream::connect(format!("{host}/.s.PGSQL.{port}")).map_err(unreachable)?;
            stream.set_read_timeout(Some(LOOK)).map_err(unreachable)?;
            Stream::Unix(stream)
        } else {
            let mut last = io::Error::other("the name has no address");
            let mut found = None;
            for address in (host, port).to_socket_addrs().map_err(unreachable)? {
                match TcpStream::connect_timeout(&address, limit) {
                    Ok(stream) => {
                        found = Some(stream);
                        break;
                    }
                    Err(e) => last = e,
                }
            }
            let stream = found.ok_or(last).map_err(unreachable)?;
            stream.set_nodelay(true).map_err(unreachable)?;
            encrypted(stream, info, host, limit)?
        };
        let mut wire =
            Self { stream, buffer: vec![0; READ], unread: 0..0, cancel: cancel.clone(), target: info.target(), pid: 0 };
        wire.log_in(info, name)?;
        Ok(wire)
    }

    /// Returns the backend's pid.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    fn log_in(&mut self, info: &ConnInfo, name: &str) -> Result<(), PgError> {
        let what = "logging in";
        let parameters =
            [("user", info.user.as_str()), ("database", &info.database), ("application_name", name), ("client_encoding", "UTF8")];
        self.send(what, |out| frontend::startup_message(parameters, out))?;
        let password = || {
            info.password
                .as_deref()
                .ok_or_else(|| PgError::Auth { target: info.target(), reason: "it wants a password and none was given".into() })
        };
        let mut scram: Option<ScramSha256> = None;
        loop {
            let message = self.message(what)?;
            let payload = self.buffer[message.payload].to_vec();
            let refuse = |reason: &str| PgError::Auth { target: info.target(), reason: reason.to_owned() };
            match message.tag {
                b'R' => {
                    let Some((code, data)) = payload.split_first_chunk::<4>() else { return Err(self.broken(what)) };
                    match i32::from_be_bytes(*code) {
                        0 => {}
                        3 => {
                            let password = password()?.to_owned();
                            self.send(what, |out| frontend::password_message(password.as_bytes(), out))?;
                        }
                        5 => {
                            let salt: [u8; 4] = data.try_into().map_err(|_| self.broken(what))?;
                            let hash = md5_hash(info.user.as_bytes(), password()?.as_bytes(), salt);
                            self.send(what, |out| frontend::password_message(hash.as_bytes(), out))?;
                        }
                        10 => {
                            if !data.split(|b| *b == 0).any(|m| m == SCRAM_SHA_256.as_bytes()) {
                                return Err(refuse("it offers no kind of SCRAM that dozo knows"));
                            }
                            let exchange = ScramSha256::new(password()?.as_bytes(), ChannelBinding::unsupported());
                            self.send(what, |out| frontend::sasl_initial_response(SCRAM_SHA_256, exchange.message(), out))?;
                            scram = Some(exchange);
                        }
                        11 => {
                            let exchange = scram.as_mut().ok_or_else(|| refuse("SCRAM out of order"))?;
                            exchange.update(data).map_err(|e| refuse(&e.to_string()))?;
                            let answer = exchange.message().to_vec();
                            self.send(what, |out| frontend::sasl_response(&answer, out))?;
                        }
                        12 => {
                            let exchange = scram.as_mut().ok_or_else(|| refuse("SCRAM out of order"))?;
                            exchange.finish(data).map_err(|e| refuse(&e.to_string()))?;
                        }
                        other => return Err(refuse(&format!("authentication of kind {other} is not supported"))),
                    }
                }
                b'K' => {
                    let pid = payload.first_chunk::<4>().ok_or_else(|| self.broken(what))?;
                    self.pid = i32::from_be_bytes(*pid);
                }
                b'E' => {
                    let (sqlstate, reason) = error_fields(&payload);
                    let target = info.target();
                    return Err(match sqlstate.as_str() {
                        "28000" | "28P01" => PgError::Auth { target, reason },
                        "3D000" => PgError::NoDatabase { target, reason },
                        _ => PgError::Unreachable { target, source: reason.into() },
                    });
                }
                b'Z' => return Ok(()),
                _ => {}
            }
        }
    }

    /// Runs statements.
    ///
    /// # Errors
    /// What the server says; `what` names the work.
    pub(crate) fn batch(&mut self, what: &str, sql: &str) -> Result<(), PgError> {
        self.rows(what, sql).map(drop)
    }

    /// Runs statements and returns the rows of all of them as text.
    ///
    /// # Errors
    /// As [`Wire::batch`].
    pub(crate) fn rows(&mut self, what: &str, sql: &str) -> Result<Vec<TextRow>, PgError> {
        self.send(what, |out| frontend::query(sql, out))?;
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            let message = self.message(what)?;
            let payload = &self.buffer[message.payload];
            match message.tag {
                b'D' => rows.push(data_row(payload).ok_or_else(|| self.broken(what))?),
                b'E' => failed = failed.or(Some(failure(what, payload))),
                b'Z' => return failed.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    /// Starts a COPY out; its rows come by [`Wire::copied`].
    ///
    /// # Errors
    /// As [`Wire::batch`].
    pub(crate) fn copy_out(&mut self, what: &str, sql: &str) -> Result<(), PgError> {
        self.send(what, |out| frontend::query(sql, out))?;
        loop {
            let message = self.message(what)?;
            match message.tag {
                b'H' => return Ok(()),
                b'E' => return Err(self.after_failure(what, message)),
                _ => {}
            }
        }
    }

    /// Returns the next piece of a COPY; `None` at its end.
    ///
    /// # Errors
    /// As [`Wire::batch`].
    pub(crate) fn copied(&mut self, what: &str) -> Result<Option<&[u8]>, PgError> {
        loop {
            let message = self.message(what)?;
            match message.tag {
                b'd' => return Ok(Some(&self.buffer[message.payload])),
                b'E' => return Err(self.after_failure(what, message)),
                b'Z' => return Ok(None),
                _ => {}
            }
        }
    }

    /// Reads on to where the server is ready again.
    fn after_failure(&mut self, what: &str, message: Message) -> PgError {
        let error = failure(what, &self.buffer[message.payload]);
        loop {
            // The first error tells more than a connection that is lost now.
            if matches!(self.message(what), Ok(Message { tag: b'Z', .. }) | Err(_)) {
                return error;
            }
        }
    }

    fn broken(&self, what: &str) -> PgError {
        PgError::Lost { what: what.to_owned(), source: "a message that is none".into() }
    }

    fn send(&mut self, what: &str, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<(), PgError> {
        let lost = |e: io::Error| PgError::Lost { what: what.to_owned(), source: e.into() };
        let mut out = BytesMut::new();
        write(&mut out).map_err(lost)?;
        let io = self.stream.as_io();
        io.write_all(&out).and_then(|()| io.flush()).map_err(lost)
    }

    /// Returns the next message. Its payload stays where it is until the next one is asked for.
    fn message(&mut self, what: &str) -> Result<Message, PgError> {
        self.fill(5, what)?;
        let at = self.unread.start;
        let head = &self.buffer[at..at + 5];
        let length = usize::try_from(i32::from_be_bytes([head[1], head[2], head[3], head[4]])).ok().filter(|n| *n >= 4);
        let (tag, length) = (head[0], length.ok_or_else(|| self.broken(what))?);
        self.fill(1 + length, what)?;
        let at = self.unread.start;
        self.unread.start += 1 + length;
        Ok(Message { tag, payload: at + 5..at + 1 + length })
    }

    /// Reads until `wanted` bytes are there.
    fn fill(&mut self, wanted: usize, what: &str) -> Result<(), PgError> {
        if self.unread.len() >= wanted {
            return Ok(());
        }
        if self.unread.start + wanted > self.buffer.len() || self.unread.is_empty() {
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
            if wanted > self.buffer.len() {
                self.buffer.resize(wanted, 0);
            } else if wanted <= READ && self.buffer.len() > READ {
                // After one large row: back to what fits the cache.
                self.buffer.truncate(READ.max(self.unread.end));
                self.buffer.shrink_to_fit();
            }
        }
        while self.unread.len() < wanted {
            match self.stream.as_io().read(&mut self.buffer[self.unread.end..]) {
                Ok(0) => {
                    let source = "the server closed the connection".into();
                    return Err(PgError::Lost { what: what.to_owned(), source });
                }
                Ok(n) => self.unread.end += n,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if self.cancel.is_cancelled() {
                        return Err(PgError::Cancelled);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(PgError::Lost { what: what.to_owned(), source: e.into() }),
            }
        }
        Ok(())
    }
}

/// Encrypts as `sslmode` says.
fn encrypted(mut stream: TcpStream, info: &ConnInfo, host: &str, limit: Duration) -> Result<Stream, PgError> {
    let unreachable = |e: io::Error| PgError::Unreachable { target: info.target(), source: e.into() };
    let refuse = |reason: String| PgError::Tls { target: info.target(), reason };
    if info.ssl_mode == SslMode::Disable {
        stream.set_read_timeout(Some(LOOK)).map_err(unreachable)?;
        return Ok(Stream::Tcp(stream));
    }
    stream.set_read_timeout(Some(limit)).map_err(unreachable)?;
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).map_err(unreachable)?;
    let mut answer = [0];
    stream.read_exact(&mut answer).map_err(unreachable)?;
    if answer == *b"S" {
        let config = Arc::new(tls::client_config(info).map_err(refuse)?);
        let name = ServerName::try_from(host.to_owned()).map_err(|e| refuse(e.to_string()))?;
        let mut connection = ClientConnection::new(config, name).map_err(|e| refuse(e.to_string()))?;
        connection.complete_io(&mut stream).map_err(|e| refuse(e.to_string()))?;
        stream.set_read_timeout(Some(LOOK)).map_err(unreachable)?;
        return Ok(Stream::Tls(Box::new(StreamOwned::new(connection, stream))));
    }
    if info.ssl_mode != SslMode::Prefer {
        return Err(refuse("the server does not offer it".into()));
    }
    stream.set_read_timeout(Some(LOOK)).map_err(unreachable)?;
    Ok(Stream::Tcp(stream))
}

/// Takes SQLSTATE and message (with its detail) out of an ErrorResponse.
fn error_fields(payload: &[u8]) -> (String, String) {
    let (mut sqlstate, mut message, mut detail) = (String::new(), String::new(), String::new());
    for field in payload.split(|b| *b == 0) {
        if let Some((kind, text)) = field.split_first() {
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                b'C' => sqlstate = text,
                b'M' => message = text,
                b'D' => detail = format!(" ({text})"),
                _ => {}
            }
        }
    }
    (sqlstate, format!("{message}{detail}"))
}

fn failure(what: &str, payload: &[u8]) -> PgError {
    let (sqlstate, reason) = error_fields(payload);
    server_error(what.to_owned(), sqlstate, reason)
}

/// Takes a DataRow of text values apart.
fn data_row(payload: &[u8]) -> Option<TextRow> {
    let (count, mut rest) = payload.split_first_chunk::<2>()?;
    let count = u16::from_be_bytes(*count);
    let mut row = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        rest = tail;
        match usize::try_from(i32::from_be_bytes(*length)) {
            Err(_) => row.push(None),
            Ok(length) => {
                let (value, tail) = rest.split_at_checked(length)?;
                rest = tail;
                row.push(Some(String::from_utf8_lossy(value).into_owned()));
            }
        }
    }
    rest.is_empty().then_some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_errors_are_taken_apart() {
        let row = [&[0, 3][..], &[0, 0, 0, 2], b"ab", &[0xff; 4], &[0; 4]].concat();
        assert_eq!(data_row(&row), Some(vec![Some("ab".into()), None, Some(String::new())]));
        for cut in 0..row.len() {
            assert_eq!(data_row(&row[..cut]), None, "cut at {cut}");
        }
        let error = b"SERROR\0C42P01\0Mno table\0Dreally\0\0";
        assert_eq!(error_fields(error), ("42P01".into(), "no table (really)".into()));
    }
}
