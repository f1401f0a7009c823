//! A Kubernetes cluster: a fabric whose nodes run containerd, kubelet and, on request, kube-proxy.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use tartan_lab::{Cluster, ClusterOptions, images};
//!
//! let cluster = Cluster::start(ClusterOptions::with_segments(&[2, 1]))?; // nodes are registered, NotReady
//! cluster.import_image(&images::test_image()?)?;
//! cluster.helm(&["install", "tartan", "charts/tartan", "--namespace", "tartan-system", "--create-namespace"])?.ok()?;
//! cluster.kubectl(&["wait", "node", "--all", "--for=condition=Ready", "--timeout=60s"])?.ok()?;
//! cluster.node("node1").exec(&["ip", "route"])?.ok()?;
//! # Ok(())
//! # }
//! ```
//!
//! There is no CNI configuration, no podCIDR and no cluster DNS: what makes pods talk is to be installed. A kept
//! cluster (`options.name`, [`Lifetime::Kept`](crate::Lifetime)) outlives its creator; [`Cluster::attach`] finds it
//! again and [`Cluster::down`] removes it.

mod families;
mod machine;

pub use families::Families;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::apiserver::{ApiServer, ApiServerOptions};
use crate::fabric::{Fabric, FabricOptions, Node};
use crate::home::{Home, Lifetime, demolish_named};
use crate::images;
use crate::namespace::Namespace;
use crate::prerequisites::{Tool, require};
use crate::process::Process;
use crate::progress::Step;
use crate::run::{Output, run};
use crate::wait::eventually_ok;

const REGISTERED: Duration = Duration::from_secs(120);

/// What a cluster consists of at first.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    pub fabric: FabricOptions,
    /// A kept cluster needs a name; without one it gets a unique name and lives as long as its owner.
    pub name: Option<String>,
    pub lifetime: Lifetime,
    /// Start without kube-proxy; [`Cluster::start_kube_proxy`] adds it.
    pub without_kube_proxy: bool,
    /// Let kube-controller-manager give podCIDRs to nodes, from this range.
    /// Ranges of two families are separated by a comma.
    pub cluster_cidr: Option<String>,
    pub families: Families,
    pub apiserver_arguments: Vec<String>,
}

impl ClusterOptions {
    /// Segments with this many nodes each.
    pub fn with_segments(nodes: &[usize]) -> Self {
        Self { fabric: FabricOptions::with_segments(nodes), ..Self::default() }
    }
}

/// A running cluster. Dropping it removes all of it, unless it is kept.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: what runs on the nodes, the control plane, the network below both.
    machines: Vec<Machine>,
    scheduler: Process,
    api: ApiServer,
    fabric: Fabric,
    settings: Settings,
}

#[derive(Debug)]
struct Machine {
    node: String,
    runtime: Process,
    proxy: Option<Process>,
}

/// What whoever attaches must know.
#[derive(Debug, Serialize, Deserialize)]
struct Settings {
    proxy: bool,
    #[serde(default)]
    families: Families,
}

impl Cluster {
    /// Starts a cluster and waits until every node is registered. They are NotReady: nothing wires their pods.
    pub fn start(options: ClusterOptions) -> Result<Self> {
        require(&[Tool::Network, Tool::Containers, Tool::Kubernetes, Tool::Helm, Tool::Images])?;
        images::test_image()?;
        let nodes: usize = options.fabric.segments.iter().map(|segment| segment.nodes).sum();
        let step = Step::start(format!("starting a cluster of {nodes} nodes"));
        let home = Arc::new(match &options.name {
            Some(name) => Home::create(name, options.lifetime)?,
            None if options.lifetime == Lifetime::Kept => bail!("a kept cluster needs a name"),
            None => Home::create_unique("cluster")?,
        });
        let started = Self::start_in(&home, options);
        match &started {
            Ok(_) => step.done(),
            Err(_) => home.tell_logs(),
        }
        started
    }

    fn start_in(home: &Arc<Home>, options: ClusterOptions) -> Result<Self> {
        let ClusterOptions {
            fabric,
            without_kube_proxy,
            cluster_cidr,
            families,
            mut apiserver_arguments,
            ..
        } = options;
        let without_v4 = fabric.without_v4 || families == Families::V6;
        let mut fabric = Fabric::start_in(Arc::clone(home), FabricOptions { without_v4, ..fabric })?;
        let controllers = match cluster_cidr {
            Some(range) => vec!["--allocate-node-cidrs=true".to_owned(), format!("--cluster-cidr={range}")],
            None => Vec::new(),
        };
        // Before those of the caller: the last one wins.
        apiserver_arguments.insert(0, format!("--service-cluster-ip-range={}", families.service_ranges()));
        let api = fabric.api_server(ApiServerOptions {
            arguments: apiserver_arguments,
            controller_manager: Some(controllers),
            ..ApiServerOptions::default()
        })?;
        let scheduler = start_scheduler(home, &api)?;
        let settings = Settings { proxy: !without_kube_proxy, families };
        let mut cluster = Self { machines: Vec::new(), scheduler, api, fabric, settings };
        cluster.save()?;
        let names: Vec<String> = cluster.nodes().iter().map(|node| node.name().to_owned()).collect();
        for name in &names {
            cluster.start_machine(name)?;
        }
        cluster.wait_registered(names.len())?;
        cluster.import_image(&images::test_image()?)?;
        Ok(cluster)
    }

    /// A kept cluster that another process has started.
    pub fn attach(name: &str) -> Result<Self> {
        let home = Arc::new(Home::open(name)?);
        let fabric = Fabric::attach(Arc::clone(&home))?;
        let api = ApiServer::attach(Arc::clone(&home))?;
        let scheduler = home.find("kube-scheduler").context("the scheduler of this cluster has died")?;
        let settings = serde_json::from_str(&fs::read_to_string(home.join("cluster.json"))?)?;
        let machines = fabric
            .nodes()
            .iter()
            .map(|node| {
                let name = node.name();
                let runtime = home.find(&format!("{name}.machine"));
                Ok(Machine {
                    node: name.to_owned(),
                    runtime: runtime.with_context(|| format!("the machine {name} has died"))?,
                    proxy: home.find(&format!("{name}.kube-proxy")),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { machines, scheduler, api, fabric, settings })
    }

    /// Removes a lab by name, whatever state it is in: whole, half started, or half removed.
    pub fn down(name: &str) -> Result<()> {
        demolish_named(name)
    }

    pub fn name(&self) -> &str {
        self.fabric.home().name()
    }

    /// Where the cluster keeps its files; `log/` has what every process says.
    pub fn directory(&self) -> &Path {
        self.fabric.home().path()
    }

    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    pub fn fabric_mut(&mut self) -> &mut Fabric {
        &mut self.fabric
    }

    pub fn api(&self) -> &ApiServer {
        &self.api
    }

    /// To stop and restart it.
    pub fn api_mut(&mut self) -> &mut ApiServer {
        &mut self.api
    }

    pub fn nodes(&self) -> &[Node] {
        self.fabric.nodes()
    }

    /// The node of this name; see [`Fabric::node`].
    pub fn node(&self, name: &str) -> &Node {
        self.fabric.node(name)
    }

    /// The addresses of a node that Kubernetes knows, the first family's first.
    pub fn known_addresses(&self, node: &Node) -> Vec<IpAddr> {
        self.settings.families.of(node)
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.api.kubectl(arguments)
    }

    /// `kubectl apply --server-side` of a manifest.
    pub fn apply(&self, manifest: &str) -> Result<Output> {
        self.api.apply(manifest)
    }

    /// Runs Helm as the administrator, with settings of its own.
    pub fn helm(&self, arguments: &[&str]) -> Result<Output> {
        self.api.helm(arguments)
    }

    /// Gives every node the images of a docker or OCI archive.
    pub fn import_image(&self, archive: &Path) -> Result<()> {
        let archive = fs::canonicalize(archive).with_context(|| format!("find {}", archive.display()))?;
        std::thread::scope(|scope| {
            let imports: Vec<_> =
                self.nodes().iter().map(|node| scope.spawn(|| import(node, &archive))).collect();
            imports
                .into_iter()
                .map(|import| import.join().unwrap_or_else(|_| bail!("the import panicked")))
                .collect::<Result<Vec<()>>>()
        })?;
        Ok(())
    }

    /// One more node, registered and with the test image.
    pub fn add_node(&mut self, segment: usize) -> Result<String> {
        let name = self.fabric.add_node(segment)?.name().to_owned();
        self.start_machine(&name)?;
        self.wait_registered(self.machines.len())?;
        import(self.node(&name), &images::test_image()?)?;
        Ok(name)
    }

    /// Takes a node away as a fire would. Its Node object stays: whoever wants it gone deletes it.
    pub fn remove_node(&mut self, name: &str) -> Result<()> {
        self.stop_machine(name)?;
        self.fabric.remove_node(name)
    }

    /// Cuts a node's power and gives it back: an empty `/run`, fresh devices, the same disk.
    pub fn reboot_node(&mut self, name: &str) -> Result<()> {
        self.stop_machine(name)?;
        self.fabric.reboot_node(name)?;
        self.start_machine(name)
    }

    /// Adds kube-proxy to every node of a cluster that was started without it.
    pub fn start_kube_proxy(&mut self) -> Result<()> {
        self.settings.proxy = true;
        self.save()?;
        for machine in &mut self.machines {
            if machine.proxy.is_none() {
                machine.proxy = Some(machine::start_proxy(&self.api, self.fabric.node(&machine.node))?);
            }
        }
        Ok(())
    }

    /// The network of a running pod, with the programs and files of its node: to look into it, or to send traffic.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<Namespace> {
        let fields = "jsonpath={.spec.nodeName} {.status.containerStatuses[0].containerID}";
        let found = self.kubectl(&["--namespace", namespace, "get", "pod", name, "-o", fields])?.ok()?.stdout;
        let (node, container) = found.trim().split_once(" containerd://").context("the pod does not run")?;
        let process = machine::process_of(container)?;
        Ok(Namespace::of_process(
            self.fabric.home(),
            &format!("{namespace}.{name}"),
            process,
            self.node(node),
        ))
    }

    /// The directory with `containerd.log` and `kubelet.log` of a node.
    pub fn logs(&self, node: &str) -> PathBuf {
        machine::log_directory(self.fabric.home(), self.node(node))
    }

    /// The processes of the control plane and of the nodes.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        let machines =
            self.machines.iter().flat_map(|machine| [Some(&machine.runtime), machine.proxy.as_ref()]);
        self.api.processes().chain([&self.scheduler]).chain(machines.flatten())
    }

    fn start_machine(&mut self, name: &str) -> Result<()> {
        let node = self.fabric.node(name);
        let runtime = machine::start(self.fabric.home(), &self.api, node, self.settings.families)?;
        let proxy = match self.settings.proxy {
            true => Some(machine::start_proxy(&self.api, node)?),
            false => None,
        };
        self.machines.push(Machine { node: name.to_owned(), runtime, proxy });
        Ok(())
    }

    fn stop_machine(&mut self, name: &str) -> Result<()> {
        let index = self.machines.iter().position(|machine| machine.node == name);
        let mut machine = self.machines.remove(index.context("there is no such node")?);
        if let Some(proxy) = &mut machine.proxy {
            proxy.kill()?;
        }
        machine.runtime.kill()
    }

    fn wait_registered(&self, count: usize) -> Result<()> {
        let logs = self.directory().join("log");
        eventually_ok("the registration of all nodes", REGISTERED, || {
            let nodes = self.kubectl(&["get", "nodes", "-o", "name"])?.ok()?;
            let found = nodes.stdout.lines().count();
            if found < count {
                bail!("{found} of {count} nodes are registered; see {}", logs.display());
            }
            Ok(())
        })
    }

    fn save(&self) -> Result<()> {
        fs::write(self.directory().join("cluster.json"), serde_json::to_string(&self.settings)?)?;
        Ok(())
    }
}

fn import(node: &Node, archive: &Path) -> Result<()> {
    let path = archive.display().to_string();
    // The node may have been powered on a moment ago.
    eventually_ok("an import", Duration::from_secs(60), || {
        run(&mut machine::ctr(node, &["images", "import", &path]))?.ok()
    })
    .with_context(|| format!("import {path} on {}", node.name()))?;
    Ok(())
}

fn start_scheduler(home: &Home, api: &ApiServer) -> Result<Process> {
    let kubeconfig = api.kubeconfig_for("system:kube-scheduler", &[])?;
    let mut command = api.program("kube-scheduler")?;
    command.arg("--kubeconfig").arg(kubeconfig).arg("--leader-elect=false");
    home.start("kube-scheduler", &command)
}
