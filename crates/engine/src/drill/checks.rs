//! What is looked at beside rows and definitions: `pg_amcheck`, and checks of one's own.
//!
//! *Invariant*: a check that could not run is not green, and is named. Commands get the connection and nothing of the repository.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use dozo_model::{DrillScope, Verdict, human_duration};
use dozo_postgres::{ClientEnvironment, Session, ask};
use tokio::process::Command;

use super::database::Place;
use super::job::{CheckKind, OwnCheck};
use super::place::MARK;
use super::{Bench, Draft};
use crate::context::SourceSettings;
use crate::error::chain;
use crate::process::{Listener, Running};
use crate::{EngineError, Result};

/// `pg_amcheck` reads every table and index.
const AMCHECK_WITHIN: Duration = Duration::from_secs(6 * 3600);
/// It has found something (`pg_amcheck.c`).
const CORRUPT: i32 = 2;
/// Characters of an answer that a message quotes.
const QUOTED: usize = 200;

impl Bench<'_> {
    /// Looks at a restored database.
    pub(super) async fn checks(&self, draft: &mut Draft, place: &Place, session: &Session) -> Result<()> {
        if self.job.amcheck {
            self.amcheck(draft, place).await?;
        } else {
            draft.item.not_checked.push("pg_amcheck: switched off".into());
        }
        self.own_checks(draft, Some((place, session)), Path::new("/")).await
    }

    /// Lets `pg_amcheck` look at every heap and every B-tree, each entry of the heap in its indexes.
    async fn amcheck(&self, draft: &mut Draft, place: &Place) -> Result<()> {
        let name = "pg_amcheck";
        let program = place.programs.as_ref().map(|folder| folder.join(name)).filter(|p| p.is_file());
        let Some(program) = program else {
            draft.check(name, Verdict::NotRun, "the program is not there");
            return Ok(());
        };
        let environment = ClientEnvironment::of(&place.info).map_err(EngineError::Output)?;
        let mut command = Command::new(program);
        command.args(["--no-password", "--install-missing", "--heapallindexed", "--jobs"]).arg(self.job.workers.to_string());
        command.arg("--database").arg(&place.info.database);
        let ended = self.run(&mut command, &environment.variables, AMCHECK_WITHIN).await;
        match ended {
            Ok(Ended { code: Some(0), .. }) => {
                draft.check(name, Verdict::Passed, "every heap and B-tree, every row in its indexes");
            }
            Ok(Ended { code: Some(CORRUPT), said }) => draft.check(name, Verdict::Failed, said),
            Ok(Ended { said, .. }) | Err(said) => {
                // On a test server a role may not be allowed to; on our own it must run.
                draft.stopped |= place.is_own();
                draft.check(name, Verdict::NotRun, said);
            }
        }
        Ok(())
    }

    /// Runs the checks of one's own that are about this item.
    pub(super) async fn own_checks(&self, draft: &mut Draft, database: Option<(&Place, &Session)>, folder: &Path) -> Result<()> {
        for check in &self.job.checks {
            // Around an archived partition there are definitions, and no rows.
            let whole = draft.item.scope != DrillScope::Archive;
            let about = whole
                && match &check.source {
                    // The databases of a server are sources of their own.
                    Some(source) => SourceSettings::of(self.sources, &draft.item.source).is_some_and(|s| &s.name == source),
                    // A question is for databases; a command may be for either.
                    None => database.is_some() || matches!(check.kind, CheckKind::Command(_)),
                };
            if about {
                self.own_check(draft, check, database, folder).await?;
            }
        }
        Ok(())
    }

    async fn own_check(
        &self,
        draft: &mut Draft,
        check: &OwnCheck,
        database: Option<(&Place, &Session)>,
        folder: &Path,
    ) -> Result<()> {
        let short = |text: &str| text.chars().take(QUOTED).collect::<String>();
        match (&check.kind, database) {
            (CheckKind::Query { query, expect }, Some((_, session))) => match ask(session, query, check.timeout).await {
                Ok(found) if found.trim() == expect.trim() => draft.check(&check.name, Verdict::Passed, short(&found)),
                Ok(found) => {
                    let text = format!("`{}` instead of `{}`", short(&found), short(expect));
                    draft.check(&check.name, Verdict::Failed, text);
                }
                // Whoever wrote the question, or the restored database, is wrong: neither is green.
                Err(e) => {
                    draft.stopped = true;
                    draft.check(&check.name, Verdict::NotRun, chain(&e));
                }
            },
            (CheckKind::Query { .. }, None) => {
                draft.stopped = true;
                draft.check(&check.name, Verdict::NotRun, "a query is for databases");
            }
            (CheckKind::Command(words), _) => {
                let mut command = Command::new(words.first().map_or("", String::as_str));
                command.args(words.iter().skip(1));
                let environment = match database {
                    Some((place, _)) => Some(ClientEnvironment::of(&place.info).map_err(EngineError::Output)?),
                    None => None,
                };
                let mut variables = environment.as_ref().map(|e| e.variables.clone()).unwrap_or_default();
                if database.is_none() {
                    variables.push(("DOZO_DRILL_FOLDER".into(), folder.display().to_string()));
                }
                variables.push(("DOZO_SOURCE".into(), draft.item.source.to_string()));
                let ended = self.run(&mut command, &variables, check.timeout).await;
                match ended {
                    Ok(Ended { code: Some(0), .. }) => draft.check(&check.name, Verdict::Passed, "it succeeded"),
                    Ok(Ended { said, .. }) => draft.check(&check.name, Verdict::Failed, said),
                    Err(why) => {
                        draft.stopped = true;
                        draft.check(&check.name, Verdict::NotRun, why);
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs a command to its end. The error says why there was none.
    async fn run(
        &self,
        command: &mut Command,
        variables: &[(String, String)],
        within: Duration,
    ) -> std::result::Result<Ended, String> {
        let kept = ["PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH"];
        let kept = kept.into_iter().filter_map(|k| Some((k.to_owned(), std::env::var(k).ok()?)));
        let told = variables.iter().cloned().chain([(MARK.to_owned(), self.work.name().to_owned())]);
        let environment: BTreeMap<String, String> = kept.chain(told).collect();
        command.env_clear().envs(environment).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = Running::start(command, Stdio::null()).map_err(|e| format!("it cannot be started: {e}"))?;
        let (out, err) = (Listener::out(running.child.stdout.take()), Listener::to(running.child.stderr.take()));
        let status = tokio::time::timeout(within, running.wait())
            .await
            .map_err(|_| format!("it did not end within {}", human_duration(within)))?
            .map_err(|e| e.to_string())?;
        let (out, err) = (out.said().await, err.said().await);
        let said: Vec<&str> = [out.trim(), err.trim()].into_iter().filter(|s| !s.is_empty()).collect();
        let said = if said.is_empty() { status.to_string() } else { format!("{status}: {}", said.join(" / ")) };
        Ok(Ended { code: status.code(), said })
    }
}

/// How a command ended.
struct Ended {
    code: Option<i32>,
    said: String,
}
