//! Object locks, on a bucket that keeps versions: nobody deletes what a tier keeps, and what somebody puts over it hides nothing from us.

use std::process::Command;

use dozo_testkit::{Database, S3Server, services, shared, shared_s3};
use serde_json::Value;

use crate::harness::{Dozo, Place, fresh};

/// Runs Python with boto3: `s3` is a client, `bucket` and `prefix` are set; what it prints is JSON.
pub(crate) fn boto3(bucket: &str, prefix: &str, script: &str) -> Value {
    let head = "import boto3, json, sys\nfrom botocore.exceptions import ClientError\nendpoint, key, secret, bucket, prefix = sys.argv[1:]\n\
                s3 = boto3.client('s3', endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret, region_name='us-east-1')\n\
                def versions():\n    found = s3.list_object_versions(Bucket=bucket, Prefix=prefix)\n    return found.get('Versions', []), found.get('DeleteMarkers', [])\n";
    let out = Command::new(services().join("venv/bin/python"))
        .args(["-c", &format!("{head}{script}"), &shared_s3().endpoint, S3Server::KEY, S3Server::SECRET, bucket, prefix])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// A repository in a bucket with locks, which must be enforced by the server: otherwise this machine cannot test them.
fn locked(database: &Database<'_>, retention: &str) -> (Dozo, String) {
    let bucket = format!("locks-{}", fresh().replace('_', "-"));
    assert!(shared_s3().make_bucket(&bucket, true));
    let dozo = Dozo::with_url(&database.url(), database.cluster, Place::S3, &format!("retention = {retention}"));
    dozo.reconfigure(|text| text.replace(&format!("s3://{}/", S3Server::BUCKET), &format!("s3://{bucket}/")));
    dozo.add_to_repository("[repository.lock]\nmode = \"compliance\"");
    let check = dozo.run(&["backup", "shop"]).exits(0);
    assert!(!check.stderr.contains("lock"), "{}", check.stderr);
    let marker = boto3(
        &bucket,
        dozo.prefix(),
        "print(s3.get_object(Bucket=bucket, Key=prefix + '/dozo-repository.json')['Body'].read().decode())",
    );
    assert_eq!(marker["capabilities"]["object-lock"], "yes", "the server does not enforce locks: unsuitable for this test");
    (dozo, bucket)
}

const LOCKS: &str = "found = {}\nfor v in versions()[0]:\n    try:\n        r = s3.get_object_retention(Bucket=bucket, Key=v['Key'], VersionId=v['VersionId'])['Retention']\n        found[v['Key'][len(prefix) + 1:]] = [r['Mode'], r['RetainUntilDate'].isoformat()]\n    except ClientError: pass\nprint(json.dumps(found))";

fn until(locks: &Value, key: &str) -> String {
    locks[key][1].as_str().unwrap_or_else(|| panic!("{key} is not locked: {locks}"))[..10].to_owned()
}

fn day(from_now: i64) -> String {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    now.checked_add(jiff::Span::new().days(from_now)).unwrap().strftime("%Y-%m-%d").to_string()
}

#[test]
fn nobody_deletes_before_the_date() {
    let database = shared(15).database("locked");
    database.psql("CREATE TABLE a AS SELECT i, md5(i::text) t FROM generate_series(1, 500) i");
    let (mut dozo, bucket) = locked(&database, "{ daily = \"10d\", weekly = \"0d\", monthly = \"0d\" }");
    let manifest = dozo.manifest();
    let locks = boto3(&bucket, dozo.prefix(), LOCKS);
    // Everything that it names, and the manifest itself, for the daily period and a week more.
    let named: Vec<String> =
        manifest["objects"].as_array().unwrap().iter().map(|o| o["key"].as_str().unwrap().to_owned()).collect();
    for key in &named {
        assert!(until(&locks, key) >= day(16) && until(&locks, key) <= day(18), "{key}: {locks}");
        assert_eq!(locks[key][0], "COMPLIANCE");
    }
    let own = format!("backups/shop/{}/manifest.json", manifest["id"].as_str().unwrap());
    assert!(until(&locks, &own) >= day(10), "{locks}");
    assert!(manifest["locked-until"].as_str().unwrap()[..10] >= *day(16).as_str());
    // By version nobody can; without a version only a marker is put, and found.
    let script = "refused = 0\nfor v in versions()[0]:\n    if '/data/' in v['Key'] or v['Key'].endswith('manifest.json'):\n        try: s3.delete_object(Bucket=bucket, Key=v['Key'], VersionId=v['VersionId'])\n        except ClientError as e: refused += e.response['Error']['Code'] == 'AccessDenied'\n        s3.delete_object(Bucket=bucket, Key=v['Key'])\nprint(json.dumps([refused, len(versions()[1])]))";
    let tried = boto3(&bucket, dozo.prefix(), script);
    let data = named.iter().filter(|k| k.starts_with("data/")).count();
    assert_eq!(tried, serde_json::json!([data + 1, data + 1]));
    let verify = dozo.run(&["--json", "verify", "latest"]).exits(3).json();
    let findings = verify[0]["findings"].as_array().unwrap();
    assert_eq!(findings.len(), data + 1, "{verify}");
    assert!(
        findings.iter().all(|f| f["kind"] == "versions" && f["detail"].as_str().unwrap().contains("1 delete markers")),
        "{verify}"
    );
    // Another version over a data object is found, too; the rows that come back are the first ones.
    let script = "v = [v for v in versions()[0] if '/data/' in v['Key']][0]\ns3.put_object(Bucket=bucket, Key=v['Key'], Body=b'ransom')\nprint('null')";
    boto3(&bucket, dozo.prefix(), script);
    let verify = dozo.run(&["--json", "verify", "latest"]).exits(3).json();
    assert!(verify[0]["findings"].to_string().contains("1 further versions"), "{verify}");
    let _ = dozo.restore_into(database.cluster, "locked_copy");
    // What somebody did to a manifest's key decides no fate: the backup is still there, and a second one can be made.
    assert_eq!(dozo.run(&["--json", "list"]).exits(0).json().as_array().unwrap().len(), 1);
    let _ = dozo.run(&["backup", "shop"]).exits(0);
    let _ = dozo.run(&["verify", "latest"]).exits(0);
}

#[test]
fn retention_waits_for_locks_and_deletes_by_version() {
    let database = shared(15).database("lock_retention");
    database.psql("CREATE TABLE a AS SELECT i FROM generate_series(1, 500) i");
    let (dozo, bucket) = locked(&database, "{ daily = \"1d\", weekly = \"0d\", monthly = \"0d\", min-keep = 1, grace = \"0s\" }");
    for (n, ahead) in ["48h", "96h"].into_iter().enumerate() {
        database.psql(&format!("INSERT INTO a VALUES ({n})"));
        let now = jiff::Timestamp::now() + ahead.parse::<jiff::Span>().unwrap();
        let _ = dozo.run(&["--now", &now.to_string(), "backup", "shop"]).exits(0);
    }
    let later = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(97)).to_string();
    let apply = ["--now", &later, "--json", "retention", "apply", "--max-delete", "100%"];
    let done = dozo.run(&apply).exits(0).json();
    // Two are deleted by decision; their objects wait for their locks.
    assert_eq!(done["gc"]["doomed"].as_array().unwrap().len(), 2, "{done}");
    assert!(done["gc"]["retained"].as_u64().unwrap() >= 2, "{done}");
    assert!(done["gc"]["retained-until"].as_str().unwrap()[..10] >= *day(7).as_str(), "{done}");
    let text = dozo.run(&["--now", &later, "retention", "apply"]).exits(0).stdout;
    assert!(text.contains("objects are retained by their locks"), "{text}");
    assert_eq!(dozo.run(&["--json", "list"]).exits(0).json().as_array().unwrap().len(), 1);
    // What was not locked is gone for good: no version and no marker of it is left.
    let left =
        boto3(&bucket, dozo.prefix(), "v, m = versions()\nprint(json.dumps([[x['Key'] for x in v], [x['Key'] for x in m]]))");
    assert!(left[1].as_array().unwrap().is_empty(), "{left}");
    let intents = left[0].as_array().unwrap().iter().filter(|k| k.as_str().unwrap().ends_with("/intent.json")).count();
    assert_eq!(intents, 1, "{left}");
}

/// The first backup of a month reuses the objects of the night before, and locks them for as long as itself.
#[test]
fn a_monthly_locks_what_it_reuses() {
    let database = shared(15).database("lock_monthly");
    database.psql("CREATE TABLE a AS SELECT i FROM generate_series(1, 500) i");
    let (dozo, bucket) = locked(&database, "{ daily = \"10d\", weekly = \"0d\", monthly = \"1 year\", time-zone = \"UTC\" }");
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let first = today.date().last_of_month().tomorrow().unwrap();
    let at = |date: jiff::civil::Date, hour: i8| date.at(hour, 0, 0, 0).in_tz("UTC").unwrap().timestamp().to_string();
    // The last night of this month; it is not the first good one of it.
    let last = at(first.yesterday().unwrap(), 23);
    let daily =
        dozo.run(&["--now", &last, "--json", "backup", "shop", "--full"]).exits(0).json()["id"].as_str().unwrap().to_owned();
    let _ = dozo.run(&["--now", &last, "verify", "latest"]).exits(0);
    let object = |id: &str| {
        let shown = dozo.run(&["--json", "show", &format!("shop@{id}")]).exits(0).json();
        shown["manifest"]["datasets"][0]["parts"][0]["object"].as_str().unwrap().to_owned()
    };
    let key = object(&daily);
    let before = until(&boto3(&bucket, dozo.prefix(), LOCKS), &key);
    let soon = first.checked_add(jiff::Span::new().days(20)).unwrap().to_string();
    assert!(before < soon, "{before}");
    // Until a month has a full backup, everything is copied; so the one after it is the one that reuses.
    let made = dozo.run(&["--now", &at(first, 1), "--json", "backup", "shop"]).exits(0).json();
    let monthly = made["id"].as_str().unwrap();
    let year = first.checked_add(jiff::Span::new().months(12)).unwrap().to_string();
    let locks = boto3(&bucket, dozo.prefix(), LOCKS);
    assert!(until(&locks, &object(monthly)) >= year, "{locks}");
    if object(monthly) == key {
        return assert!(until(&locks, &key) >= year, "{locks}");
    }
    // It is found damaged: the next night takes its place, reuses its objects, and `retention apply` locks them all.
    let _ = dozo.run(&["--now", &at(first, 2), "verify", "latest"]).exits(0);
    let second =
        dozo.run(&["--now", &at(first, 3), "--json", "backup", "shop"]).exits(0).json()["id"].as_str().unwrap().to_owned();
    assert_eq!(object(&second), object(monthly), "it reuses");
    dozo.reconfigure(|text| text.replace("monthly = \"1 year\"", "monthly = \"3 years\""));
    let done = dozo.run(&["--now", &at(first, 4), "--json", "retention", "apply"]).exits(0).json();
    assert!(done["locked"].to_string().contains(monthly), "{done}");
    let years = first.checked_add(jiff::Span::new().months(36)).unwrap().to_string();
    assert!(until(&boto3(&bucket, dozo.prefix(), LOCKS), &object(&second)) >= years);
    // Once is enough.
    let again = dozo.run(&["--now", &at(first, 4), "--json", "retention", "apply"]).exits(0).json();
    assert!(again["locked"].as_array().unwrap().is_empty(), "{again}");
}
