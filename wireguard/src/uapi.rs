//! WireGuard's cross-platform interface (<https://www.wireguard.com/xplatform/>), the side that answers. A request is
//! lines up to an empty one; so is the answer, which ends with an errno of Linux (asm-generic/errno.h).
//!
//! No line of a conversation is ever logged: some hold keys.

use std::{io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use gotatun::device::uapi::command::{Request, Response};
use nix::libc::{EINVAL, EPROTO};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinSet,
};
use zeroize::Zeroizing;

use crate::engine::Engine;

/// A request of many thousand peers is smaller.
const LARGEST: u64 = 64 << 20;

/// A socket for root alone. What a process before us left there goes.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // Its directory lets nobody else near it before this.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until it is dropped.
pub async fn serve(listener: UnixListener, engine: Arc<Engine>) -> io::Result<()> {
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, engine) = (accepted?.0, Arc::clone(&engine));
                conversations.spawn(async move {
                    // Who asked has gone: nobody needs to know.
                    let _ = converse(stream, &engine).await;
                });
            }
            Some(_) = conversations.join_next() => {}
        }
    }
}

async fn converse(stream: UnixStream, engine: &Arc<Engine>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut request = Zeroizing::new(String::new());
        loop {
            let mut line = Zeroizing::new(String::new());
            let room = LARGEST.saturating_sub(u64::try_from(request.len()).unwrap_or(LARGEST));
            if (&mut reader).take(room).read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if line.trim_end().is_empty() {
                break;
            }
            request.push_str(&line);
        }
        if request.is_empty() {
            continue;
        }
        // An empty line ends the answer, and the errno is its last. Keys are cut into pairs of bytes by the parser, which
        // takes them for characters.
        let parsed = if request.is_ascii() { request.parse::<Request>().ok() } else { None };
        let answer = Zeroizing::new(match parsed {
            Some(Request::Get(_)) => format!("{}\n", Response::Get(engine.get().await)),
            Some(Request::Set(set)) => format!("errno={}\n\n", Arc::clone(engine).set(set).await),
            None if request.starts_with("get=") || request.starts_with("set=") => {
                format!("errno={EINVAL}\n\n")
            }
            None => format!("errno={EPROTO}\n\n"),
        });
        writer.write_all(answer.as_bytes()).await?;
    }
}
