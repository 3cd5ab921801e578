//! The README's first screen is a real run: this test makes it, and compares it with what is pasted there. Numbers that differ
//! from run to run (times, ids, free space) count as equal. `DOZO_PASTE_README=1` pastes it.

use std::fs;

use dozo_testkit::{root, shared};

use crate::harness::{Dozo, Place};

/// Digits become `#`, the random part of an id `*`, and column padding one space.
fn normal(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut chars = line.chars().peekable();
        let mut last = ' ';
        while let Some(c) = chars.next() {
            let shown = if c.is_ascii_digit() { '#' } else { c };
            if !(shown == '#' && last == '#' || shown == ' ' && last == ' ') {
                out.push(shown);
            }
            if c == '-' && out.ends_with("#T#Z-") {
                for _ in 0..6 {
                    chars.next();
                }
                out.push('*');
            }
            last = shown;
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out.replace("#.# s", "#").replace("#.#", "#").replace("#,#", "#")
}

#[test]
fn the_first_screen_is_a_real_run() {
    let cluster = shared(15);
    let shop = cluster.shop("0.1");
    let mut dozo = Dozo::new(&shop, Place::Local);
    fs::remove_file(dozo.folder.path().join("dozo.toml")).unwrap();
    let copy = format!("{}_copy", shop.name);
    dozo.set("COPY_URL", &cluster.url("postgres", &copy));
    let mut screen = String::new();
    for command in [
        "init --from env:SHOP_URL --name shop --repository file:///srv/dozo",
        "backup shop",
        "verify shop@latest",
        "restore shop@latest --to env:COPY_URL --create-db",
        "status",
    ] {
        let args: Vec<&str> = command.split(' ').collect();
        let run = dozo.run(&args).exits(0);
        screen.push_str(&format!("$ dozo {command}\n{}", run.stdout));
        if args[0] == "init" {
            // The shown repository is not one that a test may write.
            let file = dozo.folder.path().join("dozo.toml");
            let text = fs::read_to_string(&file).unwrap();
            fs::write(&file, text.replace("file:///srv/dozo", "file://repo")).unwrap();
        }
    }
    let screen = screen
        .replace(&format!("127.0.0.1:{}", cluster.port()), "localhost:5432")
        .replace(&copy, "shop_copy")
        .replace(&shop.name, "shop");
    let path = root().join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once("```console\n").unwrap();
    let (pasted, after) = rest.split_once("```").unwrap();
    if std::env::var_os("DOZO_PASTE_README").is_some() {
        fs::write(&path, format!("{before}```console\n{screen}```{after}")).unwrap();
        return;
    }
    assert_eq!(normal(pasted), normal(&screen), "run with DOZO_PASTE_README=1 to paste the new text");
}
