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
    ports: Vec<String>,
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
        let folder = std::env::temp_dir().join(format!("dozo-s3-{}-{name}", std::process::id()));
        fs::create_dir_all(folder.join("data")).expect("a temporary folder");
        let port = free_port();
        let mut ports = vec![format!("-s3.port={port}")];
        for flag in ["-master.port", "-volume.port", "-filer.port", "-webdav.port", "-admin.port", "-s3.port.iceberg"] {
            ports.push(format!("{flag}={}", free_port()));
        }
        let process = Mutex::new(spawn(&folder, &ports));
        let endpoint = format!("http://127.0.0.1:{port}");
        let server = Self { endpoint, folder, ports, process };
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
        *self.process.lock().expect("no panic") = spawn(&self.folder, &self.ports);
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

    /// Makes a bucket, with versions and object locks if asked for: a signed PUT by Python's standard library. Tells whether it is there.
    pub fn make_bucket(&self, bucket: &str, lock: bool) -> bool {
        let script = r#"
import datetime, hashlib, hmac, sys, urllib.request
endpoint, key, secret, bucket, lock = sys.argv[1:6]
host = endpoint.split("//")[1]
now = datetime.datetime.now(datetime.timezone.utc)
stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
empty = hashlib.sha256(b"").hexdigest()
signed = "host;x-amz-bucket-object-lock-enabled;x-amz-content-sha256;x-amz-date"
request = f"PUT\n/{bucket}\n\nhost:{host}\nx-amz-bucket-object-lock-enabled:{lock}\nx-amz-content-sha256:{empty}\nx-amz-date:{stamp}\n\n{signed}\n{empty}"
scope = f"{day}/us-east-1/s3/aws4_request"
text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
sign = lambda k, m: hmac.new(k, m.encode(), hashlib.sha256).digest()
k = sign(sign(sign(sign(b"AWS4" + secret.encode(), day), "us-east-1"), "s3"), "aws4_request")
auth = f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={signed}, Signature={hmac.new(k, text.encode(), hashlib.sha256).hexdigest()}"
r = urllib.request.Request(f"{endpoint}/{bucket}", method="PUT", headers={"x-amz-date": stamp, "x-amz-content-sha256": empty, "Authorization": auth, "x-amz-bucket-object-lock-enabled": lock})
try:
    urllib.request.urlopen(r, timeout=5)
except urllib.error.HTTPError as e:
    sys.exit(0 if e.code == 409 else 1)
except Exception:
    sys.exit(1)
"#;
        let made = Command::new("python3")
            .args(["-c", script, &self.endpoint, Self::KEY, Self::SECRET, bucket, if lock { "true" } else { "false" }])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        made.is_ok_and(|s| s.success())
    }
}

fn spawn(folder: &Path, ports: &[String]) -> Child {
    let log = fs::File::options().create(true).append(true).open(folder.join("log")).expect("a log file");
    let mut command = Command::new(services().join("weed"));
    command
        .arg("mini")
        .arg(format!("-dir={}", folder.join("data").display()))
        .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
        .args(ports)
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
