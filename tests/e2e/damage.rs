//! Whatever is damaged in a stored backup: verify exits 3 and names object, table and finding.

use std::fs;

use dozo_testkit::shared;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{Dozo, Place, copy_folder, files, nightly};

#[test]
fn every_kind_of_damage_is_found_and_named() {
    let cluster = shared(15);
    let shop = cluster.shop("0.02");
    let dozo = Dozo::new(&shop, Place::Local);
    let id = dozo.backup();
    let manifest = dozo.manifest();
    let pristine = dozo.folder.path().join("pristine");
    let repo = dozo.repository();
    fs::rename(&repo, &pristine).unwrap();
    let objects: Vec<String> =
        manifest["objects"].as_array().unwrap().iter().map(|o| o["key"].as_str().unwrap().to_owned()).collect();
    let manifest_key = format!("backups/shop/{id}/manifest.json");
    let seed = rand::rng().random::<u64>();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let reset = || {
        let _ = fs::remove_dir_all(&repo);
        copy_folder(&pristine, &repo);
    };
    let found = |key: &str, level: &str, what: &str| {
        let run = dozo.run(&["verify", "shop@latest", "--level", level]);
        assert_eq!(run.code, 3, "{what} of {key}: {} {}", run.stdout, run.stderr);
        let text = run.stdout + &run.stderr;
        let named =
            if key.ends_with("manifest.json") { text.contains(&id) && text.contains("manifest") } else { text.contains(key) };
        assert!(named, "{what} of {key}: {text}");
        if key.starts_with("data/") {
            assert!(text.contains("(table public."), "{text}");
        }
    };

    // One flipped bit, at least 20 positions in each kind of object (200 in the nightly tier).
    let kinds: [(&str, Vec<&String>); 5] = [
        ("data", objects.iter().filter(|k| k.starts_with("data/")).collect()),
        ("schema.dump", objects.iter().filter(|k| k.ends_with("schema.dump")).collect()),
        ("schema.sql", objects.iter().filter(|k| k.ends_with("schema.sql")).collect()),
        ("RESTORE.md", objects.iter().filter(|k| k.ends_with("RESTORE.md")).collect()),
        ("manifest", vec![&manifest_key]),
    ];
    reset();
    for (kind, keys) in &kinds {
        assert!(!keys.is_empty(), "{kind}");
        for _ in 0..if nightly() { 200 } else { 20 } {
            let key = keys[rng.random_range(0..keys.len())];
            let path = repo.join(key);
            let original = fs::read(&path).unwrap();
            let mut damaged = original.clone();
            let at = rng.random_range(0..damaged.len());
            damaged[at] ^= 1 << rng.random_range(0..8);
            fs::write(&path, &damaged).unwrap();
            found(key, if rng.random() { "digest" } else { "content" }, &format!("bit flipped at {at}"));
            fs::write(&path, &original).unwrap();
        }
    }

    // Cut short, removed.
    for (_, keys) in &kinds[..4] {
        let key = keys[rng.random_range(0..keys.len())];
        let path = repo.join(key);
        let original = fs::read(&path).unwrap();
        for cut in [0, 1, original.len() / 2, original.len() - 1] {
            fs::write(&path, &original[..cut]).unwrap();
            found(key, "exists", &format!("cut at {cut}"));
            found(key, "content", &format!("cut at {cut}"));
        }
        fs::remove_file(&path).unwrap();
        found(key, "exists", "removal");
        found(key, "content", "removal");
        fs::write(&path, &original).unwrap();
    }

    // Swapped with another object of equal size.
    let data = &kinds[0].1;
    let (a, b) = (repo.join(data[0]), repo.join(data[1]));
    let bytes = fs::read(&a).unwrap();
    let mut other = fs::read(&b).unwrap();
    other.resize(bytes.len(), 0);
    fs::write(&a, &other).unwrap();
    found(data[0], "digest", "swap");
    found(data[0], "content", "swap");
    reset();
    // The manifest itself is removed: whoever was verified once was committed once.
    let _ = dozo.run(&["verify", "shop@latest", "--level", "exists"]).exits(0);
    fs::remove_file(repo.join(&manifest_key)).unwrap();
    let run = dozo.run(&["verify", "--all"]).exits(3);
    assert!(run.stdout.contains(&manifest_key), "{}", run.stdout);
    reset();
    // A finding stays open until a check of its level passes.
    let path = repo.join(data[0]);
    let original = fs::read(&path).unwrap();
    let mut damaged = original.clone();
    damaged[original.len() / 2] ^= 1;
    fs::write(&path, damaged).unwrap();
    let _ = dozo.run(&["verify", "shop@latest"]).exits(3);
    let _ = dozo.run(&["verify", "shop@latest", "--level", "exists"]).exits(0);
    let status = dozo.run(&["--json", "status"]).exits(0).json()["sources"].clone();
    assert!(status[0]["newest-good"].is_null(), "{status}");
    fs::write(&path, original).unwrap();
    let _ = dozo.run(&["verify", "shop@latest"]).exits(0);
    assert!(dozo.run(&["--json", "status"]).exits(0).json()["sources"][0]["newest-good"].is_object());
    reset();
    // Everything is as before: the last check passes, and the folder holds only what was there, and checks.
    let _ = dozo.run(&["verify", "shop@latest"]).exits(0);
    assert!(files(&repo).len() > objects.len());
}

/// A restore from a damaged object stops, names the object, and can be run again once the object is back.
#[test]
fn a_restore_never_loads_damaged_rows() {
    let cluster = shared(15);
    let shop = cluster.shop("0.02");
    let mut dozo = Dozo::new(&shop, Place::Local);
    let _ = dozo.backup();
    let manifest = dozo.manifest();
    let key = manifest["datasets"].as_array().unwrap().iter().find(|d| d["name"] == "users").unwrap()["parts"][0]["object"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = dozo.repository().join(&key);
    let original = fs::read(&path).unwrap();
    let mut damaged = original.clone();
    damaged[original.len() / 2] ^= 4;
    fs::write(&path, damaged).unwrap();
    let target = format!("damaged_{}", crate::harness::fresh());
    dozo.set("COPY_URL", &cluster.url("postgres", &target));
    let args = ["restore", "shop@latest", "--to", "env:COPY_URL", "--create-db"];
    let run = dozo.run(&args).exits(3);
    assert!(run.stderr.contains(&key) && run.stderr.contains("tables were complete"), "{}", run.stderr);
    fs::write(&path, original).unwrap();
    let run = dozo.run(&args).exits(0);
    assert!(run.stdout.contains("(continued)"), "{}", run.stdout);
}
