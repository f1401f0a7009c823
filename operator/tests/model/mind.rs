//! What an operator knows and decides: the real world, the real decisions, remembered by what they rest on.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    sync::{PoisonError, RwLock},
    time::Instant,
};

use tartan_crds::Family;
use tartan_operator::{
    decide::decide,
    execute::{NetworkVersion, News, learn},
    world::{Change, Choice, Delta, World},
};

use super::{
    hands::{Hands, Learned, Progress},
    objects,
    server::look,
    state::{Act, Block, Leases, Nodes, Reply, Reports, Stage, State, Time, View},
};

/// Decisions and requests that were asked for before: the same question has the same answer.
pub struct Mind {
    mode: &'static str,
    decided: Memory<(View, Time), Vec<Act>>,
    carried_out: Memory<(Act, Vec<Reply>), Progress>,
    looked: Memory<(View, Leases, Stage), (bool, View)>,
    learned: Memory<(View, Vec<Learned>), View>,
    seen: Memory<(View, Nodes, Leases), View>,
    ended_well: Memory<u64, bool>,
}

type Memory<K, V> = RwLock<HashMap<K, V>>;

thread_local! {
    static HANDS: Hands = Hands::new();
}

impl Mind {
    pub fn new(mode: &'static str) -> Self {
        Self {
            mode,
            decided: Memory::default(),
            carried_out: Memory::default(),
            looked: Memory::default(),
            learned: Memory::default(),
            seen: Memory::default(),
            ended_well: Memory::default(),
        }
    }

    /// Whether Nodes are told their blocks.
    pub fn mirrors(&self) -> bool {
        self.mode == "Mirror"
    }

    /// What the operator would write now.
    pub fn decide(&self, view: &View, now: Time) -> Vec<Act> {
        remembered(&self.decided, (view.clone(), now), || {
            let decisions = decide(&self.world(view), objects::timestamp(now));
            decisions.actions.iter().filter_map(|action| objects::small_act(action, view.stage)).collect()
        })
    }

    /// What a write does next.
    pub fn carry_out(&self, act: Act, heard: &[Reply]) -> Progress {
        remembered(&self.carried_out, (act, heard.to_vec()), || {
            HANDS.with(|hands| hands.carry_out(act, heard))
        })
    }

    /// The look around before creates. `true` where they may go ahead.
    pub fn may_create(&self, view: &mut View, state: &State) -> bool {
        let question = (view.clone(), state.leases, state.stage);
        let (may, after) = remembered(&self.looked, question, || {
            let listed_for = view.listed_for.map(objects::version);
            let (may, world, listed_for) = HANDS.with(|hands| {
                hands.may_create(&self.world(view), &listed_for, |request| look(state, request))
            });
            let listed_for = listed_for.as_ref().map(objects::stage);
            (may, View { listed_for, reports: view.reports, ..self.view(&world) })
        });
        *view = after;
        may
    }

    /// Takes in what a write has taught.
    pub fn learn(&self, view: &mut View, news: Vec<Learned>) {
        *view = remembered(&self.learned, (view.clone(), news.clone()), || self.learn_anew(view, news));
    }

    /// Whether things end well from here, as far as it depends on nothing but what is hashed in `from`.
    pub fn ends_well(&self, from: u64, answer: impl FnOnce() -> bool) -> bool {
        remembered(&self.ended_well, from, answer)
    }

    fn learn_anew(&self, view: &View, news: Vec<Learned>) -> View {
        let (mut world, mut reports) = (self.world(view), view.reports);
        for known in news {
            let news = match known {
                Learned::Report(name, report) => {
                    reports[usize::from(name)] = report;
                    continue;
                }
                Learned::Lease(block, lease) => News::Lease(Box::new(objects::lease(block, lease))),
                Learned::NoLease(block) => News::NoLease(objects::subnet(block).object_name()),
                Learned::Doubt(block) => News::LeaseInDoubt(objects::subnet(block).object_name()),
                Learned::Node(name, node) => News::Node(Box::new(objects::node(name, node))),
                Learned::Network(stage) => News::Network(Box::new(objects::parsed_network(stage, self.mode))),
                Learned::NoNode(name) => News::NoNode(objects::node_name(name)),
            };
            learn(&mut world, news, Instant::now());
        }
        View { listed_for: view.listed_for, reports, ..self.view(&world) }
    }

    /// The watches of Nodes and leases deliver what is different in `nodes` and `leases`.
    pub fn see(&self, view: &mut View, nodes: &Nodes, leases: &Leases) {
        if view.nodes != *nodes || view.leases != *leases {
            let question = (view.clone(), *nodes, *leases);
            *view = remembered(&self.seen, question, || self.see_anew(view, nodes, leases));
        }
    }

    fn see_anew(&self, view: &View, nodes: &Nodes, leases: &Leases) -> View {
        let mut world = self.world(view);
        for (block, (known, live)) in (0..).zip(view.leases.iter().zip(leases)) {
            if let Some(change) = news(known, live, |lease| objects::lease(block, *lease)) {
                world.apply(Delta::Leases(change));
            }
        }
        for (name, (known, live)) in (0..).zip(view.nodes.iter().zip(nodes)) {
            if let Some(change) = news(known, live, |node| objects::node(name, *node)) {
                world.apply(Delta::Nodes(change));
            }
        }
        View { listed_for: view.listed_for, reports: view.reports, ..self.view(&world) }
    }

    fn world(&self, view: &View) -> World {
        let since = Instant::now();
        let network = objects::parsed_network(view.stage, self.mode);
        let leases = (0..).zip(view.leases).filter_map(|(block, lease)| Some(objects::lease(block, lease?)));
        let nodes = (0..).zip(view.nodes).filter_map(|(name, node)| Some(objects::node(name, node?)));
        let reports =
            (0..).zip(view.reports).filter_map(|(name, report)| Some(objects::node_network(name, report?)));
        let mut world = World::default();
        for delta in [
            Delta::Nodes(Change::Listed { objects: nodes.collect(), since }),
            Delta::Networks(Change::Listed { objects: vec![network], since }),
            Delta::Pools(Change::Listed { objects: vec![], since }),
            Delta::Leases(Change::Listed { objects: leases.collect(), since }),
            Delta::NodeNetworks(Change::Listed { objects: reports.collect(), since }),
            Delta::ServiceRanges(Change::Listed { objects: vec![], since }),
        ] {
            world.apply(delta);
        }
        world.wishes = (0..)
            .zip(view.wishes)
            .filter_map(|(node, wish)| {
                Some(((objects::node_name(node), Family::V4), (objects::subnet(wish?), Choice::HadBefore)))
            })
            .collect();
        for block in &view.doubts {
            world.leases.doubt(&objects::subnet(*block).object_name());
        }
        world
    }

    fn view(&self, world: &World) -> View {
        let mut view = View {
            nodes: Nodes::default(),
            leases: Leases::default(),
            reports: Reports::default(),
            stage: objects::stage(&NetworkVersion::of(world.network().unwrap())),
            doubts: world.leases.doubtful().map(objects::block_of).collect(),
            wishes: Default::default(),
            listed_for: None,
        };
        for node in world.nodes.iter() {
            let (name, node) = objects::small_node(node);
            view.nodes[usize::from(name)] = Some(node);
        }
        for lease in world.leases.iter() {
            let (block, lease) = objects::small_lease(lease);
            view.leases[usize::from(block)] = Some(lease);
        }
        for ((node, _), (wish, _)) in &world.wishes {
            view.wishes[usize::from(objects::number(node))] = Some(objects::block_of(&wish.to_string()));
        }
        view
    }
}

/// What an operator knows that has just started: everything, and nothing of what was before.
pub fn fresh(nodes: Nodes, leases: Leases, reports: Reports, stage: Stage) -> View {
    let mut view = View {
        nodes,
        leases,
        reports,
        stage,
        doubts: BTreeSet::<Block>::new(),
        wishes: Default::default(),
        listed_for: None,
    };
    for (block, lease) in (0..).zip(leases) {
        if let Some(lease) = lease.filter(|lease| lease.primary && lease.released.is_none()) {
            view.wishes[usize::from(lease.node)] = Some(block);
        }
    }
    view
}

/// What a watch says of an object that was known as `known` and is `live`.
fn news<T: PartialEq, O>(known: &Option<T>, live: &Option<T>, object: impl Fn(&T) -> O) -> Option<Change<O>> {
    match (known, live) {
        (known, Some(live)) if known.as_ref() != Some(live) => Some(Change::Seen(object(live))),
        (Some(known), None) => Some(Change::Gone(object(known))),
        _ => None,
    }
}

fn remembered<K: Eq + Hash, V: Clone>(memory: &Memory<K, V>, question: K, answer: impl FnOnce() -> V) -> V {
    if let Some(known) = memory.read().unwrap_or_else(PoisonError::into_inner).get(&question) {
        return known.clone();
    }
    let answer = answer();
    memory.write().unwrap_or_else(PoisonError::into_inner).insert(question, answer.clone());
    answer
}
