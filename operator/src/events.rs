//! Kubernetes events: what an administrator reads in `kubectl describe`.
//!
//! Written by a task of its own, so that no lease waits for an event, and slowly, so that two thousand nodes
//! without a block are no flood: what does not fit is dropped and counted. Nothing rests on an event.

use std::time::Duration;

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tartan_crds::{
    conditions::reason,
    wellknown::{GROUP, VERSION, field_manager},
};
use tokio::{sync::mpsc, task::JoinHandle, time::MissedTickBehavior};

use crate::{metrics::Metrics, world::ChartValues};

/// Events that may wait; beyond that they are dropped.
const QUEUE: usize = 128;
const PACE: Duration = Duration::from_millis(100);
/// The API server refuses longer notes.
const LONGEST_NOTE: usize = 1024;

/// Where to send events.
#[derive(Clone, Debug)]
pub struct Events {
    to: mpsc::Sender<(ObjectReference, Event)>,
    metrics: Metrics,
}

/// What an event is about: an object, and what else has a part in it.
///
/// Of events within some minutes that differ in nothing but their notes, only the first is kept, with a count. Where
/// each is to be read, `related` tells them apart.
pub struct About {
    object: ObjectReference,
    related: Option<ObjectReference>,
}

impl About {
    pub fn with_related(object: ObjectReference, related: ObjectReference) -> Self {
        Self { object, related: Some(related) }
    }
}

impl From<ObjectReference> for About {
    fn from(object: ObjectReference) -> Self {
        Self { object, related: None }
    }
}

impl Events {
    /// Starts the task that writes events. It ends when every sender is gone.
    pub fn start(client: Client, instance: String, metrics: Metrics) -> (Self, JoinHandle<()>) {
        let (to, queue) = mpsc::channel(QUEUE);
        let reporter = Reporter { controller: field_manager::OPERATOR.to_owned(), instance: Some(instance) };
        let recorder = Recorder::new(client, reporter);
        let task = tokio::spawn(write_all(recorder, queue, metrics.clone()));
        (Self { to, metrics }, task)
    }

    pub fn warn(&self, about: impl Into<About>, reason: &str, action: &str, note: String) {
        self.send(about.into(), EventType::Warning, reason, action, note);
    }

    pub fn note(&self, about: impl Into<About>, reason: &str, action: &str, note: String) {
        self.send(about.into(), EventType::Normal, reason, action, note);
    }

    /// The event of a condition: a warning unless it holds, or says that all is well.
    pub fn publish(&self, about: ObjectReference, condition: &Condition, note: String) {
        let well = condition.status == "True" || condition.reason == reason::OK;
        let kind = if well { EventType::Normal } else { EventType::Warning };
        self.send(about.into(), kind, &condition.reason, &condition.type_, note);
    }

    fn send(&self, about: About, kind: EventType, reason: &str, action: &str, mut note: String) {
        let end = note.floor_char_boundary(LONGEST_NOTE);
        note.truncate(end);
        let event = Event {
            type_: kind,
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: about.related,
        };
        if self.to.try_send((about.object, event)).is_err() {
            self.metrics.event_dropped();
        }
    }
}

async fn write_all(
    recorder: Recorder,
    mut queue: mpsc::Receiver<(ObjectReference, Event)>,
    metrics: Metrics,
) {
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while let Some((about, event)) = queue.recv().await {
        pace.tick().await;
        if let Err(error) = recorder.publish(&event, &about).await {
            metrics.event_dropped();
            tracing::debug!(error = crate::client::text(&error), reason = event.reason, "event not written");
        }
    }
}

/// A cluster-scoped object of ours.
pub fn ours(kind: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(format!("{GROUP}/{VERSION}")),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()).filter(|uid| !uid.is_empty()),
        ..ObjectReference::default()
    }
}

/// A Node. `kubectl describe node` looks for events whose UID is the Node's name (what the kubelet writes)
/// and for those with its UID.
pub fn node(name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()).filter(|uid| !uid.is_empty()),
        ..ObjectReference::default()
    }
}

/// The ConfigMap of the chart's values.
pub fn config_map(values: &ChartValues) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("ConfigMap".to_owned()),
        namespace: Some(values.namespace.clone()),
        name: Some(values.meta.name.clone()),
        uid: Some(values.meta.uid.clone()),
        ..ObjectReference::default()
    }
}
