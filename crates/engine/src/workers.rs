//! Threads that take work from a queue: the first error stops all, every thread is joined, a panic is an error.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{EngineError, Result};

/// Work for threads, and the results as they come.
pub(crate) struct Workers<R> {
    threads: Vec<thread::JoinHandle<()>>,
    results: mpsc::UnboundedReceiver<Result<R>>,
    cancel: CancellationToken,
}

impl<R: Send + 'static> Workers<R> {
    /// Starts up to `count` threads. Each makes its own state with `start`, which is given the token that the first error
    /// cancels, then runs `work` for one item after the other.
    pub(crate) fn start<W: Send + 'static, S>(
        count: usize,
        items: Vec<W>,
        cancel: &CancellationToken,
        start: impl Fn(&CancellationToken) -> Result<S> + Send + Sync + 'static,
        work: impl Fn(&mut S, W) -> Result<R> + Send + Sync + 'static,
    ) -> Self {
        let count = count.min(items.len());
        let queue = Arc::new(Mutex::new(VecDeque::from(items)));
        let shared = Arc::new((start, work));
        let (sender, results) = mpsc::unbounded_channel();
        let cancel = cancel.child_token();
        let threads = (0..count)
            .map(|n| {
                let (queue, shared, sender, cancel) = (Arc::clone(&queue), Arc::clone(&shared), sender.clone(), cancel.clone());
                let body = move || {
                    let run = || -> Result<()> {
                        let mut state = (shared.0)(&cancel)?;
                        while !cancel.is_cancelled() {
                            let item = queue.lock().map_err(|_| EngineError::Internal("a worker panicked".into()))?.pop_front();
                            let Some(item) = item else { break };
                            // Nobody listens any more only when the run has already failed.
                            let _ = sender.send(Ok((shared.1)(&mut state, item)?));
                        }
                        Ok(())
                    };
                    let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
                        let text = panic.downcast_ref::<String>().cloned();
                        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                        Err(EngineError::Internal(text.unwrap_or_else(|| "a worker panicked".into())))
                    });
                    if let Err(error) = outcome {
                        let _ = sender.send(Err(error));
                        cancel.cancel();
                    }
                };
                thread::Builder::new().name(format!("dozo worker {n}")).spawn(body).expect("the system can start a thread")
            })
            .collect();
        Self { threads, results, cancel }
    }

    /// Returns the next result; `None` when all work is done or stopped.
    pub(crate) async fn next(&mut self) -> Option<Result<R>> {
        self.results.recv().await
    }

    /// Stops all threads and waits for them.
    pub(crate) async fn stop(self) {
        // A thread that panicked outside its work has already said so.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    /// Returns all results, or the first real error after every thread has ended.
    pub(crate) async fn collect(mut self, mut each: impl FnMut(&R)) -> Result<Vec<R>> {
        let mut done = Vec::new();
        let mut failed: Option<EngineError> = None;
        while let Some(result) = self.next().await {
            match result {
                Ok(result) => {
                    each(&result);
                    done.push(result);
                }
                Err(error) => failed = Some(first_error(failed, error)),
            }
        }
        let stopped = self.cancel.is_cancelled();
        self.stop().await;
        match failed {
            Some(error) => Err(error),
            None if stopped => Err(EngineError::Cancelled),
            None => Ok(done),
        }
    }
}

impl<R> Drop for Workers<R> {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Runs what waits for files on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| EngineError::Internal(e.to_string()))?
}

/// Keeps the first error, unless it only says that another one stopped it.
pub(crate) fn first_error(first: Option<EngineError>, next: EngineError) -> EngineError {
    use dozo_model::{ErrorClass, Explain};
    match first {
        Some(e) if e.class() != ErrorClass::Cancelled => e,
        _ => next,
    }
}
