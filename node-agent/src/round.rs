//! One round: from the inputs to a kernel that agrees with them. Every wake-up runs this and only this.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use tartan_crds::conditions::reason;
use tartan_daemon::chain;
use tartan_datapath::{
    kernel::Kernel,
    model::{Backend, Deletions},
};

use crate::{
    assess::{Assessment, Failed, Findings, assess},
    brakes::{Programmed, Verdict},
    cni::{
        self, Counted,
        files::{Places, Texts, Written},
        vacate::Vacating,
    },
    companions::Companions,
    extension,
    ground::{self, Ground},
    inputs::Snapshot,
    intent::Built,
    metrics::Metrics,
    other_family::OtherFamily,
    publish::{Availability, Published, observed_lease, status},
};

mod findings;
mod follow;
mod handshakes;
mod tell;
mod worked;

use findings::{findings, wireguard_links};
pub use handshakes::Answered;
use handshakes::Handshakes;
use tell::{record, say};
use worked::{Worked, program};

/// A node that is broken for this long says so to the scheduler. What the next rounds repair is no news.
const BREAKDOWN: Duration = Duration::from_secs(10);

/// The surroundings of a round.
#[derive(Debug)]
pub struct Place<'a> {
    pub node: &'a str,
    pub api_server: &'a [IpAddr],
    pub places: &'a Places,
    pub metrics: &'a Metrics,
    /// What no start of a pod takes longer than.
    pub pod_start_limit: Duration,
    /// What came of telling the administrator's programs.
    pub extension: &'a extension::Report,
}

/// What a round leaves for the next one. A new process starts without, and loses nothing by it.
#[derive(Debug, Default)]
pub struct Memory {
    /// The last intent from complete inputs.
    pub held: Option<Built>,
    /// The leases that it was programmed for.
    pub programmed: Option<Programmed>,
    /// Leases that a direct list has shown to be gone.
    pub confirmed_gone: BTreeSet<String>,
    /// What our files should say.
    pub texts: Option<Texts>,
    /// Backends that could not be set up.
    pub lost: BTreeSet<Backend>,
    /// WireGuard links that could not, though the other one works.
    pub lost_links: BTreeSet<&'static str>,
    /// Who had answered, while packets wait for others to: a further one is worth a round.
    pub answered: Option<Answered>,
    /// Who is to answer WireGuard before packets go by it.
    pub handshakes: Handshakes,
    /// When any peer was last asked by the IKE daemon.
    asked: Option<Instant>,
    /// What the CNI configuration on disk leaves out.
    pub vacating: Vacating,
    pub companions: Companions,
    pub(crate) other_family: OtherFamily,
    addresses: Counted,
    /// Since when this node's network doesn't work, for a cause of its own.
    broken_since: Option<Instant>,
    /// What was logged last, so that a quiet system is silent.
    said: Assessment,
}

/// What came of a round.
#[derive(Debug)]
pub struct Round {
    pub published: Published,
    /// The host's own, at the beginning.
    pub addresses: BTreeSet<IpAddr>,
    /// Leases to ask the API server about.
    pub unconfirmed: BTreeSet<String>,
    /// What the administrator's programs should know; `None`: no other than before.
    pub extension: Option<extension::Wanted>,
    /// False: try again soon.
    pub settled: bool,
    /// Something was changed.
    pub worked: bool,
    /// Where it is settled: when to go round again all the same.
    pub again: Option<Duration>,
}

/// Goes round once.
pub async fn round(
    place: &Place<'_>,
    snapshot: Snapshot<'_>,
    kernel: &mut Kernel,
    memory: &mut Memory,
) -> Round {
    let started = Instant::now();
    let ground = ground::find(place.node, place.api_server, snapshot, kernel, memory).await;
    let mut worked = program(&ground, kernel).await;
    worked.daemon_awaited = memory.companions.daemon_is_awaited(started);
    memory.handshakes.learn(&worked.desired.paths, started);
    worked.process_awaited = memory.companions.user_wireguard(worked.finds_wireguard(), started);
    let files = write_files(place, &ground, &worked, memory);
    let known = match &ground {
        Ground::Fresh { built, .. } if files.written => Some(built.returning.as_slice()),
        // What the files offer, or the next second makes of them, is not known.
        _ => None,
    };
    let met = memory.vacating.answer(known, &place.places.data_dir(), place.pod_start_limit);
    let said = snapshot.node_net.and_then(|own| own.status.as_deref());
    let said = said.map_or(&[][..], |said| &said.address_use);
    let named = snapshot.leases.values().filter(|lease| lease.node == place.node).map(|lease| lease.subnet);
    memory.addresses.count(&place.places.data_dir(), ground.built().map(|built| &built.intent), named, said);
    let troubles = place.extension.troubles();
    let mut verdict = assess(&Findings {
        extension: &troubles,
        no_handshake: memory.handshakes.late(started),
        ..findings(&ground, &worked, &files)
    });
    verdict.troubles.extend(memory.addresses.trouble());
    let availability = availability(&verdict, memory);
    let again = matches!(ground, Ground::None { again: true, .. })
        // The paths of this round still counted on it, or did without.
        || memory.lost != verdict.lost
        || memory.lost_links != verdict.lost_links
        || memory.companions.is_missing()
        || (memory.broken_since.is_some() && availability.is_none());
    let published = publish(place, snapshot, &ground, &worked, &verdict, (availability, &met), memory);
    let settled = worked.settled() && files.error.is_none() && !again;
    record(place.metrics, &ground, &worked, &verdict, settled);
    place.metrics.show(|view| view.addresses = memory.addresses.by_family());
    place.metrics.round(
        match (&ground, settled) {
            (Ground::None { .. }, _) => "waiting",
            (_, true) => "ok",
            (_, false) => "failed",
        },
        started.elapsed(),
    );
    memory.lost.clone_from(&verdict.lost);
    memory.lost_links.clone_from(&verdict.lost_links);
    say(verdict, memory);
    if settled {
        forget_keys(&ground, kernel).await;
    }
    let extension = told(snapshot, &ground, &worked);
    let addresses = ground.facts().addresses().collect();
    let unconfirmed = remember(ground, memory);
    let answers = worked.answers(&mut memory.asked, started);
    Round {
        published,
        addresses,
        settled: settled && unconfirmed.is_empty(),
        unconfirmed,
        extension,
        worked: !worked.applied.is_empty(),
        again: [met.again, answers, memory.handshakes.again(started)].into_iter().flatten().min(),
    }
}

/// What the Node should say of its network; `None`: what it says already.
fn availability(verdict: &Assessment, memory: &mut Memory) -> Option<Availability> {
    // Pods of before go on without these, and a new node says nothing yet.
    let waiting = [reason::NO_CLUSTER_NETWORK, reason::NO_LEASE, reason::INPUTS_INCOMPLETE];
    match &verdict.not_ready {
        None => {
            memory.broken_since = None;
            Some(Availability::Available)
        }
        Some(why) if waiting.contains(&why.reason) => {
            memory.broken_since = None;
            None
        }
        Some(why) => {
            let since = *memory.broken_since.get_or_insert_with(Instant::now);
            (since.elapsed() >= BREAKDOWN).then(|| Availability::Unavailable(why.clone()))
        }
    }
}

/// Nothing is taken back on ground that is in doubt.
fn told(snapshot: Snapshot<'_>, ground: &Ground, worked: &Worked) -> Option<extension::Wanted> {
    let Ground::Fresh { built, .. } = ground else { return None };
    let network = snapshot.network.filter(|_| ground.deletions() == Deletions::Allowed)?;
    Some(extension::wanted(network, &snapshot, &built.intent, &worked.desired.paths))
}

/// Takes a fresh ground into memory. The leases whose end must be confirmed.
fn remember(ground: Ground, memory: &mut Memory) -> BTreeSet<String> {
    memory.answered = None;
    let Ground::Fresh { built, now, verdict, .. } = ground else { return BTreeSet::new() };
    let waits = memory.handshakes.are_awaited() || wireguard_links(&built).len() > 1;
    memory.answered = waits.then(|| Answered::of(&built.intent));
    memory.held = Some(built);
    match verdict {
        // Not remembered as programmed: what vanished is still there.
        Verdict::Confirm { vanished, .. } => vanished,
        // Also where a step failed: one bad peer must not leave the brake without a memory.
        Verdict::Go => {
            memory.programmed = Some(now);
            memory.confirmed_gone.clear();
            BTreeSet::new()
        }
    }
}

/// How it stands with the files that are ours.
#[derive(Debug, Default)]
struct Files {
    error: Option<String>,
    foreign: Option<String>,
    shadowing: Option<String>,
    /// They say what they should.
    written: bool,
}

/// Keys of links that are gone go too, once everything else is as it should be.
async fn forget_keys(ground: &Ground, kernel: &mut Kernel) {
    let Ground::Fresh { built, verdict: Verdict::Go, .. } = ground else { return };
    match kernel.forget_wireguard_keys(&built.key_generations).await {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "removed WireGuard keys of before"),
        Err(error) => tracing::warn!(%error, "cannot remove WireGuard keys of before"),
    }
}

/// Only after a pass that has this node's own objects in place: a runtime that finds the file starts pods.
fn write_files(place: &Place<'_>, ground: &Ground, worked: &Worked, memory: &mut Memory) -> Files {
    let mut files = Files::default();
    let Some(built) = ground.built() else { return files };
    if assess(&findings(ground, worked, &files)).not_ready.is_some() {
        return files;
    }
    let texts = Texts {
        conflist: cni::conflist(&built.intent, &built.returning, &place.places.data_dir()),
        subnet_env: cni::subnet_env(&built.intent),
    };
    match place.places.write(&texts) {
        Ok(Written { count, foreign }) => {
            if count > 0 && memory.texts.as_ref() == Some(&texts) {
                // Somebody altered them: what they offered meanwhile is not known.
                memory.vacating = Vacating::default();
            }
            if count > 0 {
                place.metrics.files_written(count);
                tracing::info!(count, "wrote CNI configuration and subnet.env");
            }
            files.written = true;
            files.foreign = foreign.map(|path| path.display().to_string());
        }
        Err(error) => {
            place.metrics.failure("files");
            files.error = Some(chain(&error));
        }
    }
    memory.texts = Some(texts);
    files.shadowing = place.places.shadowing();
    files
}

fn publish(
    place: &Place<'_>,
    snapshot: Snapshot<'_>,
    ground: &Ground,
    worked: &Worked,
    verdict: &Assessment,
    (availability, met): (Option<Availability>, &cni::vacate::Met),
    memory: &Memory,
) -> Published {
    let built = ground.built();
    let followed = built.filter(|_| worked.follows());
    let view = status::NodeView {
        generation: snapshot.node_net.and_then(|own| own.generation),
        observed_lease: observed_lease(followed, &snapshot),
        ending: built.map_or(&[], |built| &built.ending),
        kernel_version: &ground.facts().kernel_version,
        intent: built.map(|built| &built.intent),
        paths: &worked.desired.paths,
        receives: verdict.reception,
        lost: &verdict.lost,
        address_use: memory.addresses.figures(),
        not_ready: verdict.not_ready.as_ref(),
        troubles: &verdict.troubles,
    };
    Published {
        lease: built.filter(|_| verdict.reception).map(|built| {
            let mut lease = status::lease(&built.intent, &verdict.lost, &verdict.lost_links);
            lease.endpoints.extend(place.extension.end_point(&built.intent));
            lease
        }),
        primary_leases: built.map(|built| built.primary_leases.clone()).unwrap_or_default(),
        further_leases: built.map_or_else(Vec::new, |built| {
            let answer = |name: &String| (name.clone(), met.leases.get(name).cloned());
            built.further_leases.iter().map(answer).collect()
        }),
        is_awaited: !view.ending.is_empty(),
        is_blind: followed.is_none(),
        node_network: status::node_network(view, Timestamp::now()),
        availability,
    }
}
