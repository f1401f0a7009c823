//! One look at everything that we own or want.

mod links;

use std::{collections::BTreeMap, net::IpAddr, time::SystemTime};

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    link::LinkMessage,
    neighbour::NeighbourMessage,
    route::{RouteHeader, RouteMessage},
};

use self::links::add_links;
use super::{
    Kernel,
    decode::{self, SeenLink, SeenPort},
    error::ObserveError,
    ike::Unanswered,
    nft::{Forward, NftError},
    offload,
    wireguard::{self, WireguardLink},
};
use crate::mark;
use crate::model::{
    Address, Elements, ForwardException, Key, NftTable, Observed, Offload, Port, Sysctl, UdpPeer, Value,
};

const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// What was seen, and which parts could not be seen: of these nothing is known.
#[derive(Debug, Default)]
pub struct Observation {
    pub observed: Observed,
    pub failures: Vec<ObserveError>,
    /// WireGuard peers that go on with another preshared key than is wanted, while their sessions live.
    pub outdated_preshared: usize,
    pub unanswered: Unanswered,
    /// Until when this node's certificate of IPsec is valid, where it goes by one.
    pub certificate_expiry: Option<SystemTime>,
}

impl Kernel {
    /// Everything that carries our mark, the settings that `desired` names, and foreign objects where
    /// desired ones would be. A part that fails is reported and left out: then nothing of it is deleted,
    /// since it is not in the observation, and what is desired is created again, which does no harm.
    pub async fn observe(&mut self, desired: &Elements) -> Observation {
        let mut seen = Observation::default();
        let links = match self.links().await {
            Ok(links) => links,
            Err(error) => {
                seen.failures.push(error);
                return seen;
            }
        };
        add_links(&links, desired, self.options.user_wireguard.is_some(), &mut seen.observed);
        add_ports(&links, &mut seen.observed);
        self.monitor.know(&links);
        self.learn_user_space(&links);
        let ours: BTreeMap<u32, &SeenLink> =
            links.values().filter(|link| link.is_ours()).map(|link| (link.index, link)).collect();
        for result in [
            self.add_addresses(&ours, &mut seen.observed).await,
            self.add_neighbours(&ours, &mut seen.observed).await,
            self.add_fdb(&ours, &mut seen.observed).await,
            self.add_routes(&links, desired, &mut seen.observed).await,
            self.add_nft(desired, &mut seen.observed).await,
            self.add_wireguard(&ours, desired, &mut seen),
            self.add_policies(&links, desired, &mut seen.observed).await,
        ] {
            seen.failures.extend(result.err());
        }
        self.ike.observe(desired, &mut seen.observed).await;
        seen.unanswered = self.ike.answers.unanswered();
        seen.certificate_expiry = self.ike.expiry;
        self.add_settings(desired, &links, &mut seen);
        for chain in ForwardException::ALL {
            match self.forward(chain).await {
                Ok(Some(forward)) => {
                    // One of two is as good as none, but must still be found by cleaning up.
                    let wanted = desired.contains_key(&Key::ForwardException(chain));
                    if forward.handles.len() == 2 || !(wanted || forward.handles.is_empty()) {
                        seen.observed.ours.insert(Key::ForwardException(chain), Value::ForwardException);
                    }
                }
                Ok(None) => {}
                Err(source) => seen.failures.push(ObserveError::Forward { chain: chain.name(), source }),
            }
        }
        seen
    }

    /// As `facts` has just seen it, or a look of its own.
    async fn forward(&mut self, chain: ForwardException) -> Result<Option<Forward>, NftError> {
        match self.forward_seen.remove(&chain) {
            Some(seen) => Ok(seen),
            None => self.nft.forward(chain).await,
        }
    }

    /// All links by index.
    pub(super) async fn links(&self) -> Result<BTreeMap<u32, SeenLink>, ObserveError> {
        let dump = self.socket.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default())).await;
        let messages = dump.map_err(|source| ObserveError::Dump { what: "links", source })?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(decode::link(link)),
                _ => None,
            })
            .map(|link| (link.index, link))
            .collect())
    }

    async fn add_addresses(
        &self,
        ours: &BTreeMap<u32, &SeenLink>,
        observed: &mut Observed,
    ) -> Result<(), ObserveError> {
        let dump = self.socket.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default())).await;
        for message in dump.map_err(|source| ObserveError::Dump { what: "addresses", source })? {
            let RouteNetlinkMessage::NewAddress(message) = message else { continue };
            let Some((index, facts)) = decode::address(&message) else { continue };
            // The kernel gives itself link-local ones of IPv6, and none of IPv4.
            let settable = facts.global || facts.address.is_ipv4();
            if let (Some(link), true) = (ours.get(&index), settable) {
                let key = Key::Address { link: link.name.clone(), address: facts.address };
                observed.ours.insert(key, Value::Address(Address {}));
            }
        }
        Ok(())
    }

    async fn add_neighbours(
        &self,
        ours: &BTreeMap<u32, &SeenLink>,
        observed: &mut Observed,
    ) -> Result<(), ObserveError> {
        let dump = self.socket.dump(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default())).await;
        for message in dump.map_err(|source| ObserveError::Dump { what: "neighbours", source })? {
            let RouteNetlinkMessage::NewNeighbour(message) = message else { continue };
            let Some((index, address, value)) = decode::neighbour(&message) else { continue };
            if let Some(link) = ours.get(&index).filter(|link| link.vxlan.is_some()) {
                let key = Key::Neighbour { link: link.name.clone(), address };
                observed.ours.insert(key, Value::Neighbour(value));
            }
        }
        Ok(())
    }

    async fn add_fdb(
        &self,
        ours: &BTreeMap<u32, &SeenLink>,
        observed: &mut Observed,
    ) -> Result<(), ObserveError> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        let dump = self.socket.dump(&RouteNetlinkMessage::GetNeighbour(request)).await;
        for message in dump.map_err(|source| ObserveError::Dump { what: "forwarding entries", source })? {
            let RouteNetlinkMessage::NewNeighbour(message) = message else { continue };
            let Some((index, mac, value)) = decode::fdb(&message) else { continue };
            if let Some(link) = ours.get(&index).filter(|link| link.vxlan.is_some()) {
                observed.ours.insert(Key::Fdb { link: link.name.clone(), mac }, Value::Fdb(value));
            }
        }
        Ok(())
    }

    async fn add_routes(
        &self,
        links: &BTreeMap<u32, SeenLink>,
        desired: &Elements,
        observed: &mut Observed,
    ) -> Result<(), ObserveError> {
        let name_of =
            |index| links.get(&index).map_or_else(|| format!("if{index}"), |link| link.name.clone());
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for route in self.all_routes(family).await? {
                if route.table == mark::UDP_TABLE {
                    observed.ours.extend(udp_peer(&route));
                }
                if route.table != MAIN {
                    continue;
                }
                let key = Key::Route { destination: route.destination, metric: route.metric };
                if route.ours {
                    if let Some(element) = route.element(name_of) {
                        observed.ours.insert(key, Value::Route(element));
                    }
                } else if route.tos == 0 && desired.contains_key(&key) {
                    let links: Vec<String> = route.links.iter().map(|index| name_of(*index)).collect();
                    let text = format!("a route of protocol {} dev {}", route.protocol, links.join(", "));
                    observed.foreign.insert(key, text);
                }
            }
        }
        // The first of two with one identity is in force; a foreign one beside ours doesn't block ours.
        observed.foreign.retain(|key, _| !observed.ours.contains_key(key));
        Ok(())
    }

    /// Those of the main table.
    pub(super) async fn routes(&self, family: AddressFamily) -> Result<Vec<decode::SeenRoute>, ObserveError> {
        let mut routes = self.all_routes(family).await?;
        routes.retain(|route| route.table == MAIN);
        Ok(routes)
    }

    async fn all_routes(&self, family: AddressFamily) -> Result<Vec<decode::SeenRoute>, ObserveError> {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let dump = self.socket.dump(&RouteNetlinkMessage::GetRoute(request)).await;
        let messages = dump.map_err(|source| ObserveError::Dump { what: "routes", source })?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => decode::route(route),
                _ => None,
            })
            .collect())
    }

    fn add_wireguard(
        &mut self,
        ours: &BTreeMap<u32, &SeenLink>,
        desired: &Elements,
        seen: &mut Observation,
    ) -> Result<(), ObserveError> {
        let is = |name: &&str| {
            let mut links = ours.values().filter(|link| link.name == **name);
            links.any(|link| link.kind == "wireguard" || self.in_user_space.contains(&link.name))
        };
        let links: Vec<WireguardLink> =
            mark::WIREGUARD.into_iter().filter(is).map(|name| self.wireguard_link(name)).collect();
        let look = wireguard::observe(&links, desired, &mut seen.observed, &mut self.told)
            .map_err(ObserveError::Wireguard)?;
        seen.outdated_preshared = look.outdated;
        self.silent = look.silent;
        Ok(())
    }

    async fn add_nft(&mut self, desired: &Elements, observed: &mut Observed) -> Result<(), ObserveError> {
        let wanted: Option<&NftTable> = match desired.get(&Key::NftTable) {
            Some(Value::NftTable(table)) => Some(table),
            _ => None,
        };
        if let Some(table) = self.nft.observe(wanted).await.map_err(ObserveError::Nft)? {
            observed.ours.insert(Key::NftTable, Value::NftTable(table));
        }
        Ok(())
    }

    /// Whether a setting has left what it was at the last look for anything but what was desired then. Nothing
    /// tells of most of them, and reading them is cheap.
    pub fn settings_altered(&self) -> bool {
        self.settings.iter().any(|(key, seen, desired)| {
            let now = match key {
                Key::Sysctl(name) => {
                    self.sysctls.read(name).ok().map(|value| Value::Sysctl(Sysctl { value }))
                }
                Key::Offload(link) => {
                    offload::tx_checksum(link).ok().map(|on| Value::Offload(Offload { tx_checksum: on }))
                }
                _ => None,
            };
            now.is_some_and(|now| now != *seen && now != *desired)
        })
    }

    fn add_settings(&mut self, desired: &Elements, links: &BTreeMap<u32, SeenLink>, seen: &mut Observation) {
        self.read_settings(desired, links, seen);
        let settings = desired.iter().filter_map(|(key, value)| match key {
            Key::Sysctl(_) | Key::Offload(_) => {
                Some((key.clone(), seen.observed.ours.get(key)?.clone(), value.clone()))
            }
            _ => None,
        });
        self.settings = settings.collect();
    }

    fn read_settings(&self, desired: &Elements, links: &BTreeMap<u32, SeenLink>, seen: &mut Observation) {
        for key in desired.keys() {
            match key {
                // A setting of a link that isn't there yet isn't either.
                Key::Sysctl(name) => match self.sysctls.read(name) {
                    Ok(value) => {
                        seen.observed.ours.insert(key.clone(), Value::Sysctl(Sysctl { value }));
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(source) => {
                        seen.failures.push(ObserveError::Sysctl { path: self.sysctls.path(name), source });
                    }
                },
                Key::Offload(link) if links.values().any(|seen| seen.name == *link) => {
                    match offload::tx_checksum(link) {
                        Ok(tx_checksum) => {
                            seen.observed.ours.insert(key.clone(), Value::Offload(Offload { tx_checksum }));
                        }
                        Err(source) => {
                            seen.failures.push(ObserveError::Offload { link: link.clone(), source });
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// Whatever device it leads to: it goes with it.
fn udp_peer(route: &decode::SeenRoute) -> Option<(Key, Value)> {
    let [IpAddr::V4(gateway)] = route.gateways.as_slice() else { return None };
    let value = UdpPeer { gateway: *gateway, source: route.source };
    route.ours.then_some((Key::UdpPeer(route.destination), Value::UdpPeer(value)))
}

fn add_ports(links: &BTreeMap<u32, SeenLink>, observed: &mut Observed) {
    let bridge = decode::our_bridge(links);
    for link in links.values() {
        if let Some(SeenPort { marked: true, attached }) = link.as_port(bridge) {
            let port = Port { attached, hairpin: link.hairpin };
            observed.ours.insert(Key::Port(link.name.clone()), Value::Port(port));
        }
    }
}
