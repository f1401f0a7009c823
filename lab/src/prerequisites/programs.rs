//! Go programs, built from the modules in `lab/kubernetes` into the cache.
//!
//! A program's directory is named after its version and a digest of what it is built from, so a changed `go.mod` builds
//! anew and two checkouts share what they have in common.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use super::cache;
use crate::progress::Step;
use crate::run::{command, run};

/// The version of Kubernetes that the lab runs; `go.mod` has the same.
pub const KUBERNETES_VERSION: &str = "1.36.3";

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kubernetes");

/// The Kubernetes programs that are one binary under several names.
const KUBERNETES_NAMES: [&str; 6] =
    ["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"];

/// A program that is built when it is first asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy and kubectl in one.
    Kubernetes,
    Etcd,
    Helm,
    /// The upstream network test image's program.
    Agnhost,
    /// A WireGuard in user space of another's writing.
    WireguardGo,
}

struct Recipe {
    name: &'static str,
    version: &'static str,
    /// The module's directory below [`SOURCES`], and the package to build in it.
    module: &'static str,
    package: &'static str,
    /// Go variables that hold the version.
    stamps: &'static [&'static str],
    cold: &'static str,
}

impl Program {
    fn recipe(self) -> Recipe {
        match self {
            Self::Kubernetes => Recipe {
                name: "kubernetes",
                version: KUBERNETES_VERSION,
                module: ".",
                package: "./control",
                stamps: &[
                    "k8s.io/component-base/version.gitVersion",
                    "k8s.io/client-go/pkg/version.gitVersion",
                ],
                cold: "ten minutes on two cores",
            },
            Self::Etcd => Recipe {
                name: "etcd",
                version: "3.6.8",
                module: ".",
                package: "./etcd",
                stamps: &[],
                cold: "a minute",
            },
            Self::Helm => Recipe {
                name: "helm",
                version: "3.22.0",
                module: "helm",
                package: "helm.sh/helm/v3/cmd/helm",
                stamps: &["helm.sh/helm/v3/internal/version.version"],
                cold: "two minutes",
            },
            Self::Agnhost => Recipe {
                name: "agnhost",
                version: KUBERNETES_VERSION,
                module: ".",
                package: "k8s.io/kubernetes/test/images/agnhost",
                stamps: &[],
                cold: "seconds",
            },
            Self::WireguardGo => Recipe {
                name: "wireguard-go",
                version: "0.0.0-20260522210424-ecfc5a8d5446",
                module: "wireguard",
                package: "golang.zx2c4.com/wireguard",
                stamps: &[],
                cold: "half a minute",
            },
        }
    }

    /// The program's path; it is built if it is not in the cache.
    pub fn path(self) -> Result<PathBuf> {
        let recipe = self.recipe();
        let module = Path::new(SOURCES).join(recipe.module);
        let digest = digest(&module, recipe.package)?;
        let programs = cache()?.join("programs");
        let directory = programs.join(format!("{}-{}-{digest:016x}", recipe.name, recipe.version));
        let program = directory.join(recipe.name);
        if program.exists() {
            return Ok(program);
        }
        fs::create_dir_all(&directory)?;
        // A second one that wants the same program waits here and then finds it.
        let lock = File::create(programs.join(format!("{}.lock", recipe.name)))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .context("lock the cache")?;
        if !program.exists() {
            build(&recipe, &module, &directory)?;
        }
        Ok(program)
    }

    /// One of the names of [`Program::Kubernetes`], such as `kubectl`.
    pub(crate) fn kubernetes(name: &str) -> Result<PathBuf> {
        if crate::vm::is_inside() {
            return Ok(crate::vm::program(name));
        }
        Ok(Self::Kubernetes.path()?.with_file_name(name))
    }
}

fn build(recipe: &Recipe, module: &Path, directory: &Path) -> Result<()> {
    check_go()?;
    let Recipe { name, version, package, stamps, cold, .. } = recipe;
    let step = Step::start(format!("building {name} {version} from source ({cold} the first time)"));
    let start = Instant::now();
    let unfinished = directory.join(format!(".{name}.{}", std::process::id()));
    let mut flags = "-s -w".to_owned();
    for stamp in *stamps {
        flags.push_str(&format!(" -X {stamp}=v{version}"));
    }
    let mut go =
        command(&["go", "build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", &flags, "-o"]);
    go.arg(&unfinished).arg(package).current_dir(module);
    go.env("CGO_ENABLED", "0").env("GOWORK", "off").env("GOFLAGS", "");
    run(&mut go)?.ok().with_context(|| format!("build {name} in {}", module.display()))?;
    if *name == "kubernetes" {
        for link in KUBERNETES_NAMES {
            let link = directory.join(link);
            if !link.is_symlink() {
                symlink(name, link)?;
            }
        }
    }
    // The name appears when everything else is there: it is what says "done".
    fs::rename(&unfinished, directory.join(name))?;
    step.done();
    fs::write(directory.join("seconds"), format!("{:.0}\n", start.elapsed().as_secs_f64()))?;
    Ok(())
}

fn check_go() -> Result<()> {
    let version = match run(&mut command(&["go", "env", "GOVERSION"])) {
        Ok(output) => output.ok()?.stdout,
        Err(_) => bail!("the lab builds Kubernetes from source and needs Go 1.26 or newer in PATH"),
    };
    let minor =
        version.trim().strip_prefix("go1.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    match minor {
        Some(minor) if minor < 26 => bail!("the lab needs Go 1.26 or newer, not {}", version.trim()),
        _ => Ok(()),
    }
}

/// A digest of everything in the repository that the program is made from (FNV-1a: only accidents matter here).
fn digest(module: &Path, package: &str) -> Result<u64> {
    let mut files = vec![module.join("go.mod"), module.join("go.sum")];
    if package.starts_with("./") {
        files.push(module.join(package).join("main.go"));
    }
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        for byte in fs::read(&file).with_context(|| format!("read {}", file.display()))? {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_here_are_those_of_the_go_modules() {
        let kubernetes = fs::read_to_string(Path::new(SOURCES).join("go.mod")).unwrap();
        let helm = fs::read_to_string(Path::new(SOURCES).join("helm/go.mod")).unwrap();
        let wireguard = fs::read_to_string(Path::new(SOURCES).join("wireguard/go.mod")).unwrap();
        for (program, text, module) in [
            (Program::Kubernetes, &kubernetes, "k8s.io/kubernetes"),
            (Program::Etcd, &kubernetes, "go.etcd.io/etcd/server/v3"),
            (Program::Helm, &helm, "helm.sh/helm/v3"),
            (Program::WireguardGo, &wireguard, "golang.zx2c4.com/wireguard"),
        ] {
            let line = format!("{module} v{}", program.recipe().version);
            assert!(text.contains(&line), "go.mod does not require {line}");
        }
    }
}
