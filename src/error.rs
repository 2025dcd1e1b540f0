//! Every way Coronet can fail, as a value that says what, where and what to do.
//!
//! The library returns these and never prints; the binary turns them into one sentence and an exit code.

use std::path::{Path, PathBuf};

/// The result of everything in Coronet that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Each message is one sentence without a trailing full stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file or folder.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The verb that failed: `read`, `write`, `create`, ...
        action: &'static str,
        /// What it failed on.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A clip, image or mask that cannot be used.
    #[error("{}: {problem}", path.display())]
    Media {
        /// The offending file or folder.
        path: PathBuf,
        /// What is wrong with it and, where known, what would be right.
        problem: String,
    },
    /// A weights file that cannot be used.
    #[error("weights {}: {problem}", path.display())]
    Weights {
        /// The offending file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Something was asked for that cannot be done: an option out of range, an impossible combination.
    #[error("{0}")]
    Request(String),
    /// Shapes that do not fit together, found while a graph is built.
    #[error("{node}: {problem}")]
    Shape {
        /// The graph node, by name.
        node: String,
        /// The shapes and the rule they break.
        problem: String,
    },
    /// A network whose output cannot be used.
    #[error("{0}")]
    Network(String),
    /// The user stopped the run.
    #[error("stopped before the end; nothing was written")]
    Interrupted,
    /// The user stopped a run whose parts are complete by themselves.
    #[error("stopped before the end; {0} complete, nothing was half-written")]
    InterruptedAfter(String),
    /// The user stopped a training run, which has saved itself.
    #[error("stopped after step {step} and saved; go on with --resume ({})", folder.display())]
    InterruptedRun {
        /// Steps done.
        step: u64,
        /// The run's folder.
        folder: PathBuf,
    },
    /// A mistake in Coronet itself: a panic in one of its threads.
    #[error("internal error, please report it: {0}")]
    Internal(String),
    /// Checks that ran and failed.
    #[error("{0}")]
    Verification(String),
    /// A device that is missing, too old, out of memory or failing.
    #[error("{0}")]
    Device(String),
}

impl Error {
    /// An [`Error::Io`] for `path`, for use in `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// An [`Error::Media`] for `path`.
    pub fn media(path: &Path, problem: impl Into<String>) -> Error {
        Error::Media { path: path.to_path_buf(), problem: problem.into() }
    }

    /// An [`Error::Weights`] for `path`.
    pub fn weights(path: &Path, problem: impl Into<String>) -> Error {
        Error::Weights { path: path.to_path_buf(), problem: problem.into() }
    }
}
