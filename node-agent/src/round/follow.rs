//! Whether packets go as the leases say, or nowhere.

use tartan_datapath::model::{Action, Key, Step};

use super::{Failed, Worked};

impl Worked {
    /// What could not be made sends nothing; what could not be replaced or taken away goes on as before.
    pub(super) fn follows(&self) -> bool {
        let leads = |key: &Key| matches!(key, Key::Route { .. } | Key::XfrmPolicy { .. } | Key::NftTable);
        let stays = |(step, _): &(Step, Failed)| step.action != Action::Create && leads(&step.key);
        self.unseen.is_empty() && !self.failed.iter().any(stays)
    }
}

#[cfg(test)]
mod tests {
    use tartan_datapath::model::{Route, RouteKind, Value};

    use super::*;

    fn worked(action: Action, key: Key) -> Worked {
        let route = Route { kind: RouteKind::Unreachable, source: None, mtu: None };
        let step = Step { action, key: key.clone(), value: Value::Route(route), before: None };
        let failed = Failed { key, reason: "kernel", message: "no".to_owned() };
        Worked { failed: vec![(step, failed)], ..Worked::default() }
    }

    #[test]
    fn what_cannot_be_replaced_or_taken_away_still_leads_packets() {
        let route = || Key::Route { destination: "10.0.1.0/24".parse().unwrap(), metric: 0 };
        assert!(Worked::default().follows());
        assert!(worked(Action::Create, route()).follows(), "there is none");
        assert!(!worked(Action::Replace, route()).follows());
        assert!(!worked(Action::Delete, route()).follows());
        assert!(!worked(Action::Replace, Key::NftTable).follows(), "who is sealed");
        assert!(worked(Action::Replace, Key::Link("tartan0".to_owned())).follows());
        let unseen = vec![("kernel", "routes cannot be read".to_owned())];
        assert!(!Worked { unseen, ..Worked::default() }.follows());
    }
}
