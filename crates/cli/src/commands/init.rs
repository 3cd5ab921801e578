//! `dozo init`: writes an annotated configuration file, after looking at the database if it is told where.

use std::io::Write as _;

use dozo_engine::{ArchiveDraft, Draft, UrlRef, inspect_for_init};
use dozo_model::{human_bytes, human_count};

use super::{Outcome, Session};
use crate::args::Init;
use crate::error::{CliError, Usage};

pub(super) async fn run(session: &Session, args: Init) -> Outcome {
    let draft = match &args.from {
        Some(from) => {
            let base = std::env::current_dir().unwrap_or_default();
            let url = UrlRef::parse(from, &base)?;
            Some((from.clone(), inspect_for_init(&url).await?))
        }
        None => None,
    };
    let name = args.name.clone().unwrap_or_else(|| source_name(draft.as_ref().map_or("shop", |(_, d)| &d.database)));
    let text = render(&name, &args.repository, draft.as_ref());
    let failed = |reason: String, next: &str| {
        CliError::Usage(Usage::InitFile, format!("{} cannot be written: {reason}", args.file.display()), next.into())
    };
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&args.file).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => failed("it exists".into(), "name another file, or remove this one"),
        _ => failed(e.to_string(), "check the path and its permissions"),
    })?;
    file.write_all(text.as_bytes()).map_err(|e| failed(e.to_string(), "check the path and its permissions"))?;
    let value = serde_json::json!({ "file": args.file, "source": name, "database": draft.as_ref().map(|(_, d)| d) });
    session
        .output
        .result(&value, || format!("wrote {}\n  next: dozo --config {} check", args.file.display(), args.file.display()))?;
    Ok(0)
}

/// Makes a source's name of a database's.
fn source_name(database: &str) -> String {
    let name: String = database
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_' { c } else { '-' })
        .collect();
    let name = name.trim_start_matches(['-', '_']);
    if name.is_empty() { "database".into() } else { name.chars().take(63).collect() }
}

/// Returns the host's time zone by name.
fn host_time_zone() -> String {
    jiff::tz::TimeZone::system().iana_name().unwrap_or("UTC").to_owned()
}

fn render(name: &str, repository: &str, draft: Option<&(String, Draft)>) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let url = draft.map_or_else(|| "env:SHOP_URL".to_owned(), |(from, _)| from.clone());
    let mut found = String::new();
    if let Some((_, d)) = draft {
        found.push_str(&format!(
            "# Found in database {} (Postgres {}, time zone {}), largest first:\n",
            d.database.replace('\n', " "),
            d.version,
            d.time_zone
        ));
        for (table, leaves, bytes, rows) in &d.tables {
            let partitions = if *leaves > 0 { format!(", {leaves} partitions") } else { String::new() };
            found.push_str(&format!(
                "#   {}: {}, about {} rows{partitions}\n",
                table.to_string().replace('\n', " "),
                human_bytes(*bytes),
                human_count(*rows)
            ));
        }
    }
    let archives: String = draft.iter().flat_map(|(_, d)| &d.archives).map(|a| archive(name, a)).collect();
    format!(
        r#"# Configuration of dozo. Every key: docs/config.toml. Relative paths count from this file's folder.

# Calendar of the retention tiers: written from this host.
time-zone = {zone}

# Where backups go: file:///folder, or s3://bucket/prefix (with endpoint, region, path-style, profile).
[repository]
url = {repository}

{found}[source.{name}]
kind = "postgres"
# env:NAME or file:PATH (mode 0600), never a password in here.
url = {url}
# Patterns of schema.table with * and ?. Without include: every table.
# include = ["public.*"]
# exclude = ["*.tmp_*"]
# Client programs: "auto", a folder, or a command in front such as ["docker", "compose", "exec", "-T", "postgres"].
pg-tools = "auto"
{archives}"#,
        zone = quoted(&host_time_zone()),
        repository = quoted(repository),
        url = quoted(&url),
    )
}

/// Proposes an archive job: nothing leaves a database because somebody ran `init`.
fn archive(source: &str, draft: &ArchiveDraft) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let granularity =
        if draft.granularity == "month" { String::new() } else { format!("# granularity = \"{}\"\n", draft.granularity) };
    format!(
        "\n# {} partitions by {}: old ones can leave for Parquet, proven. Take the # away, then: dozo archive plan\n\
         # [archive.{}]\n# source = {}\n# table = {}\n# column = {}\n# older-than = \"12 months\"\n# then = \"quarantine\"\n\
         {granularity}# time-zone = {}\n",
        draft.partitions,
        draft.granularity,
        source_name(&draft.table.name),
        quoted(source),
        quoted(&draft.table.to_string()),
        quoted(&draft.column),
        quoted(&draft.time_zone),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_init_writes_parses() {
        let text = render("shop", "file:///r \"x\"", None);
        let config = crate::config::Config::parse(std::path::Path::new("/x/dozo.toml"), &text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(config.names()[0].as_str(), "shop");
        assert_eq!(source_name("_Shop DB"), "shop-db");
        assert_eq!(source_name("注文"), "database");
    }
}
