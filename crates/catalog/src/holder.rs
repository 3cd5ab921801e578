//! Who holds a lease: a process, told apart from its namesakes on other hosts, boots and containers.

use std::fs;

use dozo_model::LeaseHolder;

/// Returns the name of this host.
#[must_use]
pub fn this_host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Returns the identity of this process.
#[must_use]
pub fn this_process() -> LeaseHolder {
    let pid = std::process::id();
    LeaseHolder {
        host: this_host(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        pid_namespace: fs::read_link("/proc/self/ns/pid").map(|p| p.display().to_string()).unwrap_or_default(),
        pid,
        pid_start: start_of(pid).unwrap_or(0),
    }
}

/// Tells whether `holder` is surely dead: it ran on this host, boot and PID namespace, and its pid is gone or is
/// another process now.
pub(crate) fn surely_dead(holder: &LeaseHolder) -> bool {
    lives(holder) == Some(false)
}

/// Tells whether `holder` lives; `None` when it cannot be seen from here.
#[must_use]
pub fn lives(holder: &LeaseHolder) -> Option<bool> {
    let me = this_process();
    let same_place = !me.boot_id.is_empty()
        && !me.pid_namespace.is_empty()
        && (&holder.host, &holder.boot_id, &holder.pid_namespace) == (&me.host, &me.boot_id, &me.pid_namespace);
    same_place.then(|| start_of(holder.pid) == Some(holder.pid_start))
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)); `None` when there is no such process, or only its zombie.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold anything; fields are counted behind it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_not_dead_and_namesakes_are_told_apart() {
        let me = this_process();
        assert!(me.pid_start > 0);
        assert!(!surely_dead(&me));
        let reused = LeaseHolder { pid_start: me.pid_start + 1, ..me.clone() };
        assert!(surely_dead(&reused));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = LeaseHolder { pid: child.id(), pid_start: 1, ..me.clone() };
        child.wait().unwrap();
        assert!(surely_dead(&gone));
        for elsewhere in [
            LeaseHolder { host: "other".into(), ..gone.clone() },
            LeaseHolder { boot_id: "other".into(), ..gone.clone() },
            LeaseHolder { pid_namespace: "pid:[1]".into(), ..gone },
        ] {
            assert!(!surely_dead(&elsewhere), "cannot be known from here: {elsewhere:?}");
        }
    }
}
