//! Kernels for virtual machines: Debian's, as they come.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::backports::unpacked;
use crate::run::{command, run};

/// A series of kernels that machines run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Of Debian 12.
    V6_1,
    /// Of its backports.
    V6_12,
}

/// What pod networks need beyond what is built in: tunnels, encryption, filters, links, traffic shaping for
/// tests, and what the lab itself needs.
const MODULES: [&str; 50] = [
    "aes_generic",
    "aesni_intel",
    "authenc",
    "br_netfilter",
    "bridge",
    "cryptd",
    "ctr",
    "drbg",
    "dummy",
    "esp4",
    "esp6",
    "gcm",
    "ghash_generic",
    "hmac",
    "ip6_tunnel",
    "ipip",
    "jitterentropy_rng",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "nf_tables",
    "nft_chain_nat",
    "nft_compat",
    "nft_ct",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_masq",
    "nft_meta_bridge",
    "nft_nat",
    "nft_numgen",
    "nft_objref",
    "nft_redir",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "overlay",
    "sch_netem",
    "seqiv",
    "sha256_generic",
    "sha512_generic",
    "tun",
    "veth",
    "virtio_net",
    "virtio_pci",
    "tun",
    "vxlan",
    "wireguard",
    "xfrm_interface",
    "xfrm_user",
];

/// A kernel in the cache.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) image: PathBuf,
    /// Files of modules, each after those that it needs.
    pub(super) modules: Vec<PathBuf>,
}

impl Kernel {
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// As in `uname -r`.
    pub fn series(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    pub(super) fn unpack(self) -> Result<Unpacked> {
        let name = format!("linux-{}", self.series());
        let prefix = format!("linux-image-{}.", self.series());
        let root = unpacked(&name, "linux-image-cloud-amd64", self == Self::V6_12, |file| {
            file.starts_with(&prefix)
        })?;
        let boot = root.join("boot");
        let image = fs::read_dir(&boot)
            .ok()
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
            .with_context(|| {
                format!(
                    "Debian has no cloud kernel {} any more, or the cache is damaged: remove {}",
                    self.series(),
                    root.parent().unwrap_or(&root).display()
                )
            })?;
        let release = image.file_name().unwrap_or_default().to_string_lossy().replace("vmlinuz-", "");
        let modules = ["usr/lib/modules", "lib/modules"]
            .map(|path| root.join(path).join(&release))
            .into_iter()
            .find(|path| path.exists())
            .with_context(|| format!("kernel {release} has no modules"))?;
        if !modules.join("modules.dep").exists() {
            let base = if modules.starts_with(root.join("usr")) { root.join("usr") } else { root.clone() };
            run(command(&["depmod", "--basedir"]).arg(base).arg(&release))?.ok()?;
        }
        let text = fs::read_to_string(modules.join("modules.dep"))?;
        let files = in_order(&text, &MODULES);
        Ok(Unpacked { image, modules: files.into_iter().map(|file| modules.join(file)).collect() })
    }
}

/// Files of these modules and of all that they need. Those that the kernel doesn't have are built in, or a test
/// will say what it misses.
fn in_order(dependencies: &str, wanted: &[&str]) -> Vec<String> {
    let needs: BTreeMap<String, (&str, Vec<&str>)> = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (module(file), (file, needs.split_whitespace().collect())))
        .collect();
    let (mut seen, mut files) = (BTreeSet::new(), Vec::new());
    for name in wanted {
        if let Some((file, needed)) = needs.get(*name) {
            // The list of a module is complete, the last one being needed by those before it.
            for file in needed.iter().rev().chain([file]) {
                if seen.insert(*file) {
                    files.push((*file).to_owned());
                }
            }
        }
    }
    files
}

/// `kernel/net/ipv4/ipip.ko.xz` is `ipip`; file names may have dashes.
fn module(file: &str) -> String {
    let name = Path::new(file).file_name().unwrap_or_default().to_string_lossy().replace('-', "_");
    name.split('.').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_what_it_needs_and_once() {
        let text =
            "net/a.ko.xz: net/b-c.ko.xz net/d.ko.xz\nnet/b-c.ko.xz: net/d.ko.xz\nnet/d.ko.xz:\nnet/e.ko:\n";
        assert_eq!(
            in_order(text, &["a", "b_c", "none", "e"]),
            ["net/d.ko.xz", "net/b-c.ko.xz", "net/a.ko.xz", "net/e.ko"]
        );
    }
}
