//! Receivers of notifications: an HTTP server that keeps what it gets, and a mail server with TLS.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// A request that an [`HttpSink`] got.
#[derive(Debug, Clone)]
pub struct Received {
    /// Method and path.
    pub line: String,
    /// Headers, their names in small letters.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: String,
}

impl Received {
    /// Returns a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Keeps every request; answers as it is told, then 200.
#[derive(Debug)]
pub struct HttpSink {
    /// `http://127.0.0.1:port`
    pub url: String,
    received: Arc<Mutex<Vec<Received>>>,
    answers: Arc<Mutex<VecDeque<u16>>>,
}

impl HttpSink {
    /// Starts it.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (received, answers) = (Arc::<Mutex<Vec<Received>>>::default(), Arc::<Mutex<VecDeque<u16>>>::default());
        let (keep, say) = (Arc::clone(&received), Arc::clone(&answers));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (keep, say) = (Arc::clone(&keep), Arc::clone(&say));
                std::thread::spawn(move || serve(stream, &keep, &say));
            }
        });
        Self { url, received, answers }
    }

    /// Answers the next requests with these statuses.
    ///
    /// # Panics
    /// When a thread of it has panicked.
    pub fn answer(&self, statuses: &[u16]) {
        self.answers.lock().expect("not poisoned").extend(statuses);
    }

    /// Returns what it got, and forgets it.
    ///
    /// # Panics
    /// When a thread of it has panicked.
    #[must_use]
    pub fn take(&self) -> Vec<Received> {
        std::mem::take(&mut self.received.lock().expect("not poisoned"))
    }
}

fn serve(stream: TcpStream, keep: &Mutex<Vec<Received>>, say: &Mutex<VecDeque<u16>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        match header.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let length = headers.iter().find(|(n, _)| n == "content-length").and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let status = say.lock().ok()?.pop_front().unwrap_or(200);
    let received = Received { line: line.trim_end().to_owned(), headers, body: String::from_utf8_lossy(&body).into_owned() };
    keep.lock().ok()?.push(received);
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status} said\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok()
}

/// A mail server: `aiosmtpd`, with TLS from the start or after STARTTLS, and one user.
#[derive(Debug)]
pub struct MailServer {
    /// Port on localhost.
    pub port: u16,
    folder: PathBuf,
    child: Child,
}

impl MailServer {
    /// Its one user.
    pub const USER: &'static str = "dozo";
    /// The user's password.
    pub const PASSWORD: &'static str = "four-in-the-morning";

    /// Starts it; letters are kept in `folder`. The first `refused` of them are put off (451).
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(folder: &Path, certificate: &Path, key: &Path, starttls: bool, refused: usize) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        std::fs::create_dir_all(folder).expect("a folder");
        let script = folder.join("server.py");
        std::fs::write(&script, include_str!("mail.py")).expect("a script");
        let mut child = Command::new(crate::services().join("venv/bin/python"))
            .arg(&script)
            .arg(folder)
            .args([certificate, key])
            .args([port.to_string(), starttls.to_string(), refused.to_string(), Self::USER.into(), Self::PASSWORD.into()])
            .stdout(Stdio::piped())
            // It tells of every client that does not trust it.
            .stderr(Stdio::null())
            .spawn()
            .expect("python starts: run scripts/services");
        let mut line = String::new();
        let out = child.stdout.take().expect("its output");
        BufReader::new(out).read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "ready");
        Self { port, folder: folder.to_owned(), child }
    }

    /// Returns the letters that it took.
    ///
    /// # Panics
    /// When they cannot be read.
    #[must_use]
    pub fn letters(&self) -> Vec<String> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(&self.folder)
            .expect("the folder")
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "eml"))
            .collect();
        files.sort();
        files.iter().map(|f| std::fs::read_to_string(f).expect("a letter")).collect()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
