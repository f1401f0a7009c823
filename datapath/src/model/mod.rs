//! Plain values that the pure middle and the kernel edge share.

mod element;
mod facts;
mod intent;
mod ipsec;
mod plan;
mod wireguard;

pub use element::{
    Address, Elements, Fdb, ForwardException, Key, Link, LinkKind, Neighbour, NftTable, Offload, Port, Route,
    RouteKind, Sysctl, UdpPeer, Value, WireguardDevice, WireguardPeer,
};
pub use facts::{AddressFacts, DefaultRoute, Facts, LinkFacts};
pub use intent::{
    Backend, Endpoints, Family, Host, Intent, Local, Mac, MacError, Masquerade, Peer, Present, Protected,
    Side, Subnet, Udp, Uplink, Vxlan, Wireguard,
};
pub use ipsec::{
    Direction, IkeAuthentication, IkeConnection, IkeCredentials, IkeSettings, XfrmPolicy, request,
};
pub use plan::{Action, Conflict, Deletions, Observed, Plan, Step};
pub use wireguard::{
    Preshared, PresharedKey, PresharedKeyError, PublicKey, PublicKeyError, WireguardEndpoint,
};
