//! Whether nodes are again what they were. Not compared are the peers of a WireGuard device that is there before and
//! after, nor which of two associations of one pair the IKE daemons have.

use std::collections::BTreeMap;

use tartan_lab::HostView;

use super::{scene::Scene, wait_for};

/// In which the agent has files.
const DIRECTORIES: [&str; 2] = ["/etc/cni", "/run/tartan"];

/// By node.
pub type Views = BTreeMap<String, HostView>;

impl Scene {
    /// What an administrator sees on each node, when its new addresses are in use.
    pub fn views(&self) -> Views {
        wait_for("addresses to be in use", || {
            let words = ["ip", "-6", "-oneline", "address", "show", "tentative"];
            for node in self.fabric.nodes() {
                let tentative = node.exec(&words)?.ok()?.stdout;
                anyhow::ensure!(tentative.is_empty(), "{}: {tentative}", node.name());
            }
            Ok(())
        });
        let views = self.fabric.nodes().iter().map(|node| {
            let view = HostView::of(node, &DIRECTORIES).unwrap();
            (node.name().to_owned(), view)
        });
        views.collect()
    }

    pub fn wait_until_as(&self, before: &Views) {
        wait_for("all nodes to be as they were", || {
            for (name, view) in before {
                let now = HostView::of(self.fabric.node(name), &DIRECTORIES)?;
                let changed = view.diff(&now);
                anyhow::ensure!(changed.is_empty(), "{name}:\n{changed}");
            }
            Ok(())
        });
    }
}
