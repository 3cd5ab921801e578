//! Somebody is told: mail with TLS, webhooks, a command, heartbeats; tried again, not repeated, and never in the way of the job.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use dozo_testkit::{Database, HttpSink, MailServer, Received, shared};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Dozo, Place};
use crate::protocol::until;
use crate::tls::certificates;

fn source<'c>(name: &str) -> Database<'c> {
    let database = shared(15).database(name);
    database.psql("CREATE TABLE a AS SELECT i FROM generate_series(1, 100) i");
    database
}

fn told(database: &Database<'_>, receivers: &str) -> Dozo {
    let contacts = "[contacts]\nprimary = \"oncall@example.com\"\nescalation = \"03-1234-5678\"\n";
    Dozo::with_url(&database.url(), database.cluster, Place::Local, &format!("{contacts}{receivers}"))
}

fn json(received: &Received) -> Value {
    serde_json::from_str(&received.body).unwrap()
}

#[test]
fn mail_by_smtp_with_tls() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    certificates(f);
    let database = source("mail");
    for (starttls, scheme) in [(false, "smtps"), (true, "smtp")] {
        // The first attempt is put off.
        let server = MailServer::start(&f.join(scheme), &f.join("server.crt"), &f.join("server.key"), starttls, 1);
        let receiver = |ca: &str| {
            format!(
                "[notify.mail]\nsmtp = \"{scheme}://localhost:{}\"\nuser = \"{}\"\npassword = \"env:MAIL_PASSWORD\"\nfrom = \"dozo <dozo@example.com>\"\nto = [\"oncall@example.com\", \"当番 <toban@example.jp>\"]\nca-file = \"{}\"\ntimeout = \"5s\"",
                server.port,
                MailServer::USER,
                f.join(ca).display()
            )
        };
        let mut dozo = told(&database, &receiver("ca.crt"));
        dozo.set("MAIL_PASSWORD", MailServer::PASSWORD);
        let _ = dozo.run(&["backup", "shop"]).exits(0);
        assert!(server.letters().is_empty(), "nobody asked to hear of what went well");
        database.psql("DELETE FROM a");
        let run = dozo.run(&["backup", "shop"]).exits(4);
        database.psql("INSERT INTO a SELECT generate_series(1, 100)");
        assert!(!run.stderr.contains("was not told"), "{}", run.stderr);
        let letters = server.letters();
        assert_eq!(letters.len(), 1);
        for part in [
            "envelope: dozo@example.com -> oncall@example.com, toban@example.jp",
            "tls: True",
            "[dozo critical] backup on",
            "public.a is empty",
            "contact  primary: oncall@example.com",
            "contact  escalation: 03-1234-5678",
        ] {
            assert!(letters[0].replace("=\r\n", "").contains(part), "{part} in {}", letters[0]);
        }
        // A wrong password is not tried again, and changes nothing for the job.
        dozo.set("MAIL_PASSWORD", "wrong");
        dozo.reconfigure(|text| text.replace("[notify.mail]", "[notify.mail]\non = [\"info\"]"));
        let run = dozo.run(&["backup", "shop"]).exits(0);
        assert!(run.stderr.contains("mail was not told (1 attempts)") && run.stderr.contains("535"), "{}", run.stderr);
        assert!(!run.stderr.contains("wrong"), "{}", run.stderr);
        // Nor is it sent to a server that cannot be trusted.
        dozo.set("MAIL_PASSWORD", MailServer::PASSWORD);
        dozo.reconfigure(|text| text.replace("ca.crt", "other.crt"));
        let run = dozo.run(&["backup", "shop"]).exits(0);
        assert!(run.stderr.contains("was not told") && run.stderr.to_lowercase().contains("certificate"), "{}", run.stderr);
        assert_eq!(server.letters().len(), 1);
        dozo.reconfigure(|text| text.replace("other.crt", "ca.crt"));
        let test = dozo.run(&["notify", "--test"]).exits(0);
        assert!(test.stdout.contains("mail was told"), "{}", test.stdout);
        assert_eq!(server.letters().len(), 2);
    }
}

#[test]
fn webhooks_are_signed_and_tried_again() {
    let (slack, pager) = (HttpSink::start(), HttpSink::start());
    let database = source("webhooks");
    let receivers = "[notify.slack]\nwebhook = \"env:SLACK_URL\"\n[notify.pager]\non = [\"critical\"]\npost = \"env:PAGER_URL\"\nkey = \"file:pager.key\"";
    let mut dozo = told(&database, receivers);
    dozo.set("SLACK_URL", &format!("{}/services/T0/secret", slack.url));
    dozo.set("PAGER_URL", &format!("{}/hook", pager.url));
    let key = dozo.folder.path().join("pager.key");
    fs::write(&key, "open sesame\n").unwrap();
    Command::new("chmod").args(["600", &key.display().to_string()]).status().unwrap();
    pager.answer(&[503, 429]);
    slack.answer(&[500]);
    database.psql("CREATE ROLE nobody_webhooks LOGIN");
    dozo.set("SHOP_URL", &database.url_as("nobody_webhooks"));
    let run = dozo.run(&["backup", "shop"]).exits(1);
    assert!(!run.stderr.contains("was not told"), "{}", run.stderr);
    let (at_slack, at_pager) = (slack.take(), pager.take());
    assert_eq!((at_slack.len(), at_pager.len()), (2, 3), "after failures it is sent again");
    let last = at_pager.last().unwrap();
    let message = json(last);
    assert_eq!(
        (message["severity"].as_str(), message["job"].as_str(), &message["exit"]),
        (Some("critical"), Some("backup"), &1.into())
    );
    assert!(message["summary"].as_str().unwrap().starts_with("error[DOZO-E6012]"), "{message}");
    assert_eq!(message["contacts"]["primary"], "oncall@example.com");
    // Somebody else's HMAC.
    let signed = format!("{}.{}", last.header("x-dozo-timestamp").unwrap(), last.body);
    fs::write(dozo.folder.path().join("signed"), signed).unwrap();
    let out = Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", "open sesame", "signed"])
        .current_dir(dozo.folder.path())
        .output()
        .unwrap();
    let expected = String::from_utf8(out.stdout).unwrap();
    let expected = expected.trim().rsplit(' ').next().unwrap();
    assert_eq!(last.header("x-dozo-signature").unwrap(), format!("sha256={expected}"));
    let text = json(&at_slack[1])["text"].as_str().unwrap().to_owned();
    assert!(text.contains("[dozo critical] backup on") && text.contains("contact  escalation"), "{text}");
    // The same within the hour is not sent again; something else is.
    let _ = dozo.run(&["backup", "shop"]).exits(1);
    assert!(slack.take().is_empty() && pager.take().is_empty());
    dozo.set("SHOP_URL", "postgres://postgres@127.0.0.1:1/gone");
    let _ = dozo.run(&["backup", "shop"]).exits(1);
    assert_eq!((slack.take().len(), pager.take().len()), (1, 1));
    // A receiver that refuses for good is not asked again; no URL and no key is in what is said.
    dozo.set("SHOP_URL", &database.url());
    dozo.reconfigure(|text| text.replace("on = [\"critical\"]", "on = [\"info\"]"));
    pager.answer(&[403]);
    let run = dozo.run(&["backup", "shop"]).exits(0);
    assert!(run.stderr.contains("pager was not told (1 attempts): the server answered 403"), "{}", run.stderr);
    for secret in ["services/T0", "sesame", "/hook"] {
        assert!(!run.stderr.contains(secret), "{}", run.stderr);
    }
    let run = dozo.run(&["--quiet", "--no-notify", "backup", "shop"]).exits(0);
    assert_eq!((run.stderr.as_str(), pager.take().len()), ("", 1));
    Command::new("chmod").args(["644", &key.display().to_string()]).status().unwrap();
    let run = dozo.run(&["notify", "--test", "pager"]).exits(1);
    assert!(run.stderr.contains("chmod 600"), "{}", run.stderr);
    let listed = dozo.run(&["notify"]).exits(0).stdout;
    assert!(listed.contains("slack  webhook") && listed.contains("pager  signed post"), "{listed}");
    let run = dozo.run(&["notify", "--test", "nobody"]).exits(2);
    assert!(run.stderr.contains("DOZO-E1015") && run.stderr.contains("slack, pager"), "{}", run.stderr);
}

#[test]
fn heartbeats_and_commands() {
    let monitor = HttpSink::start();
    let database = source("heartbeats");
    let receivers = format!(
        "[notify.night]\njobs = [\"backup\"]\nheartbeat = \"{0}/up\"\nheartbeat-failed = \"{0}/down\"\n[notify.weekly]\njobs = [\"verify\"]\nheartbeat = \"{0}/verified\"\n[notify.log]\non = [\"info\", \"critical\"]\ncommand = [\"sh\", \"-c\", \"cat > told.json; echo $DOZO_SEVERITY $DOZO_JOB $DOZO_EXIT >> told.txt\"]",
        monitor.url
    );
    let mut dozo = told(&database, &receivers);
    let lines = |sink: &HttpSink| sink.take().into_iter().map(|r| r.line).collect::<Vec<_>>();
    let _ = dozo.run(&["--quiet", "backup", "shop"]).exits(0);
    let _ = dozo.run(&["verify", "latest"]).exits(0);
    assert_eq!(lines(&monitor), ["GET /up HTTP/1.1", "GET /verified HTTP/1.1"]);
    // What people do by hand is nobody's news.
    let _ = dozo.run(&["list"]).exits(0);
    let _ = dozo.run(&["retention", "plan"]).exits(0);
    dozo.set("SHOP_URL", "postgres://postgres@127.0.0.1:1/gone");
    let _ = dozo.run(&["backup", "shop"]).exits(1);
    assert_eq!(lines(&monitor), ["GET /down HTTP/1.1"]);
    let said = fs::read_to_string(dozo.folder.path().join("told.txt")).unwrap();
    assert_eq!(said, "info backup 0\ninfo verify 0\ncritical backup 1\n");
    let message: Value = serde_json::from_slice(&fs::read(dozo.folder.path().join("told.json")).unwrap()).unwrap();
    assert!(message["summary"].as_str().unwrap().contains("DOZO-E2104"), "{message}");
    // A source that fell silent, told by the job that looks.
    let _ = dozo.run(&["--now", "2031-01-01T00:00:00Z", "status", "--notify"]).exits(0);
    let message: Value = serde_json::from_slice(&fs::read(dozo.folder.path().join("told.json")).unwrap()).unwrap();
    assert_eq!((message["severity"].as_str(), message["job"].as_str()), (Some("critical"), Some("status")));
    assert!(message["summary"].as_str().unwrap().contains("its newest good backup is"), "{message}");
}

/// Whoever does not answer holds the job up no longer than its timeout; all are waited for at the same time.
#[test]
fn a_dead_receiver_delays_by_its_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let database = source("dead");
    let receivers = format!(
        "[notify.a]\non = [\"info\"]\npost = \"http://{address}/x\"\nkey = \"env:KEY\"\ntimeout = \"2s\"\n[notify.b]\non = [\"info\"]\nsmtp = \"smtp-plain://{}:{}\"\nfrom = \"a@example.com\"\nto = [\"b@example.com\"]\ntimeout = \"2s\"\n[notify.c]\non = [\"info\"]\ncommand = [\"sleep\", \"60\"]\ntimeout = \"2s\"\n[notify.d]\non = [\"info\"]\npost = \"http://127.0.0.1:1/x\"\nkey = \"env:KEY\"\ntimeout = \"2s\"",
        address.ip(),
        address.port()
    );
    let mut dozo = told(&database, &receivers);
    dozo.set("KEY", "k");
    let began = Instant::now();
    let _ = dozo.run(&["--no-notify", "backup", "shop"]).exits(0);
    let usual = began.elapsed();
    let began = Instant::now();
    let run = dozo.run(&["backup", "shop"]).exits(0);
    let took = began.elapsed();
    assert!(took < usual * 3 + Duration::from_secs(5), "{took:?} instead of {usual:?}");
    for name in ["a", "b", "c", "d"] {
        assert!(run.stderr.contains(&format!("warning: {name} was not told")), "{}", run.stderr);
    }
    assert!(run.stderr.contains("no answer within 2.0 s"), "{}", run.stderr);
    let test = dozo.run(&["--json", "notify", "--test", "d"]).exits(1).json();
    assert_eq!(test[0]["outcome"], "failed");
    assert!(test[0]["attempts"].as_u64().unwrap() > 1, "{test}");
}

/// A supervisor that has waited long enough ends the job: somebody hears of that. Whoever presses Ctrl-C knows.
#[test]
fn a_job_that_was_terminated_is_told_of() {
    let sink = HttpSink::start();
    let shop = shared(15).shop("0.1");
    let mut dozo = told(&shop, "[notify.slack]\nwebhook = \"env:SLACK_URL\"");
    dozo.set("SLACK_URL", &sink.url);
    for (signal, messages) in [(Signal::TERM, 1), (Signal::INT, 0)] {
        let mut child = dozo.command(&["backup", "shop", "--full", "--rate", "1MB"]).spawn().unwrap();
        until("a worker", || {
            shop.psql(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dozo worker' AND datname = current_database()",
            ) != "0"
        });
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        let received = sink.take();
        assert_eq!(received.len(), messages, "{signal:?}: {received:?}");
        for message in received {
            assert!(message.body.contains("exit 130") && message.body.contains("[dozo critical] backup"), "{}", message.body);
        }
    }
}
