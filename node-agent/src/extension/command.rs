//! Runs one program: no shell, a bare environment, an end in time with all that it started.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::timeout,
};

use super::{Environment, MOST_DATA};

/// Where programs find others. Not the agent's own: it may be anything.
const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Of what a program says against us, in bytes.
const COMPLAINT: usize = 512;
/// For output to end after the program has.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a program was not run, or failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{0:?} is not the name of a program: write one without a path")]
    Name(String),
    #[error("cannot look at {}", path.display())]
    Look {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not run: it must be a file that root owns and nobody else may write to", .0.display())]
    Loose(PathBuf),
    #[error("cannot start {}", path.display())]
    Start {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("it did not end within {} s, and was killed", .0.as_secs())]
    Late(Duration),
    #[error("cannot wait for it")]
    Wait(#[source] io::Error),
    #[error("it ended with {status}: {said}")]
    Failed { status: std::process::ExitStatus, said: String },
    #[error("it printed more than {MOST_DATA} bytes, or no text")]
    Output,
}

/// Runs `words` from `directory`; what it printed, less white space at the end.
pub async fn run(
    directory: &Path,
    words: &[String],
    environment: &Environment,
    input: &str,
    limit: Duration,
) -> Result<String, CommandError> {
    let (path, arguments) = resolve(directory, words)?;
    let mut child = Command::new(&path)
        .args(arguments)
        .env_clear()
        .env("PATH", SEARCH)
        .envs(environment)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that what it starts ends with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| CommandError::Start { path, source })?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let printed = tokio::spawn(first(child.stdout.take(), MOST_DATA + 1));
    let said = tokio::spawn(first(child.stderr.take(), COMPLAINT));
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_owned();
        // It need not read it.
        tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
    }
    let ended = timeout(limit, child.wait()).await;
    if let Some(group) = group {
        // Gone already, where it left nothing behind.
        let _ = killpg(group, Signal::SIGKILL);
    }
    let status = match ended {
        Ok(status) => status.map_err(CommandError::Wait)?,
        Err(_) => {
            let _ = child.wait().await;
            return Err(CommandError::Late(limit));
        }
    };
    let collect = |task: tokio::task::JoinHandle<Vec<u8>>| async move {
        timeout(FAREWELL, task).await.ok().and_then(Result::ok).unwrap_or_default()
    };
    let (printed, said) = (collect(printed).await, collect(said).await);
    if !status.success() {
        let said: String =
            String::from_utf8_lossy(&said).chars().filter(|c| !c.is_control() || *c == ' ').collect();
        return Err(CommandError::Failed { status, said });
    }
    let text = String::from_utf8(printed).map_err(|_| CommandError::Output)?;
    if text.len() > MOST_DATA { Err(CommandError::Output) } else { Ok(text.trim_end().to_owned()) }
}

fn resolve<'a>(directory: &Path, words: &'a [String]) -> Result<(PathBuf, &'a [String]), CommandError> {
    let (name, arguments) = words.split_first().ok_or_else(|| CommandError::Name(String::new()))?;
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
        return Err(CommandError::Name(name.clone()));
    }
    let path = directory.join(name);
    for place in [directory, &path] {
        let facts = std::fs::metadata(place)
            .map_err(|source| CommandError::Look { path: place.to_owned(), source })?;
        let sound = facts.uid() == 0 && facts.mode() & 0o022 == 0 && (facts.is_file() || place == directory);
        if !sound {
            return Err(CommandError::Loose(place.to_owned()));
        }
    }
    Ok((path, arguments))
}

/// The first bytes; the rest is read and dropped, so that nobody waits for us.
async fn first(from: Option<impl AsyncRead + Unpin>, most: usize) -> Vec<u8> {
    let mut held = Vec::new();
    let Some(mut from) = from else { return held };
    let mut part = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut part).await {
        let room = most.saturating_sub(held.len());
        held.extend(part.iter().take(count.min(room)));
    }
    held
}
