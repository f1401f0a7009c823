//! IPsec policies (linux/xfrm.h): those of our interface number, which say what must be wrapped and for whom.
//! The associations that wrap are the IKE daemon's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use netlink_packet_xfrm::{
    Address, IPPROTO_ESP, Selector, UserPolicyId, UserPolicyInfo, UserTemplate, XFRM_MODE_TUNNEL,
    XFRM_POLICY_ALLOW, XFRM_POLICY_FWD, XFRM_POLICY_IN, XFRM_POLICY_OUT, XfrmAttrs, XfrmMessage,
    policy::{DelGetMessage, ModifyMessage},
    state::GetDumpMessage,
};
use rtnetlink::{packet_core::NLM_F_DUMP, sys::protocols::NETLINK_XFRM};

use super::{
    Kernel,
    decode::SeenLink,
    error::{ApplyError, ObserveError},
    quiet::Quiet,
    socket::{RequestError, Socket},
};
use crate::{
    mark,
    model::{Action, Direction, Elements, Key, Observed, Step, Value, XfrmPolicy, request},
};

/// `AF_INET6` (linux/socket.h).
const INET6: u16 = 10;

impl Kernel {
    /// Adds our policies. Nothing where IPsec is neither wanted nor was before.
    pub(super) async fn add_policies(
        &mut self,
        links: &BTreeMap<u32, SeenLink>,
        desired: &Elements,
        observed: &mut Observed,
    ) -> Result<(), ObserveError> {
        let failed = |source| ObserveError::Dump { what: "IPsec policies", source };
        let wanted = desired.keys().any(|key| matches!(key, Key::XfrmPolicy { .. }));
        let ours = || links.values().any(|link| link.is_ours() && link.name == mark::IPSEC);
        if self.xfrm.is_none() && (wanted || ours()) {
            self.xfrm = Some(Socket::open(NETLINK_XFRM).map_err(failed)?);
        }
        let Some(socket) = &self.xfrm else { return Ok(()) };
        for message in socket.dump(&XfrmMessage::GetPolicy(DelGetMessage::default())).await.map_err(failed)? {
            let XfrmMessage::AddPolicy(policy) = message else { continue };
            if let Some((key, value)) = element(&policy) {
                observed.ours.insert(key, Value::XfrmPolicy(value));
            }
        }
        Ok(())
    }

    /// The other ends of associations by which packets can go out, by outer address.
    pub fn associations(&self) -> Result<BTreeSet<IpAddr>, ObserveError> {
        let request_all = XfrmMessage::GetDumpSa(GetDumpMessage::default());
        // With their keys.
        let found = Quiet::open(NETLINK_XFRM).and_then(|socket| socket.ask(request_all, NLM_F_DUMP));
        let found = found.map_err(|source| ObserveError::Dump { what: "IPsec associations", source })?;
        let other_end = |message| {
            let XfrmMessage::AddSa(association) = message else { return None };
            let info = association.user_sa_info;
            let remote = address(info.id.daddr, info.family);
            // One without a number only waits for the daemon.
            (info.id.proto == IPPROTO_ESP && info.id.spi != 0 && info.reqid == request(remote))
                .then_some(remote)
        };
        Ok(found.into_iter().filter_map(other_end).collect())
    }

    /// The results of these steps, in their order.
    pub(super) async fn apply_policies(&self, steps: &[Step]) -> Vec<Result<(), ApplyError>> {
        let Some(socket) = &self.xfrm else {
            let closed = || Err(ApplyError::Netlink(RequestError::Closed));
            return steps.iter().map(|_| closed()).collect();
        };
        let messages: Vec<_> = steps.iter().filter_map(message).map(|message| (message, 0)).collect();
        if messages.len() != steps.len() {
            return steps.iter().map(|_| Err(ApplyError::Mismatch)).collect();
        }
        let results = socket.send(messages).await;
        results.into_iter().map(|result| result.map_err(ApplyError::Netlink)).collect()
    }
}

fn message(step: &Step) -> Option<XfrmMessage> {
    let (Key::XfrmPolicy { direction, source, destination }, Value::XfrmPolicy(policy)) =
        (&step.key, &step.value)
    else {
        return None;
    };
    let selector = selector(*source, *destination);
    let direction = number(*direction);
    if step.action == Action::Delete {
        let user_policy_id = UserPolicyId { selector, index: 0, direction };
        let nlas = vec![XfrmAttrs::IfId(mark::XFRM_INTERFACE)];
        return Some(XfrmMessage::DeletePolicy(DelGetMessage { user_policy_id, nlas }));
    }
    let user_policy_info =
        UserPolicyInfo { selector, direction, action: XFRM_POLICY_ALLOW, ..UserPolicyInfo::default() };
    let mut template = UserTemplate { reqid: policy.request, mode: XFRM_MODE_TUNNEL, ..Default::default() };
    template.source(&policy.source);
    template.destination(&policy.destination);
    template.protocol(IPPROTO_ESP);
    let nlas = vec![XfrmAttrs::Template(vec![template]), XfrmAttrs::IfId(mark::XFRM_INTERFACE)];
    let message = ModifyMessage { user_policy_info, nlas };
    Some(match step.action {
        Action::Create => XfrmMessage::AddPolicy(message),
        // In one step: no packet sees neither.
        _ => XfrmMessage::UpdatePolicy(message),
    })
}

/// A policy of our number as an element. One of a form that we don't make has a value that nothing asks for.
fn element(policy: &ModifyMessage) -> Option<(Key, XfrmPolicy)> {
    policy.nlas.contains(&XfrmAttrs::IfId(mark::XFRM_INTERFACE)).then_some(())?;
    let info = &policy.user_policy_info;
    let Selector { saddr, daddr, prefixlen_s, prefixlen_d, family, .. } = info.selector;
    let key = Key::XfrmPolicy {
        direction: Direction::ALL.into_iter().find(|known| number(*known) == info.direction)?,
        source: IpNetwork::new(address(saddr, family), prefixlen_s).ok()?,
        destination: IpNetwork::new(address(daddr, family), prefixlen_d).ok()?,
    };
    let template = policy.nlas.iter().find_map(|attribute| match attribute {
        XfrmAttrs::Template(templates) => match templates.as_slice() {
            [template] => Some(*template),
            _ => None,
        },
        _ => None,
    });
    let plain = info.action == XFRM_POLICY_ALLOW
        && template.is_some_and(|template| {
            (template.id.proto, template.mode, template.optional) == (IPPROTO_ESP, XFRM_MODE_TUNNEL, 0)
        });
    let template = template.filter(|_| plain).unwrap_or_default();
    let value = XfrmPolicy {
        source: address(template.saddr, template.family),
        destination: address(template.id.daddr, template.family),
        request: template.reqid,
    };
    Some((key, value))
}

fn selector(source: IpNetwork, destination: IpNetwork) -> Selector {
    let mut selector = Selector::default();
    selector.source_prefix(&source.network(), source.prefix());
    selector.destination_prefix(&destination.network(), destination.prefix());
    selector
}

fn address(address: Address, family: u16) -> IpAddr {
    if family == INET6 { IpAddr::V6(address.to_ipv6()) } else { IpAddr::V4(address.to_ipv4()) }
}

fn number(direction: Direction) -> u8 {
    match direction {
        Direction::In => XFRM_POLICY_IN,
        Direction::Forward => XFRM_POLICY_FWD,
        Direction::Out => XFRM_POLICY_OUT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_was_sent_is_read_back_as_the_same_element() {
        let net = |text: &str| text.parse().unwrap();
        let ip = |text: &str| text.parse().unwrap();
        for (source, destination, outer) in [
            ("0.0.0.0/0", "10.244.3.0/24", ["192.0.2.1", "192.0.2.2"]),
            ("fd00:1::/64", "::/0", ["192.0.2.1", "192.0.2.2"]),
            ("10.244.3.0/24", "0.0.0.0/0", ["2001:db8::1", "2001:db8::2"]),
        ] {
            for direction in Direction::ALL {
                let key = Key::XfrmPolicy { direction, source: net(source), destination: net(destination) };
                let value = XfrmPolicy { source: ip(outer[0]), destination: ip(outer[1]), request: 7 };
                let step = Step {
                    action: Action::Create,
                    key: key.clone(),
                    value: Value::XfrmPolicy(value),
                    before: None,
                };
                let Some(XfrmMessage::AddPolicy(mut sent)) = message(&step) else { panic!("no message") };
                assert_eq!(element(&sent), Some((key.clone(), value)));
                // One that would let packets through as they are.
                sent.nlas.retain(|attribute| !matches!(attribute, XfrmAttrs::Template(_)));
                let (found, altered) = element(&sent).unwrap();
                assert!(found == key && altered != value);
                sent.nlas = vec![XfrmAttrs::IfId(85)];
                assert_eq!(element(&sent), None);
            }
        }
    }
}
