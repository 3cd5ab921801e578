//! Places where a test stops the program, or holds it up, to see what a crash leaves behind. Release builds have none.

use dozo_model::QualifiedName;

/// A step was reached. `DOZO_POINT=STEP[@PARTITION]:kill` ends the process there as SIGKILL would; `…:hold=FILE` makes the file, and
/// goes on when it is gone.
#[cfg(debug_assertions)]
pub(crate) fn point(step: &str, partition: &QualifiedName) {
    let Ok(wanted) = std::env::var("DOZO_POINT") else { return };
    let Some((place, action)) = wanted.split_once(':') else { return };
    let (wanted_step, of) = place.split_once('@').map_or((place, None), |(s, p)| (s, Some(p)));
    if wanted_step != step || of.is_some_and(|p| p != partition.name) {
        return;
    }
    match action.split_once('=') {
        None => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
        Some((_, file)) => {
            // Once: what it is about is repeated for the next partition.
            let gone = format!("{file}.passed");
            if !std::path::Path::new(&gone).exists() && std::fs::write(file, step).is_ok() {
                while std::path::Path::new(file).exists() {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                let _ = std::fs::write(gone, step);
            }
        }
    }
}

/// Nothing, in a release.
#[cfg(not(debug_assertions))]
pub(crate) fn point(_step: &str, _partition: &QualifiedName) {}
