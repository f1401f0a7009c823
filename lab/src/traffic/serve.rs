//! The echo: whatever comes goes back, UDP packet by packet, TCP byte by byte.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};

use anyhow::{Context as _, Result};

use super::{make_room, refuse_to_cut};

pub(super) fn run(bind: Option<IpAddr>, port: u16) -> Result<()> {
    let (udp, tcp) = match bind {
        Some(address) => listen(address, port)?,
        // A socket of the newer family takes both, unless that family is switched off.
        None => listen(Ipv6Addr::UNSPECIFIED.into(), port)
            .or_else(|_| listen(Ipv4Addr::UNSPECIFIED.into(), port))?,
    };
    writeln!(std::io::stdout(), "listening")?;
    std::thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            std::thread::spawn(move || echo(stream));
        }
    });
    let mut packet = [0; 65_535];
    loop {
        // Errors are those of earlier answers that nobody took.
        let Ok((length, from)) = udp.recv_from(&mut packet) else { continue };
        let _ = udp.send_to(packet.get(..length).unwrap_or_default(), from);
    }
}

fn listen(address: IpAddr, port: u16) -> Result<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::bind((address, port)).with_context(|| format!("bind UDP {address} port {port}"))?;
    make_room(&udp)?;
    refuse_to_cut(&udp)?;
    let tcp =
        TcpListener::bind((address, port)).with_context(|| format!("bind TCP {address} port {port}"))?;
    Ok((udp, tcp))
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut bytes = [0; 65_536];
    while let Ok(length) = stream.read(&mut bytes) {
        if length == 0 || stream.write_all(bytes.get(..length).unwrap_or_default()).is_err() {
            return;
        }
    }
}
