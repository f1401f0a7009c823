//! One TCP stream, and whether it came whole.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::namespace::within;

/// Longer than that nothing may be stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends `bytes` bytes by TCP from the network namespace `from` to an address of `to`, both by the paths of their files.
/// An error where not all of them come there, as they were and in their order.
pub fn stream(from: &Path, to: &Path, address: IpAddr, bytes: usize) -> Result<()> {
    // No power of two: what was swapped or came twice isn't where it belongs.
    let sent: Vec<u8> = (0_u8..=250).cycle().take(bytes).collect();
    let listener = within(to, || TcpListener::bind((address, 0)))?.context("listening")?;
    let end = listener.local_addr()?;
    let mut sender = within(from, || TcpStream::connect_timeout(&end, PATIENCE))?.context("connecting")?;
    sender.set_write_timeout(Some(PATIENCE))?;
    let received = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| -> Result<Vec<u8>> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut received = Vec::with_capacity(bytes);
            stream.read_to_end(&mut received).context("receiving")?;
            Ok(received)
        });
        let written = sender.write_all(&sent).context("sending");
        drop(sender);
        let received = receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        written.and(received)
    })?;
    ensure!(received == sent, "of {bytes} bytes came {}, or others", received.len());
    Ok(())
}
