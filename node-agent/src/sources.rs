//! By which of this host's addresses the API server is spoken to. Where such a one goes, what is open by it hangs until
//! its time is up, and meanwhile nobody hears of the new address, nor we of anything.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::{Duration, Instant},
};

/// Between two times that all is begun anew: an address that comes and goes must not load the API server.
const PAUSE: Duration = Duration::from_secs(5);

/// Since it was last connected to.
#[derive(Debug, Default)]
pub struct Sources {
    used: BTreeSet<IpAddr>,
    anew: Option<Instant>,
}

impl Sources {
    /// Notes by which of the `host`'s addresses packets go to these now. Returns one by which they may have gone and that
    /// the host has no more: it is time to connect anew.
    pub fn look(&mut self, servers: &[IpAddr], host: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        self.note(servers.iter().filter_map(|server| source(*server)), host, Instant::now())
    }

    fn note(
        &mut self,
        now_used: impl Iterator<Item = IpAddr>,
        host: &BTreeSet<IpAddr>,
        now: Instant,
    ) -> Option<IpAddr> {
        // A host without addresses is one that could not be looked at.
        if host.is_empty() {
            return None;
        }
        // Loopback, and what others serve themselves, are no addresses of links.
        self.used.extend(now_used.filter(|address| host.contains(address)));
        let gone = self.used.difference(host).next().copied();
        gone.filter(|_| self.anew.is_none_or(|anew| now.duration_since(anew) >= PAUSE))
    }

    /// It was connected to anew: what is gone counts no more.
    pub fn begin_anew(&mut self) {
        *self = Self { used: BTreeSet::new(), anew: Some(Instant::now()) };
    }
}

/// The address that the kernel gives packets to this one. Nothing is sent.
fn source(server: IpAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((server, 443)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn it_is_connected_to_anew_when_an_address_goes_by_which_it_was_spoken_to_and_for_no_other() {
        let mut sources = Sources::default();
        let now = Instant::now();
        let used = |addresses: &[&str]| set(addresses).into_iter();
        assert_eq!(sources.note(used(&["192.0.2.1"]), &set(&["192.0.2.1", "192.0.2.9"]), now), None);
        assert_eq!(sources.note(used(&["192.0.2.1"]), &set(&["192.0.2.1"]), now), None, "another's went");
        assert_eq!(sources.note(used(&[]), &BTreeSet::new(), now), None, "not known");
        // It goes before there is another.
        let gone = sources.note(used(&[]), &set(&["198.51.100.1"]), now);
        assert_eq!(gone, Some("192.0.2.1".parse().unwrap()));
        sources.begin_anew();
        let anew = sources.anew.unwrap();
        assert_eq!(sources.note(used(&["192.0.2.2"]), &set(&["192.0.2.2"]), anew), None);
        assert_eq!(sources.note(used(&[]), &set(&["192.0.2.3"]), anew), None, "too soon");
        assert!(sources.note(used(&[]), &set(&["192.0.2.3"]), anew + PAUSE).is_some());
    }

    #[test]
    fn packets_to_this_host_come_from_it() {
        assert_eq!(source(Ipv4Addr::LOCALHOST.into()), Some(Ipv4Addr::LOCALHOST.into()));
    }
}
