//! The report: the same data as page, text and JSON, in both languages; a year of twenty sources stays small and quick; a browser shows it
//! without a script, a request or an error.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use dozo_model::Sha256Digest;
use dozo_testkit::{services, shared};
use serde_json::{Value, json};

use crate::drill::{arena, with_drill};
use crate::harness::{Dozo, Place, files, nightly};

/// Puts JSON as the repository has it: with its digest line.
fn sealed(path: &Path, value: &Value) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let body = format!("{}\n", serde_json::to_string_pretty(value).unwrap());
    fs::write(path, format!("{body}sha256:{}\n", Sha256Digest::of(body.as_bytes()))).unwrap();
}

/// Turns the one backup of `shop` into a year of twenty sources, and one drill into a year of drills: the days count back from `today`.
fn a_year(dozo: &Dozo, today: jiff::civil::Date) -> usize {
    let repo = dozo.repository();
    let read = |path: &Path| -> Value {
        let text = fs::read_to_string(path).unwrap();
        serde_json::from_str(text.rsplit_once("sha256:").map_or(text.as_str(), |(body, _)| body)).unwrap()
    };
    let file = |name: &str| files(&repo.join("backups/shop")).into_iter().find(|f| f.to_string_lossy().contains(name)).unwrap();
    let (manifest, check) = (read(&file("manifest.json")), read(&file("checks/")));
    let old_id = manifest["id"].as_str().unwrap().to_owned();
    let mut count = 0;
    for source in 0..20 {
        let name = format!("source-{source:02}");
        for back in 0..365_i64 {
            // Some nights are missing.
            if (back * 7 + source * 13) % 61 == 5 && back > 0 {
                continue;
            }
            let day = today.saturating_sub(jiff::Span::new().days(back));
            let started = format!("{day}T02:{:02}:00Z", source % 60);
            let id = format!("{}T02{:02}00Z-{source:02}{:04}", day.strftime("%Y%m%d"), source, back);
            let text = serde_json::to_string(&manifest).unwrap().replace(&old_id, &id).replace("/shop/", &format!("/{name}/"));
            let mut one: Value = serde_json::from_str(&text).unwrap();
            let grown = 40_000 - back as u64 * 60 + source as u64 * 900;
            one["id"] = id.as_str().into();
            one["source"] = name.as_str().into();
            one["started"] = started.as_str().into();
            one["finished"] = started.as_str().into();
            one["datasets"][0]["bytes-read"] = grown.into();
            one["objects"][0]["bytes"] = grown.into();
            let folder = repo.join(format!("backups/{name}/{id}"));
            sealed(&folder.join("manifest.json"), &one);
            if back % 3 != 1 {
                let mut event = check.clone();
                event["backup"] = id.as_str().into();
                event["at"] = started.as_str().into();
                fs::create_dir_all(folder.join("checks")).unwrap();
                fs::write(folder.join("checks/000000.json"), serde_json::to_string(&event).unwrap()).unwrap();
            }
            count += 1;
        }
    }
    let path = repo.join("drills/000001.json");
    let drill = read(&path);
    let mut previous = Value::Null;
    for n in 1..=52_u64 {
        let day = today.saturating_sub(jiff::Span::new().days(7 * (52 - n as i64)));
        let mut one = drill.clone();
        one["number"] = n.into();
        one["previous"] = previous;
        one["drill"] = if n % 4 == 0 { "monthly" } else { "weekly" }.into();
        one["started"] = format!("{day}T03:00:00Z").into();
        one["finished"] = format!("{day}T03:20:00Z").into();
        one["measured"]["rto-seconds"] = (6_000.0 + (n % 9) as f64 * 700.0 + n as f64 * 60.0).into();
        one["measured"]["rpo-seconds"] = (40_000.0 + (n % 5) as f64 * 9_000.0).into();
        if n == 30 {
            one["verdict"] = "failed".into();
            one["items"][0]["findings"] = json!(["objective missed: <b>it</b> was back after 5 h"]);
        }
        let path = repo.join(format!("drills/{n:06}.json"));
        sealed(&path, &one);
        previous = json!({ "number": n, "sha256": Sha256Digest::of(&fs::read(&path).unwrap()).to_string() });
    }
    // What the real one said of itself.
    let _ = fs::remove_dir_all(repo.join("backups/shop"));
    count
}

/// A repository with a backup, a check and a drill.
fn drilled(name: &str) -> (Dozo, tempfile::TempDir) {
    let database = shared(15).database(name);
    database.psql("CREATE TABLE \"<img src=x>\" AS SELECT i FROM generate_series(1, 100) i");
    let dozo =
        Dozo::with_url(&database.url(), database.cluster, Place::Local, "[contacts]\nprimary = \"佐藤 <sato@example.com>\"");
    let arena = arena();
    with_drill(&dozo, "weekly", arena.path(), "amcheck = false");
    let _ = dozo.backup();
    let _ = dozo.run(&["verify", "latest"]).exits(0);
    let _ = dozo.run(&["drill", "weekly"]).exits(0);
    (dozo, arena)
}

#[test]
fn one_report_in_three_forms_and_two_languages() {
    let (mut dozo, _arena) = drilled("report_forms");
    let page = dozo.run(&["report"]).exits(0).stdout;
    for expected in [
        "<!DOCTYPE html>",
        "lang=\"en\"",
        "Open findings",
        "Coverage calendar",
        "&lt;img src=x&gt;",
        "佐藤 &lt;sato@example.com&gt;",
    ] {
        assert!(page.contains(expected), "{expected} in {page}");
    }
    for forbidden in ["<script", "http://", "https://", "<img", "@import"] {
        assert!(!page.contains(forbidden), "{forbidden} in {page}");
    }
    dozo.set("LANG", "ja_JP.UTF-8");
    let page = dozo.run(&["report"]).exits(0).stdout;
    assert!(page.contains("lang=\"ja\"") && page.contains("未解決の指摘") && page.contains("取得状況カレンダー"), "{page}");
    let text = dozo.run(&["report", "--text", "--lang", "en"]).exits(0).stdout;
    assert!(text.contains("Open findings:\n  No open finding.") && text.contains("weekly"), "{text}");
    let data = dozo.run(&["--json", "report"]).exits(0).json();
    assert_eq!(data["sources"][0]["coverage"]["days"][0]["drilled"], true);
    assert_eq!((&data["drills"][0]["drill"], data["findings"].as_array().unwrap().len()), (&json!("weekly"), 0));
    let _ = dozo.run(&["report", "-o", "out.html"]).exits(0);
    assert!(fs::read_to_string(dozo.folder.path().join("out.html")).unwrap().contains("未解決の指摘"));
    let run = dozo.run(&["report", "--drill", "7"]).exits(2);
    assert!(run.stderr.contains("DOZO-E1020"), "{}", run.stderr);
    // Something is amiss.
    let later = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(60)).to_string();
    let text = dozo.run(&["--now", &later, "report", "--text", "--lang", "ja"]).exits(0).stdout;
    assert!(text.contains("[重大] shop: its newest good backup is"), "{text}");
}

#[test]
fn a_year_of_twenty_sources_is_small() {
    let (dozo, _arena) = drilled("report_year");
    let today: jiff::civil::Date = "2026-11-22".parse().unwrap();
    let count = a_year(&dozo, today);
    assert!(count > 7_000);
    dozo.reconfigure(|text| {
        let at = text.find("[source.shop]").unwrap();
        let sources =
            (0..20).map(|n| format!("[source.source-{n:02}]\nkind = \"postgres\"\nurl = \"env:SHOP_URL\"\n")).collect::<String>();
        text.replace("sources = [\"shop\"]", "sources = [\"source-00\"]").split_at(at).0.to_owned()
            + &sources
            + "[contacts]\nprimary = \"on call\"\n"
    });
    let began = Instant::now();
    let _ = dozo.run(&["--now", "2026-11-22T10:00:00Z", "report", "-o", "year.html"]).exits(0);
    let page = dozo.folder.path().join("year.html");
    let bytes = fs::metadata(&page).unwrap().len();
    println!("{count} backups, {bytes} bytes, made in {:.1} s", began.elapsed().as_secs_f64());
    assert!(bytes < 2_000_000, "{bytes} bytes");
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.matches("<title>2026-").count() > 5_000, "days with their tiers");
    assert!(text.contains("objective missed: &lt;b&gt;it&lt;/b&gt;"), "what comes from outside is escaped");
    if nightly() {
        println!("{}", in_a_browser(&dozo, &page).join("\n"));
    }
}

/// Opens pages in headless Chromium, at two widths, light, dark and printed: everything is drawn, nothing is asked for, nothing complains.
fn in_a_browser(dozo: &Dozo, year: &Path) -> Vec<String> {
    let certificate = dozo.folder.path().join("certificate.html");
    let _ = dozo.run(&["report", "--drill", "30", "--lang", "ja", "-o", "certificate.html"]).exits(0);
    let pictures = std::env::var_os("DOZO_PICTURES").map_or_else(|| dozo.folder.path().to_owned(), Into::into);
    let script = r#"
import json, sys, time
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
pictures, pages = sys.argv[1], sys.argv[2:]
options = Options()
for flag in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--hide-scrollbars"]:
    options.add_argument(flag)
options.binary_location = "/usr/bin/chromium"
options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
found = []
for page in pages:
    # Paper is as wide as A4.
    for width, scheme in ((390, "light"), (390, "dark"), (1280, "light"), (1280, "dark"), (794, "print")):
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print" if scheme == "print" else "screen",
            "features": [{"name": "prefers-color-scheme", "value": "dark" if scheme == "dark" else "light"}]})
        driver.get_log("performance"); driver.get_log("browser")
        driver.get("file://" + page)
        timing = driver.execute_script("const n = performance.getEntriesByType('navigation')[0]; return n.loadEventEnd")
        requests = [m for m in (json.loads(e["message"])["message"] for e in driver.get_log("performance")) if m["method"] == "Network.requestWillBeSent"]
        urls = [r["params"]["request"]["url"] for r in requests]
        js = lambda s: driver.execute_script("return " + s)
        size = js("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        one = {"page": page.rsplit("/", 1)[-1], "width": width, "scheme": scheme, "load_ms": timing,
               "errors": [e for e in driver.get_log("browser")], "urls": [u for u in urls if not u.startswith("data:")],
               "overflow": size[0] - width,
               "calendars": js("document.querySelectorAll('.cal svg').length"), "squares": js("document.querySelectorAll('.cal rect').length"),
               "charts": js("document.querySelectorAll('.chart svg polyline, .chart svg polygon').length"),
               "unseen": js("[...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().height < 10).length"),
               "findings": js("document.querySelectorAll('#findings tr, #findings p').length"), "tables": js("document.querySelectorAll('table').length"),
               "background": js("getComputedStyle(document.body).backgroundColor"), "ink": js("getComputedStyle(document.body).color"),
               "line": js("(document.querySelector('.chart svg polyline') ? getComputedStyle(document.querySelector('.chart svg polyline')).stroke : '')")}
        found.append(one)
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": min(size[1], 6000), "deviceScaleFactor": 1, "mobile": width < 500})
        driver.save_screenshot(f"{pictures}/{one['page']}-{width}-{scheme}.png")
driver.quit()
print(json.dumps(found))
"#;
    let out = Command::new(services().join("venv/bin/python"))
        .args(["-c", script])
        .arg(&pictures)
        .args([year, &certificate])
        .env("HOME", dozo.folder.path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let found: Value = serde_json::from_slice(&out.stdout).unwrap();
    let all = found.as_array().unwrap();
    assert_eq!(all.len(), 10);
    let mut lines = Vec::new();
    for one in all {
        lines.push(format!("{} {} {}: {} ms", one["page"], one["width"], one["scheme"], one["load_ms"]));
        assert_eq!(one["errors"], json!([]), "{one:#}");
        assert_eq!(one["urls"].as_array().unwrap().len(), 1, "only the page itself: {one:#}");
        assert!(one["load_ms"].as_f64().unwrap() < 1000.0, "{one:#}");
        assert_eq!((&one["overflow"], &one["unseen"]), (&json!(0), &json!(0)), "{one:#}");
        assert!(one["tables"].as_u64().unwrap() >= 3, "{one:#}");
        let dark = one["scheme"] == "dark";
        let luma = |key: &str| -> u32 {
            let digits = |c: char| !c.is_ascii_digit();
            one[key].as_str().unwrap().split(digits).filter_map(|n| n.parse::<u32>().ok()).take(3).sum()
        };
        assert!(
            if dark { luma("background") < 150 && luma("ink") > 600 } else { luma("background") > 600 && luma("ink") < 150 },
            "{one:#}"
        );
        if one["page"] == "year.html" {
            assert_eq!(one["calendars"], 20);
            assert!(one["squares"].as_u64().unwrap() >= 20 * 365 && one["charts"].as_u64().unwrap() >= 4, "{one:#}");
            assert!(one["findings"].as_u64().unwrap() >= 2 && one["line"].as_str().unwrap().starts_with("rgb("), "{one:#}");
        }
    }
    // The colours of lines follow the page.
    let line = |scheme: &str| all.iter().find(|o| o["scheme"] == scheme && o["page"] == "year.html").unwrap()["line"].clone();
    assert_ne!(line("light"), line("dark"));
    lines
}
