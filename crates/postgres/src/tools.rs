//! `pg_dump`, `pg_restore`, `pg_dumpall`: found, checked for their version, run without secrets in their arguments.
//!
//! A child gets a minimal environment: a `PATH`, a `PGPASSFILE` of mode 0600 that lives as long as the child, and libpq's
//! TLS settings. It never gets the repository's credentials. It dies with dozo.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::conninfo::ConnInfo;
use crate::error::PgError;
use crate::script::{SchemaScript, Section};

/// `pg-tools` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// Search `PATH` and the usual version folders; take the newest that is not older than the server.
    #[default]
    Auto,
    /// This folder.
    Folder(PathBuf),
    /// A command in front, such as `docker compose exec -T postgres`. It runs where the server runs: it gets the user and
    /// the database, and neither host nor password.
    Wrapper(Vec<String>),
}

/// Found programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgTools {
    prefix: Vec<String>,
    folder: Option<PathBuf>,
    /// Major version.
    pub major: u32,
}

/// Where packages put one folder per major version.
pub(crate) fn usual_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default();
    for (parent, inner) in
        [("/usr/lib/postgresql", "bin"), ("/usr/local/pgsql", "bin"), ("/opt/homebrew/opt", "bin"), ("/usr", "bin")]
    {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            folders.push(entry.path().join(inner));
        }
        folders.push(Path::new(parent).join(inner));
    }
    folders
}

impl PgTools {
    /// Finds the programs for a server of this version.
    ///
    /// # Errors
    /// [`PgError::Tool`] when there are none, or only older ones.
    pub async fn find(choice: &ToolChoice, server_version_num: u32) -> Result<Self, PgError> {
        let server = server_version_num / 10_000;
        let candidates: Vec<(Vec<String>, Option<PathBuf>)> = match choice {
            ToolChoice::Folder(folder) => vec![(vec![], Some(folder.clone()))],
            ToolChoice::Wrapper(prefix) => vec![(prefix.clone(), None)],
            ToolChoice::Auto => usual_folders()
                .into_iter()
                .filter(|f| f.join("pg_dump").is_file() && f.join("pg_restore").is_file())
                .map(|f| (vec![], Some(f)))
                .collect(),
        };
        let mut best: Option<Self> = None;
        let mut seen = Vec::new();
        for (prefix, folder) in candidates {
            let mut tools = Self { prefix, folder, major: 0 };
            match tools.version().await {
                Ok(major) => {
                    tools.major = major;
                    seen.push(major.to_string());
                    if major >= server && best.as_ref().is_none_or(|b| b.major < major) {
                        best = Some(tools);
                    }
                }
                Err(e) if *choice != ToolChoice::Auto => return Err(e),
                Err(_) => {}
            }
        }
        best.ok_or_else(|| PgError::Tool {
            program: "pg_dump".into(),
            reason: if seen.is_empty() {
                "it is in none of the usual folders".into()
            } else {
                format!("found version {}, the server has {server}", seen.join(", "))
            },
        })
    }

    /// Returns where the programs are, for people.
    #[must_use]
    pub fn location(&self) -> String {
        self.folder.as_ref().map_or_else(|| self.prefix.join(" "), |f| f.display().to_string())
    }

    /// Returns the folder of the programs, where they are on this machine.
    #[must_use]
    pub fn folder(&self) -> Option<PathBuf> {
        self.folder.clone()
    }

    fn command(&self, program: &str) -> (Command, String) {
        let program = match &self.folder {
            Some(folder) => folder.join(program).display().to_string(),
            None => program.to_owned(),
        };
        let mut words = self.prefix.iter().cloned().chain([program.clone()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).env_clear().kill_on_drop(true);
        for (name, value) in std::env::vars_os() {
            // A wrapper such as docker needs its own variables; nobody needs those of the repository.
            let name_text = name.to_string_lossy();
            let keep = matches!(&*name_text, "PATH" | "HOME" | "USER" | "TMPDIR" | "LD_LIBRARY_PATH")
                || !self.prefix.is_empty() && name_text.starts_with("DOCKER_");
            if keep {
                command.env(name, value);
            }
        }
        command.env("LC_ALL", "C").env("PGAPPNAME", "dozo pg_dump");
        (command, program)
    }

    async fn version(&self) -> Result<u32, PgError> {
        let (mut command, program) = self.command("pg_dump");
        let unusable = |reason: String| PgError::Tool { program: program.clone(), reason };
        let out = command.arg("--version").stdin(Stdio::null()).output().await.map_err(|e| unusable(e.to_string()))?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        // "pg_dump (PostgreSQL) 15.18 (Debian …)"
        let number = text.split_whitespace().nth(2).unwrap_or_default();
        let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().map_err(|_| unusable(format!("`--version` printed `{}`", text.trim())))
    }

    async fn run(
        &self,
        program: &str,
        args: &[String],
        info: Option<&ConnInfo>,
        input: Option<&[u8]>,
    ) -> Result<Vec<u8>, PgError> {
        let (mut command, name) = self.command(program);
        command.args(args);
        let mut passfile = None;
        if let Some(info) = info {
            if self.folder.is_none() {
                command.arg(format!("--username={}", info.user)).arg(format!("--dbname={}", info.database));
            } else {
                command.arg(format!("--dbname={}", conninfo(info)));
                command.env("PGSSLMODE", info.ssl_mode.as_str()).env("PGTARGETSESSIONATTRS", &info.target_session_attrs);
                if let Some(cert) = &info.ssl_root_cert {
                    command.env("PGSSLROOTCERT", cert);
                }
                if let Some(password) = &info.password {
                    let file =
                        write_passfile(password).map_err(|e| PgError::Tool { program: name.clone(), reason: e.to_string() })?;
                    command.env("PGPASSFILE", file.path());
                    passfile = Some(file);
                }
            }
            command.arg("--no-password");
        }
        let io = |e: std::io::Error| PgError::Tool { program: name.clone(), reason: e.to_string() };
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(io)?;
        let feed = child.stdin.take();
        let feeding = async {
            if let (Some(mut pipe), Some(bytes)) = (feed, input) {
                // A child that stops reading says why on its error output.
                let _ = pipe.write_all(bytes).await;
            }
        };
        let (out, ()) = tokio::join!(child.wait_with_output(), feeding);
        let out = out.map_err(io)?;
        drop(passfile);
        if out.status.success() {
            return Ok(out.stdout);
        }
        let stderr = String::from_utf8_lossy(&out.stderr);
        let mut lines: Vec<&str> =
            stderr.lines().filter(|l| l.contains("error") || l.contains("FATAL") || l.contains("detail")).collect();
        if lines.is_empty() {
            lines = stderr.lines().collect();
        }
        let last = lines.len().saturating_sub(3);
        Err(PgError::ToolFailed { program: name, status: out.status.to_string(), stderr: lines[last..].join("; ") })
    }

    /// Dumps the schema in the custom format, as an exported snapshot shows it.
    ///
    /// # Errors
    /// [`PgError::ToolFailed`] with pg_dump's own words.
    pub async fn dump_schema(
        &self,
        info: &ConnInfo,
        snapshot: &str,
        exclude: &[String],
        lock_timeout_ms: u128,
    ) -> Result<Vec<u8>, PgError> {
        let mut args = schema_only(snapshot, lock_timeout_ms);
        args.extend(exclude.iter().map(|pattern| format!("--exclude-table={pattern}")));
        self.run("pg_dump", &args, Some(info), None).await
    }

    /// Dumps the definitions of tables alone, in the custom format, as an exported snapshot shows them.
    ///
    /// # Errors
    /// [`PgError::ToolFailed`] with pg_dump's own words.
    pub async fn dump_tables(
        &self,
        info: &ConnInfo,
        snapshot: &str,
        tables: &[String],
        lock_timeout_ms: u128,
    ) -> Result<Vec<u8>, PgError> {
        let mut args = schema_only(snapshot, lock_timeout_ms);
        args.extend(tables.iter().map(|pattern| format!("--table={pattern}")));
        self.run("pg_dump", &args, Some(info), None).await
    }

    /// Turns a custom dump into SQL. With `annotated`, every entry is headed by its number and dependencies.
    ///
    /// # Errors
    /// [`PgError::ToolFailed`] when the dump is damaged.
    pub async fn dump_to_sql(
        &self,
        dump: &[u8],
        section: Option<&str>,
        options: &[String],
        annotated: bool,
    ) -> Result<String, PgError> {
        let mut args: Vec<String> = options.to_vec();
        args.extend(section.map(|s| format!("--section={s}")));
        if annotated {
            args.push("--verbose".into());
        }
        args.push("--file=-".into());
        let out = self.run("pg_restore", &args, None, Some(dump)).await?;
        String::from_utf8(out).map_err(|e| PgError::Tool { program: "pg_restore".into(), reason: e.to_string() })
    }

    /// Takes both sections of a custom dump apart into their entries.
    ///
    /// # Errors
    /// [`PgError::ToolFailed`] when the dump is damaged.
    pub async fn schema_script(&self, dump: &[u8], options: &[String]) -> Result<SchemaScript, PgError> {
        let mut script = SchemaScript::default();
        for (section, word) in [(Section::PreData, "pre-data"), (Section::PostData, "post-data")] {
            script.add(&self.dump_to_sql(dump, Some(word), options, true).await?, section);
        }
        Ok(script)
    }

    /// Dumps roles and tablespaces, without passwords.
    ///
    /// # Errors
    /// [`PgError::ToolFailed`], as on servers that hide their roles.
    pub async fn dump_globals(&self, info: &ConnInfo) -> Result<Vec<u8>, PgError> {
        let args = ["--globals-only", "--no-role-passwords"].map(str::to_owned);
        let mut args = args.to_vec();
        args.push(format!("--database={}", info.database));
        self.run("pg_dumpall", &args, Some(info), None).await
    }
}

/// What a client program that is not ours needs in its environment to connect: no secret stands in its arguments.
#[derive(Debug)]
pub struct ClientEnvironment {
    /// Variables of libpq, and `DATABASE_URL` without a password.
    pub variables: Vec<(String, String)>,
    /// Goes when this does.
    _passfile: Option<tempfile::NamedTempFile>,
}

impl ClientEnvironment {
    /// Describes a connection.
    ///
    /// # Errors
    /// When the file with the password cannot be written.
    pub fn of(info: &ConnInfo) -> std::io::Result<Self> {
        let (host, port) = info.hosts.first().cloned().unwrap_or_default();
        let encoded = |text: &str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
            text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect::<String>()
        };
        let url = format!("postgresql://{}@{}:{port}/{}", encoded(&info.user), encoded(&host), encoded(&info.database));
        let mut variables: Vec<(String, String)> = [
            ("PGHOST", host),
            ("PGPORT", port.to_string()),
            ("PGUSER", info.user.clone()),
            ("PGDATABASE", info.database.clone()),
            ("PGSSLMODE", info.ssl_mode.as_str().to_owned()),
            ("DATABASE_URL", url),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        variables.extend(info.ssl_root_cert.iter().map(|cert| ("PGSSLROOTCERT".to_owned(), cert.clone())));
        let passfile = info.password.as_deref().map(write_passfile).transpose()?;
        variables.extend(passfile.as_ref().map(|f| ("PGPASSFILE".to_owned(), f.path().display().to_string())));
        Ok(Self { variables, _passfile: passfile })
    }
}

/// Arguments of a pg_dump of definitions.
fn schema_only(snapshot: &str, lock_timeout_ms: u128) -> Vec<String> {
    vec![
        "--schema-only".to_owned(),
        "--format=custom".to_owned(),
        "--encoding=UTF8".to_owned(),
        // A subscription's connection text holds a password.
        "--no-subscriptions".to_owned(),
        format!("--snapshot={snapshot}"),
        format!("--lock-wait-timeout={lock_timeout_ms}"),
    ]
}

fn conninfo(info: &ConnInfo) -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let hosts: Vec<&str> = info.hosts.iter().map(|(h, _)| h.as_str()).collect();
    let ports: Vec<String> = info.hosts.iter().map(|(_, p)| p.to_string()).collect();
    format!(
        "host={} port={} user={} dbname={}",
        quote(&hosts.join(",")),
        quote(&ports.join(",")),
        quote(&info.user),
        quote(&info.database)
    )
}

fn write_passfile(password: &str) -> std::io::Result<tempfile::NamedTempFile> {
    // NamedTempFile is created with mode 0600.
    let mut file = tempfile::NamedTempFile::new()?;
    let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
    writeln!(file, "*:*:*:*:{escaped}")?;
    Ok(file)
}
