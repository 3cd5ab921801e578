//! TLS by libpq's modes, against a server with a certificate of its own authority.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use dozo_testkit::{Cluster, ClusterOptions, S3Server, shared};

use crate::harness::{Dozo, Place};

fn openssl(folder: &std::path::Path, args: &str) {
    let out = Command::new("openssl").args(args.split(' ')).current_dir(folder).output().unwrap();
    assert!(out.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A certificate for localhost by the authority `ca`, and another authority.
pub(crate) fn certificates(f: &std::path::Path) {
    fs::set_permissions(f, fs::Permissions::from_mode(0o755)).unwrap();
    for ca in ["ca", "other"] {
        openssl(
            f,
            &format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={ca} -keyout {ca}.key -out {ca}.crt"
            ),
        );
    }
    openssl(f, "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=db.example -keyout server.key -out server.csr");
    fs::write(f.join("ext"), "subjectAltName=DNS:localhost,DNS:db.example\nbasicConstraints=CA:FALSE\n").unwrap();
    openssl(f, "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.crt");
}

/// An S3 server with a certificate of an own authority, which encrypts what it stores.
#[test]
fn an_s3_server_of_an_own_authority() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    certificates(f);
    let server = S3Server::start_tls("tls", &f.join("server.crt"), &f.join("server.key"));
    let database = shared(15).database("s3_tls");
    database.psql("CREATE TABLE a AS SELECT i FROM generate_series(1, 100) i");
    let mut dozo = Dozo::new(&database, Place::Local);
    let config = dozo.folder.path().join("dozo.toml");
    let text = fs::read_to_string(&config).unwrap();
    let reach = |ca: &str, more: &str| {
        let url = format!(
            "url = \"s3://{}/tls\"\nendpoint = \"{}\"\nregion = \"us-east-1\"\n{ca}{more}",
            S3Server::BUCKET,
            server.endpoint
        );
        fs::write(&config, text.replace("url = \"file://repo\"", &url)).unwrap();
    };
    dozo.set("AWS_ACCESS_KEY_ID", S3Server::KEY);
    dozo.set("AWS_SECRET_ACCESS_KEY", S3Server::SECRET);
    let ca = |name: &str| format!("ca-file = \"{}\"\n", f.join(name).display());
    for wrong in [String::new(), ca("other.crt")] {
        reach(&wrong, "");
        let began = std::time::Instant::now();
        let run = dozo.run(&["backup", "shop"]).exits(1);
        assert!(run.stderr.contains("DOZO-E3008") && run.stderr.contains("certificate"), "{}", run.stderr);
        // It is not tried again: that would change nothing.
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    }
    reach(&ca("nothing.crt"), "");
    let run = dozo.run(&["backup", "shop"]).exits(2);
    assert!(run.stderr.contains("DOZO-E3001") && run.stderr.contains("nothing.crt"), "{}", run.stderr);
    reach(&ca("ca.crt"), "encryption = \"AES256\"\nstorage-class = \"STANDARD_IA\"");
    let _ = dozo.backup();
    let _ = dozo.run(&["verify", "latest"]).exits(0);
    let key = dozo.manifest()["datasets"][0]["parts"][0]["object"].as_str().unwrap().to_owned();
    let (status, headers) = server.request("HEAD", &format!("{}/tls/{key}", S3Server::BUCKET), &[]).unwrap();
    assert_eq!(status, 200);
    for header in ["x-amz-server-side-encryption: aes256", "x-amz-storage-class: standard_ia"] {
        assert!(headers.contains(header), "{header} in {headers}");
    }
    let check = dozo.run(&["check"]).exits(0).stdout;
    assert!(check.contains("checksums yes, storage class yes"), "{check}");
}

#[test]
fn modes_check_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    certificates(f);
    let cluster = Cluster::start(15, &ClusterOptions::default());
    // The key must belong to the server's user.
    for name in ["server.crt", "server.key"] {
        let target = cluster.folder().join(name);
        fs::copy(f.join(name), &target).unwrap();
        let owner = fs::metadata(cluster.folder().join("data")).unwrap();
        use std::os::unix::fs::MetadataExt;
        if rustix::process::getuid().is_root() {
            std::os::unix::fs::chown(&target, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let at = |name: &str| cluster.folder().join(name).display().to_string();
    cluster.psql("postgres", &format!("ALTER SYSTEM SET ssl_cert_file = '{}'; ", at("server.crt")));
    cluster.psql("postgres", &format!("ALTER SYSTEM SET ssl_key_file = '{}'", at("server.key")));
    cluster.psql("postgres", "ALTER SYSTEM SET ssl = on");
    cluster.psql("postgres", "SELECT pg_reload_conf()");
    cluster.psql("postgres", "CREATE DATABASE tls");
    cluster.psql("tls", "CREATE TABLE a (id int); INSERT INTO a VALUES (1)");
    let (ca, other) = (f.join("ca.crt").display().to_string(), f.join("other.crt").display().to_string());
    for (host, parameters, works) in [
        ("localhost", "sslmode=disable".to_owned(), true),
        ("localhost", "sslmode=require".to_owned(), true),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={ca}"), true),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ca}"), false),
        ("localhost", format!("sslmode=verify-full&sslrootcert={ca}"), true),
        ("localhost", format!("sslmode=verify-ca&sslrootcert={other}"), false),
        ("localhost", "sslmode=verify-full&sslrootcert=system".to_owned(), false),
        ("localhost", "sslmode=verify-full&sslrootcert=/nowhere.pem".to_owned(), false),
    ] {
        let url = format!("postgres://postgres@{host}:{}/tls?{parameters}", cluster.port());
        let dozo = Dozo::with_url(&url, &cluster, Place::Local, "");
        let run = dozo.run(&["backup", "shop"]);
        assert_eq!(run.code, i32::from(!works), "{host} {parameters}: {}", run.stderr);
        assert_eq!(run.stderr.contains("DOZO-E2107"), !works, "{host} {parameters}: {}", run.stderr);
    }
}
