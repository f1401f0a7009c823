//! Which peer has which addresses: a table that is built once, published, and only read from then on.
//!
//! A look-up is at most three steps down a tree that branches on 16, 8 and 8 bits of the address, however many
//! peers there are. It is built anew from all routes when one changes: a quarter of a megabyte is cheaper than
//! telling how to patch it.

use std::{
    collections::{BTreeMap, HashMap},
    iter::successors,
    net::Ipv4Addr,
};

use tartan_datapath::kernel::udp::UdpRoute;

/// Where a peer receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The outer address.
    pub address: Ipv4Addr,
}

/// Entries of a level: nothing, a peer, or the level below.
const NONE: u32 = 0;
/// Marks the number of a level below; otherwise an entry is the number of a peer plus one.
const BELOW: u32 = 1 << 31;
const BRANCHES: usize = 256;

#[derive(Clone, Debug)]
pub struct Table {
    /// By the first 16 bits.
    root: Vec<u32>,
    /// By 8 bits more, each.
    levels: Vec<[u32; BRANCHES]>,
    peers: Vec<Peer>,
    by_address: HashMap<Ipv4Addr, u32>,
    /// Addresses that have a route of their own: further ones of peers, from which their datagrams may come.
    further: HashMap<Ipv4Addr, u32>,
    /// Our own address among the pods', from which we answer.
    source: Option<Ipv4Addr>,
    subnets: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl Table {
    /// The longest prefix wins; of two routes for one prefix, the one that comes last.
    pub fn new(routes: &[UdpRoute]) -> Self {
        let mut table = Self {
            root: vec![NONE; 1 << 16],
            levels: vec![],
            peers: vec![],
            by_address: HashMap::new(),
            further: HashMap::new(),
            source: routes.iter().find_map(|route| route.source),
            subnets: 0,
        };
        // What is longer is written over what is shorter.
        let mut sorted: BTreeMap<(u8, Ipv4Addr), Ipv4Addr> = BTreeMap::new();
        for route in routes {
            sorted.insert((route.subnet.prefix(), route.subnet.network()), route.gateway);
        }
        table.subnets = sorted.len();
        for ((length, network), gateway) in sorted {
            let peer = table.peer_number(gateway);
            if length == 32 {
                table.further.insert(network, peer);
            }
            table.insert(u32::from(network), length, peer + 1);
        }
        table
    }

    /// The number of the peer that has `address`.
    pub fn look_up(&self, address: Ipv4Addr) -> Option<u32> {
        self.walk(address).last()?.checked_sub(1)
    }

    /// The entries on the way down to `address`, of which the last one is its own.
    fn walk(&self, address: Ipv4Addr) -> impl Iterator<Item = u32> {
        let [a, b, c, d] = address.octets();
        let mut below = [c, d].into_iter();
        let top = self.root.get(usize::from(u16::from_be_bytes([a, b]))).copied();
        successors(top, move |entry| {
            let number = (entry & BELOW != 0).then_some((entry & !BELOW) as usize)?;
            self.levels.get(number)?.get(usize::from(below.next()?)).copied()
        })
    }

    pub fn peer(&self, number: u32) -> Option<Peer> {
        self.peers.get(number as usize).copied()
    }

    /// The peer whose datagrams come from `address`: its own, or a further one. A pod's address is none.
    pub fn peer_at(&self, address: Ipv4Addr) -> Option<u32> {
        self.by_address.get(&address).or_else(|| self.further.get(&address)).copied()
    }

    pub fn source(&self) -> Option<Ipv4Addr> {
        self.source
    }

    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    pub fn subnets(&self) -> usize {
        self.subnets
    }

    fn peer_number(&mut self, address: Ipv4Addr) -> u32 {
        let next = u32::try_from(self.peers.len()).unwrap_or(u32::MAX);
        let number = *self.by_address.entry(address).or_insert(next);
        if number == next {
            self.peers.push(Peer { address });
        }
        number
    }

    fn insert(&mut self, network: u32, length: u8, entry: u32) {
        let [a, b, c, d] = network.to_be_bytes();
        let top = usize::from(u16::from_be_bytes([a, b]));
        if length <= 16 {
            let count = 1 << (16 - length);
            self.root.iter_mut().skip(top).take(count).for_each(|at| *at = entry);
            return;
        }
        let above = self.root.get(top).copied().unwrap_or(NONE);
        let mut level = self.level_below(above);
        if let Some(at) = self.root.get_mut(top) {
            *at = BELOW | level;
        }
        if length > 24 {
            let above = self.entry(level, c);
            let below = self.level_below(above);
            self.fill(level, c, 1, BELOW | below);
            level = below;
        }
        let (first, bits) = if length > 24 { (d, 32 - length) } else { (c, 24 - length) };
        self.fill(level, first, 1 << bits, entry);
    }

    /// The level under an entry. A new one says everywhere what the entry said.
    fn level_below(&mut self, entry: u32) -> u32 {
        if entry & BELOW != 0 {
            return entry & !BELOW;
        }
        self.levels.push([entry; BRANCHES]);
        u32::try_from(self.levels.len() - 1).unwrap_or(0)
    }

    fn entry(&self, level: u32, byte: u8) -> u32 {
        self.levels
            .get(level as usize)
            .and_then(|level| level.get(usize::from(byte)))
            .copied()
            .unwrap_or(NONE)
    }

    fn fill(&mut self, level: u32, first: u8, count: usize, entry: u32) {
        if let Some(level) = self.levels.get_mut(level as usize) {
            level.iter_mut().skip(usize::from(first)).take(count).for_each(|at| *at = entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use ipnetwork::Ipv4Network;
    use proptest::prelude::*;

    use super::*;

    fn route(subnet: &str, gateway: &str) -> UdpRoute {
        UdpRoute { subnet: subnet.parse().unwrap(), gateway: gateway.parse().unwrap(), source: None }
    }

    fn address_of(table: &Table, text: &str) -> Option<String> {
        let peer = table.peer(table.look_up(text.parse().unwrap())?)?;
        Some(peer.address.to_string())
    }

    #[test]
    fn the_longest_prefix_wins_whatever_the_order() {
        let mut routes = vec![
            route("10.244.0.0/16", "192.0.2.1"),
            route("10.244.3.0/24", "192.0.2.2"),
            route("10.244.3.128/25", "192.0.2.3"),
            route("10.244.3.200/32", "192.0.2.4"),
            route("10.240.0.0/12", "192.0.2.5"),
        ];
        for _ in 0..2 {
            let table = Table::new(&routes);
            for (destination, expected) in [
                ("10.244.9.9", Some("192.0.2.1")),
                ("10.244.3.127", Some("192.0.2.2")),
                ("10.244.3.128", Some("192.0.2.3")),
                ("10.244.3.200", Some("192.0.2.4")),
                ("10.244.3.201", Some("192.0.2.3")),
                ("10.255.255.255", Some("192.0.2.5")),
                ("10.239.255.255", None),
                ("11.0.0.0", None),
            ] {
                assert_eq!(address_of(&table, destination).as_deref(), expected, "{destination}");
            }
            routes.reverse();
        }
    }

    #[test]
    fn a_peer_with_several_subnets_is_one_peer() {
        let table = Table::new(&[route("10.1.0.0/24", "192.0.2.1"), route("10.2.0.0/24", "192.0.2.1")]);
        assert_eq!((table.peers(), table.subnets()), (1, 2));
        assert_eq!(table.peer_at("192.0.2.1".parse().unwrap()), table.look_up("10.2.0.9".parse().unwrap()));
        assert_eq!(table.peer_at("192.0.2.9".parse().unwrap()), None);
        assert_eq!(table.peer_at("10.2.0.9".parse().unwrap()), None, "a pod is no peer");
        let table = Table::new(&[route("10.1.0.0/24", "192.0.2.1"), route("192.0.2.9/32", "192.0.2.1")]);
        assert_eq!(table.peer_at("192.0.2.9".parse().unwrap()), table.peer_at("192.0.2.1".parse().unwrap()));
    }

    /// So many peers, each with a /24 of pods and a further address of its own.
    fn routes(count: u32) -> Vec<UdpRoute> {
        let of = |subnet: u32, length, gateway: u32| UdpRoute {
            subnet: Ipv4Network::new(subnet.into(), length).unwrap(),
            gateway: gateway.into(),
            source: None,
        };
        let (pods, nodes, further) = (0x0a00_0000, 0xac10_0000, 0xc0a8_0000);
        (0..count)
            .flat_map(|number| {
                let node = nodes + number;
                [of(pods + (number << 8), 24, node), of(further + number, 32, node)]
            })
            .collect()
    }

    #[test]
    fn a_look_up_reads_as_much_among_ten_thousand_peers_as_among_ten() {
        for count in [10, 1_000, 10_000] {
            let routes = routes(count);
            let table = Table::new(&routes);
            assert_eq!((table.peers(), table.subnets()), (count as usize, 2 * count as usize));
            for route in &routes {
                let last = route.subnet.broadcast();
                let found = table.look_up(last).and_then(|number| table.peer(number));
                assert_eq!(found.map(|peer| peer.address), Some(route.gateway), "{last} of {count}");
                let deep = if route.subnet.prefix() <= 24 { 2 } else { 3 };
                assert_eq!(table.walk(last).count(), deep, "{last} of {count}");
            }
            // As deep as the last one, without a route; and what is no peer's at all.
            assert_eq!(table.walk("192.168.255.254".parse().unwrap()).count(), 2, "{count}");
            assert_eq!(table.walk("203.0.113.1".parse().unwrap()).count(), 1, "{count}");
        }
    }

    proptest! {
        #[test]
        fn no_look_up_reads_more_than_three_entries(
            prefixes in prop::collection::vec((any::<u32>(), 0u8..=32), 0..40), more: [u32; 4],
        ) {
            let routes: Vec<UdpRoute> = prefixes.iter().map(|(address, length)| {
                let subnet = Ipv4Network::new((*address).into(), *length).unwrap();
                let subnet = Ipv4Network::new(subnet.network(), *length).unwrap();
                UdpRoute { subnet, gateway: Ipv4Addr::LOCALHOST, source: None }
            }).collect();
            let table = Table::new(&routes);
            for address in prefixes.iter().map(|(address, _)| *address).chain(more) {
                prop_assert!(table.walk(address.into()).count() <= 3);
            }
        }

        #[test]
        fn it_says_what_a_search_through_all_routes_says(
            // Few bits, so that prefixes contain each other.
            prefixes in prop::collection::vec((0u32..64, 8u8..=32), 0..40),
            asked in prop::collection::vec(0u32..64, 20),
        ) {
            let spread = |bits: u32| Ipv4Addr::from((bits & 3) | (bits >> 2 & 3) << 8 | (bits >> 4) << 16 | 10 << 24);
            let routes: Vec<UdpRoute> = prefixes.iter().map(|(bits, length)| {
                let subnet = Ipv4Network::new(spread(*bits), *length).unwrap();
                let subnet = Ipv4Network::new(subnet.network(), *length).unwrap();
                UdpRoute { subnet, gateway: Ipv4Addr::from(u32::from(subnet.network()) ^ u32::from(*length)), source: None }
            }).collect();
            let table = Table::new(&routes);
            for bits in asked {
                let address = spread(bits);
                let best = routes.iter().filter(|route| route.subnet.contains(address)).max_by_key(|route| route.subnet.prefix());
                let found = table.look_up(address).and_then(|number| table.peer(number)).map(|peer| peer.address);
                prop_assert_eq!(found, best.map(|route| route.gateway));
            }
        }
    }
}
