//! The policy played forward.

use std::time::Duration;

use dozo_catalog::{Facts, Scenario, Simulation, simulate};
use dozo_model::{RetentionPolicy, Tier};

use crate::world::{at, days_kept, facts, nights, planned};

fn scenario(days: u32) -> Scenario {
    Scenario { from: at("2026-11-21T12:00:00Z"), days, every: None, stop_after: None, disk: None }
}

fn history() -> Facts {
    let mut all = nights("2026-09-01", "2026-11-21", "UTC");
    // 900 bytes that a month shares, 100 of each night.
    let (last, mut objects) = (u32::try_from(all.len()).unwrap(), vec![100; all.len()]);
    objects.extend([900, 900, 900]);
    for (n, b) in all.iter_mut().enumerate() {
        let month = u32::try_from(b.started.strftime("%m").to_string().parse::<usize>().unwrap() - 9).unwrap();
        b.objects = vec![u32::try_from(n).unwrap(), last + month];
    }
    Facts { objects, ..facts(all) }
}

fn broken(simulation: &Simulation) -> Vec<(String, &str)> {
    simulation.broken.iter().map(|b| (b.date.to_string(), b.promise.as_str())).collect()
}

/// A year of nights ends where the planner ends on a year of nights.
#[test]
fn a_year_goes_on_as_it_has() {
    let (policy, facts) = (RetentionPolicy::default(), history());
    let simulation = simulate(&facts, |_| &policy, &scenario(365));
    assert_eq!(broken(&simulation), []);
    let pace = &simulation.paces[0];
    assert_eq!((pace.every_seconds, pace.new_bytes, pace.full_bytes, pace.growth_bytes), (86_400, 100, 1000, 0));
    let last = simulation.days.last().unwrap();
    assert_eq!(last.date.to_string(), "2027-11-20");
    let all = planned(&crate::world::facts(nights("2026-09-01", "2027-11-20", "UTC")), &policy, at("2027-11-20T12:00:00Z"));
    let tier = |tier: Tier| all.backups.iter().filter(|v| v.tiers.contains(&tier)).count();
    for t in [Tier::Daily, Tier::Weekly, Tier::Monthly] {
        assert_eq!(last.tiers[&t], tier(t), "{t}");
    }
    // What is marked stands for seven days more.
    assert_eq!(last.backups, days_kept(&all, "UTC").len() + 7);
    assert_eq!(last.longest.values().sum::<usize>(), days_kept(&all, "UTC").len());
    // As many full copies as months are kept, and a hundred bytes of each backup.
    let months = 12;
    assert_eq!(last.bytes, months * 900 + 100 * u64::try_from(last.backups).unwrap());
    assert_eq!(simulation, simulate(&facts, |_| &policy, &scenario(365)));
}

#[test]
fn the_first_day_on_which_a_promise_breaks() {
    let (policy, facts) = (RetentionPolicy::default(), history());
    let play = |s: &Scenario| simulate(&facts, |_| &policy, s);
    // Nobody backs up any more after ten days: a day and two hours later that shows.
    let silent = play(&Scenario { stop_after: Some(Duration::from_secs(10 * 86_400)), ..scenario(60) });
    let dates = broken(&silent);
    assert_eq!(dates[0], ("2026-12-02".into(), "the newest good backup is younger than 1 d 2 h"));
    assert_eq!(dates[1], ("2026-12-03".into(), "daily: each day of 30 days has a good backup"));
    let weekly = dates.iter().find(|(_, p)| p.starts_with("weekly")).unwrap();
    // The week of 30 November has two nights, that of 7 December none: it is over on the 14th.
    assert_eq!(weekly.0, "2026-12-14");
    // And nothing is deleted because of it.
    let (middle, last) = (&silent.days[30], silent.days.last().unwrap());
    assert_eq!(middle.backups, last.backups);
    // Every third day: days are missing, weeks are not.
    let rare = play(&Scenario { every: Some(Duration::from_secs(3 * 86_400)), ..scenario(120) });
    assert!(
        rare.broken.iter().any(|b| b.promise.starts_with("daily"))
            && !rare.broken.iter().any(|b| b.promise.starts_with("weekly"))
    );
    // A disk of 15,000 bytes, of which others have 1,000.
    let full = play(&Scenario { disk: Some((15_000, 1_000, 85)), ..scenario(365) });
    let disk = full.broken.iter().find(|b| b.source.is_none()).unwrap();
    let day = full.days.iter().find(|d| d.date == disk.date).unwrap();
    assert!((day.bytes + 1000) * 100 >= 15_000 * 85 && disk.promise.contains("less than 85 %"), "{disk:?} {day:?}");
    let before = full.days.iter().take_while(|d| d.date < disk.date).last().unwrap();
    assert!((before.bytes + 1000) * 100 < 15_000 * 85);
}

#[test]
fn without_a_history_there_is_nothing_to_play() {
    let policy = RetentionPolicy::default();
    let simulation = simulate(&Facts::default(), |_| &policy, &scenario(10));
    assert_eq!((simulation.paces.len(), simulation.days.len(), simulation.days[9].backups), (0, 10, 0));
}
