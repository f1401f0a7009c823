//! Whether packets go as the leases say, or nowhere.

use tartan_datapath::model::{Action, Key, Step, Value};

use super::{Failed, Worked};

impl Worked {
    /// What could not be made sends nothing; what could not be replaced or taken away goes on as before.
    pub(super) fn follows(&self) -> bool {
        let stays = |(step, _): &(Step, Failed)| {
            let leads = matches!(step.key, Key::Route { .. } | Key::XfrmPolicy { .. } | Key::NftTable);
            leads && step.action != Action::Create && !leads_as_before(step)
        };
        self.unseen.is_empty() && !self.failed.iter().any(stays)
    }
}

/// A route of which only the size of packets or their source was to change.
fn leads_as_before(step: &Step) -> bool {
    match (&step.value, &step.before) {
        (Value::Route(now), Some(Value::Route(before))) => now.kind == before.kind,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use tartan_datapath::model::{Route, RouteKind};

    use super::*;

    fn route(kind: RouteKind, mtu: Option<u32>) -> Value {
        Value::Route(Route { kind, source: None, mtu })
    }

    fn worked(action: Action, key: Key) -> Worked {
        let step =
            Step { action, key: key.clone(), value: route(RouteKind::Unreachable, None), before: None };
        let failed = Failed { key, reason: "kernel", message: "no".to_owned() };
        Worked { failed: vec![(step, failed)], ..Worked::default() }
    }

    #[test]
    fn what_cannot_be_replaced_or_taken_away_still_leads_packets() {
        let to = || Key::Route { destination: "10.0.1.0/24".parse().unwrap(), metric: 0 };
        assert!(Worked::default().follows());
        assert!(worked(Action::Create, to()).follows(), "there is none");
        assert!(!worked(Action::Replace, to()).follows());
        assert!(!worked(Action::Delete, to()).follows());
        assert!(!worked(Action::Replace, Key::NftTable).follows(), "who is sealed");
        assert!(worked(Action::Replace, Key::Link("tartan0".to_owned())).follows());
        for (kind, is_it) in
            [(RouteKind::Unreachable, true), (RouteKind::Device { link: "tartan-ipip".to_owned() }, false)]
        {
            let mut worked = worked(Action::Replace, to());
            worked.failed[0].0.before = Some(route(kind, Some(1400)));
            assert_eq!(worked.follows(), is_it);
        }
        let unseen = vec![("kernel", "routes cannot be read".to_owned())];
        assert!(!Worked { unseen, ..Worked::default() }.follows());
    }
}
