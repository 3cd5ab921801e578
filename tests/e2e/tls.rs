//! TLS by libpq's modes, against a server with a certificate of its own authority.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use dozo_testkit::{Cluster, ClusterOptions};

use crate::harness::{Dozo, Place};

fn openssl(folder: &std::path::Path, args: &str) {
    let out = Command::new("openssl").args(args.split(' ')).current_dir(folder).output().unwrap();
    assert!(out.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn modes_check_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
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
