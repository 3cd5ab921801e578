//! What people should know about a run.

use std::sync::{Arc, Mutex};

use dozo_model::Progress;

/// Warnings of a run: told at once, and kept for the report.
#[derive(Clone)]
pub(crate) struct Warnings {
    source: String,
    progress: Arc<dyn Progress>,
    all: Arc<Mutex<Vec<String>>>,
}

impl Warnings {
    pub(crate) fn new(source: &str, progress: Arc<dyn Progress>) -> Self {
        Self { source: source.to_owned(), progress, all: Arc::default() }
    }

    pub(crate) fn add(&self, text: String) {
        self.progress.warn(&format!("{}: {text}", self.source));
        if let Ok(mut all) = self.all.lock() {
            all.push(text);
        }
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.all.lock().map(|all| all.clone()).unwrap_or_default()
    }
}
