//! A network that misbehaves: an HTTP proxy in front of an S3 server that resets, stalls, answers for the server, loses its answers, cuts
//! them, or throttles.
//!
//! One request a connection, so that requests can be counted and told apart. Threads and blocking sockets: nothing of the code under test
//! is used.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is reset before the server sees anything.
    Reset,
    /// The server carries it out; the connection is reset before the answer.
    LoseAnswer,
    /// The server carries it out; half of the answer arrives.
    Cut,
    /// The proxy answers with this status in the server's place.
    Status(u16),
    /// Nothing happens for so long; then the connection is reset.
    Stall(Duration),
    /// It is carried out after a pause.
    Slow(Duration),
}

/// One request, as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen {
    /// `GET`, `PUT`, …
    pub method: String,
    /// Path and query.
    pub target: String,
}

type Decide = Box<dyn FnMut(u64, &Seen) -> Option<Fault> + Send>;

struct State {
    upstream: String,
    seen: Mutex<Vec<Seen>>,
    faults: AtomicU64,
    decide: Mutex<Decide>,
    /// Bytes per second of all requests together; 0 = no limit.
    rate: AtomicU64,
    free: Mutex<Instant>,
    stopped: AtomicBool,
}

/// A running proxy. It ends with the value.
pub struct Proxy {
    /// `http://127.0.0.1:port`
    pub endpoint: String,
    address: std::net::SocketAddr,
    state: Arc<State>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Starts a proxy in front of an endpoint.
    ///
    /// # Panics
    /// When no port is free.
    #[must_use]
    pub fn start(endpoint: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State {
            upstream: endpoint.trim_start_matches("http://").to_owned(),
            seen: Mutex::default(),
            faults: AtomicU64::new(0),
            decide: Mutex::new(Box::new(|_, _| None)),
            rate: AtomicU64::new(0),
            free: Mutex::new(Instant::now()),
            stopped: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let state = Arc::clone(&shared);
                // What a connection dies of is the client's business.
                std::thread::spawn(move || drop(serve(client, &state)));
            }
        });
        Self { endpoint: format!("http://{address}"), address, state }
    }

    /// From now on asks this what becomes of each request, counted from 1.
    ///
    /// # Panics
    /// When an earlier decision panicked.
    pub fn decide(&self, mut decide: impl FnMut(u64, &Seen) -> Option<Fault> + Send + 'static) {
        self.state.seen.lock().expect("no panic").clear();
        self.state.faults.store(0, Ordering::SeqCst);
        *self.state.decide.lock().expect("no panic") = Box::new(move |n, seen| decide(n, seen));
    }

    /// Lets everything through.
    pub fn pass(&self) {
        self.decide(|_, _| None);
    }

    /// Lets the `nth` request meet a fault, counted from 1; with `for_good`, whenever the same request is made again.
    pub fn fail(&self, nth: u64, fault: Fault, for_good: bool) {
        let mut victim: Option<Seen> = None;
        self.decide(move |n, seen| {
            if n == nth {
                victim = Some(seen.clone());
                return Some(fault);
            }
            (for_good && victim.as_ref() == Some(seen)).then_some(fault)
        });
    }

    /// Limits the bytes per second of all requests together; 0 = no limit.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.state.rate.store(bytes_per_second, Ordering::SeqCst);
    }

    /// Returns the requests since the last decision was made.
    ///
    /// # Panics
    /// When a connection's thread panicked.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("no panic").clone()
    }

    /// Returns how many of them met a fault.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.state.faults.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn paced(&self, bytes: usize) {
        let rate = self.rate.load(Ordering::SeqCst);
        if rate == 0 {
            return;
        }
        let until = {
            let mut free = self.free.lock().expect("no panic");
            *free = (*free).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *free
        };
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

/// Closes a connection so that the other side sees a reset.
fn reset(client: &TcpStream) -> io::Result<()> {
    set_socket_linger(client, Some(Duration::ZERO))?;
    Ok(())
}

fn serve(client: TcpStream, state: &State) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, client.try_clone()?);
    let mut head = Vec::new();
    let mut length = 0;
    loop {
        let from = head.len();
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&head[from..]).into_owned();
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut first = head.split(' ');
    let seen = Seen { method: first.next().unwrap_or_default().into(), target: first.next().unwrap_or_default().into() };
    let fault = {
        let mut log = state.seen.lock().expect("no panic");
        log.push(seen.clone());
        let n = log.len() as u64;
        let mut decide = state.decide.lock().expect("no panic");
        decide(n, &seen)
    };
    if fault.is_some() {
        state.faults.fetch_add(1, Ordering::SeqCst);
    }
    match fault {
        Some(Fault::Reset) => return reset(&client),
        Some(Fault::Stall(time)) => {
            std::thread::sleep(time);
            return reset(&client);
        }
        Some(Fault::Slow(time)) => std::thread::sleep(time),
        _ => {}
    }
    let mut body = vec![0; length];
    let mut at = 0;
    while at < length {
        let end = length.min(at + (1 << 14));
        let n = reader.read(&mut body[at..end])?;
        if n == 0 {
            return Ok(());
        }
        state.paced(n);
        at += n;
    }
    let mut client = client;
    if let Some(Fault::Status(status)) = fault {
        let code = if status == 429 || status == 503 { "SlowDown" } else { "InternalError" };
        let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as the test wants it</Message></Error>");
        let empty = seen.method == "HEAD";
        write!(
            client,
            "HTTP/1.1 {status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
            if empty { 0 } else { text.len() },
            if empty { "" } else { &text }
        )?;
        return client.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    match TcpStream::connect(&state.upstream) {
        Ok(mut server) => {
            server.write_all(one_shot(&head).as_bytes())?;
            server.write_all(&body)?;
            server.read_to_end(&mut answer)?;
        }
        // The server is down: so is the connection to it.
        Err(_) => return reset(&client),
    }
    match fault {
        // The server died over it.
        _ if answer.is_empty() => return reset(&client),
        Some(Fault::LoseAnswer) => return reset(&client),
        Some(Fault::Cut) => {
            client.write_all(&answer[..answer.len() / 2])?;
            client.flush()?;
            std::thread::sleep(Duration::from_millis(20));
            return reset(&client);
        }
        _ => {}
    }
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |at| at + 2);
    client.write_all(one_shot(&String::from_utf8_lossy(&answer[..end])).as_bytes())?;
    for chunk in answer[end..].chunks(1 << 14) {
        state.paced(chunk.len());
        client.write_all(chunk)?;
    }
    client.shutdown(Shutdown::Write)
}

/// A head whose connection ends with its message.
fn one_shot(head: &str) -> String {
    let mut lines: Vec<&str> = head.split_inclusive("\r\n").collect();
    lines.retain(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    lines.insert(1, "Connection: close\r\n");
    lines.concat()
}
