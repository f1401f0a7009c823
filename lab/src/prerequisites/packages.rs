//! Debian packages.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use crate::progress::Step;
use crate::run::{command, run};

/// Debian's question "may this package start its service?", asked by every package that has one.
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs those of `packages` that are missing. Their services are not started: the lab runs its own.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.iter().copied().collect::<Vec<_>>().join(" ");
    if !Uid::effective().is_root() {
        bail!("these Debian packages are missing, and only root can install them: {list}");
    }
    let step = Step::start(format!("installing Debian packages: {list}"));
    let _quiet = NoServices::begin()?;
    let mut install = command(&["apt-get", "install", "--yes", "--no-install-recommends"]);
    install.args(&missing).env("DEBIAN_FRONTEND", "noninteractive");
    // The lists may be older than the mirror, or absent: only then is it worth to fetch them.
    if !run(&mut install)?.success() {
        run(command(&["apt-get", "update"]).env("DEBIAN_FRONTEND", "noninteractive"))?.ok()?;
        run(&mut install)?.ok()?;
    }
    step.done();
    Ok(())
}

fn missing<'a>(packages: &[&'a str]) -> Result<BTreeSet<&'a str>> {
    let wanted: BTreeSet<&str> = packages.iter().copied().collect();
    if wanted.is_empty() {
        return Ok(wanted);
    }
    let mut query = command(&["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\\n"]);
    // It fails when it does not know one of them, and still answers for the others.
    let answer = run(query.args(&wanted)).context("the lab needs Debian's package tools (dpkg, apt-get)")?;
    let installed: BTreeSet<&str> =
        answer.stdout.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(wanted.into_iter().filter(|package| !installed.contains(package)).collect())
}

/// While it lives, packages do not start services. A policy of the administrator's is left alone.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn begin() -> Result<Self> {
        let path = Path::new(SERVICE_POLICY);
        if path.exists() {
            return Ok(Self { ours: false });
        }
        fs::write(path, "#!/bin/sh\nexit 101\n").with_context(|| format!("write {SERVICE_POLICY}"))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(SERVICE_POLICY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_package_is_missing_and_an_essential_one_is_not() {
        assert_eq!(
            missing(&["dpkg", "tartan-no-such-package"]).unwrap(),
            BTreeSet::from(["tartan-no-such-package"])
        );
    }
}
