//! A real S3 server: SeaweedFS.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::postgres::watch;
use crate::{free_port, services};

/// A running S3 server on 127.0.0.1.
#[derive(Debug)]
pub struct S3Server {
    /// `http://127.0.0.1:port`
    pub endpoint: String,
    folder: PathBuf,
    arguments: Vec<String>,
    process: Mutex<Child>,
}

/// Returns the shared S3 server. It is stopped when the test process ends.
///
/// # Panics
/// When it is not installed or does not start.
pub fn shared_s3() -> &'static S3Server {
    static SERVER: OnceLock<S3Server> = OnceLock::new();
    SERVER.get_or_init(|| S3Server::start("shared"))
}

impl S3Server {
    /// `AWS_ACCESS_KEY_ID`
    pub const KEY: &'static str = "dozotest";
    /// `AWS_SECRET_ACCESS_KEY`
    pub const SECRET: &'static str = "dozotestsecret";
    /// A bucket that exists.
    pub const BUCKET: &'static str = "dozo-test";

    /// Starts a server of its own; it is stopped when the test process ends.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[must_use]
    pub fn start(name: &str) -> Self {
        Self::with_arguments(name, "http://127.0.0.1", vec![])
    }

    /// Starts a server of its own that speaks TLS only.
    ///
    /// # Panics
    /// As [`S3Server::start`].
    #[must_use]
    pub fn start_tls(name: &str, certificate: &Path, key: &Path) -> Self {
        let file = |flag: &str, path: &Path| format!("-s3.{flag}.file={}", path.display());
        Self::with_arguments(name, "https://localhost", vec![file("cert", certificate), file("key", key)])
    }

    fn with_arguments(name: &str, host: &str, mut arguments: Vec<String>) -> Self {
        let folder = std::env::temp_dir().join(format!("dozo-s3-{}-{name}", std::process::id()));
        fs::create_dir_all(folder.join("data")).expect("a temporary folder");
        let port = free_port();
        arguments.push(format!("-s3.port={port}"));
        for flag in
            ["-master.port", "-volume.port", "-filer.port", "-webdav.port", "-admin.port", "-s3.port.iceberg", "-s3.port.lance"]
        {
            arguments.push(format!("{flag}={}", free_port()));
        }
        let process = Mutex::new(spawn(&folder, &arguments));
        let endpoint = format!("{host}:{port}");
        let server = Self { endpoint, folder, arguments, process };
        server.wait();
        server
    }

    /// Kills the server as a power failure would (SIGKILL).
    ///
    /// # Panics
    /// When there is nothing to kill.
    pub fn kill(&self) {
        let mut process = self.process.lock().expect("no panic");
        process.kill().expect("it runs");
        process.wait().expect("it ends");
    }

    /// Starts a killed server again, on the same data and ports.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&self) {
        *self.process.lock().expect("no panic") = spawn(&self.folder, &self.arguments);
        self.wait();
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.make_bucket(Self::BUCKET, false) {
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "weed does not answer: {}", &log[log.len().saturating_sub(2000)..]);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Makes a bucket, with versions and object locks if asked for. Tells whether it is there.
    pub fn make_bucket(&self, bucket: &str, lock: bool) -> bool {
        let lock = format!("x-amz-bucket-object-lock-enabled:{lock}");
        matches!(self.request("PUT", bucket, &[&lock]).map(|(status, _)| status), Some(200 | 409))
    }

    /// Sends a signed request without a body, by Python's standard library: nothing of the code under test is used. Returns the status and
    /// the headers as `name: value` lines; `None` when there is no answer.
    #[must_use]
    pub fn request(&self, method: &str, path: &str, headers: &[&str]) -> Option<(u16, String)> {
        let script = r#"
import datetime, hashlib, hmac, ssl, sys, urllib.request
endpoint, key, secret, method, path, *more = sys.argv[1:]
host = endpoint.split("//")[1]
now = datetime.datetime.now(datetime.timezone.utc)
stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
empty = hashlib.sha256(b"").hexdigest()
headers = {"host": host, "x-amz-content-sha256": empty, "x-amz-date": stamp, **dict(h.split(":", 1) for h in more)}
names = ";".join(sorted(headers))
canonical = "".join(f"{n}:{headers[n]}\n" for n in sorted(headers))
request = f"{method}\n/{path}\n\n{canonical}\n{names}\n{empty}"
scope = f"{day}/us-east-1/s3/aws4_request"
text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
sign = lambda k, m: hmac.new(k, m.encode(), hashlib.sha256).digest()
k = sign(sign(sign(sign(b"AWS4" + secret.encode(), day), "us-east-1"), "s3"), "aws4_request")
signature = hmac.new(k, text.encode(), hashlib.sha256).hexdigest()
del headers["host"]
headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={names}, Signature={signature}"
r = urllib.request.Request(f"{endpoint}/{path}", method=method, headers=headers)
try:
    answer = urllib.request.urlopen(r, timeout=5, context=ssl._create_unverified_context() if endpoint.startswith("https") else None)
except urllib.error.HTTPError as e:
    answer = e
print(answer.status, answer.headers, sep="\n")
"#;
        let out = Command::new("python3")
            .args(["-c", script, &self.endpoint, Self::KEY, Self::SECRET, method, path])
            .args(headers)
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8(out.stdout).ok()?;
        let (status, headers) = text.split_once('\n')?;
        Some((status.parse().ok()?, headers.to_lowercase()))
    }
}

fn spawn(folder: &Path, arguments: &[String]) -> Child {
    let log = fs::File::options().create(true).append(true).open(folder.join("log")).expect("a log file");
    let mut command = Command::new(services().join("weed"));
    command
        .arg("mini")
        .arg(format!("-dir={}", folder.join("data").display()))
        .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", folder)
        .env("AWS_ACCESS_KEY_ID", S3Server::KEY)
        .env("AWS_SECRET_ACCESS_KEY", S3Server::SECRET)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log file"))
        .stderr(log)
        .process_group(0);
    let child = command.spawn().expect("weed starts");
    watch(child.id(), folder);
    child
}
