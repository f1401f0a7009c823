//! Packages of a newer Debian, unpacked into the cache and never installed: the host stays as it was.
//!
//! apt gets its own lists, sources and archives. The sources are the host's own, with the suite of backports
//! beside them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::prerequisites::cache;
use crate::progress::Step;
use crate::run::{command, run};

const RELEASE: &str = "bookworm";

/// qemu as it lies in the cache.
#[derive(Debug)]
pub(super) struct Qemu {
    pub(super) program: PathBuf,
    /// For `LD_LIBRARY_PATH`.
    pub(super) libraries: String,
    pub(super) firmware: [PathBuf; 2],
}

/// Version 10: 7.2, which the release has, crashes a kernel 6.12.
pub(super) fn qemu() -> Result<Qemu> {
    let root = unpacked("qemu-10", "qemu-system-x86", true, |_| true)?;
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|path| root.join(path));
    Ok(Qemu {
        program: root.join("usr/bin/qemu-system-x86_64"),
        libraries: libraries.map(|path| path.display().to_string()).join(":"),
        firmware: ["usr/share/qemu", "usr/share/seabios"].map(|path| root.join(path)),
    })
}

/// The root of a package and of what it needs and the host lacks, as far as `wanted` says by file name.
pub(super) fn unpacked(
    name: &str,
    package: &str,
    backports: bool,
    wanted: impl Fn(&str) -> bool,
) -> Result<PathBuf> {
    let fetch = |apt: &Apt, archives: &Path| apt.download(package, backports, archives);
    fetched(name, fetch, wanted)
}

fn fetched(
    name: &str,
    fetch: impl Fn(&Apt, &Path) -> Result<()>,
    wanted: impl Fn(&str) -> bool,
) -> Result<PathBuf> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("virtual machines are set up for x86_64 hosts only, not for {}", std::env::consts::ARCH);
    }
    let base = cache()?.join("vm");
    let directory = base.join(name);
    let root = directory.join("root");
    let done = directory.join("done");
    if done.exists() {
        return Ok(root);
    }
    fs::create_dir_all(&directory)?;
    let lock = File::create(base.join("lock"))?;
    let _lock =
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).context("lock the cache")?;
    if done.exists() {
        return Ok(root);
    }
    let step = Step::start(format!("fetching {name} for virtual machines"));
    let apt = Apt::prepare(&base.join("apt"))?;
    let archives = directory.join("archives");
    fs::create_dir_all(archives.join("partial"))?;
    fetch(&apt, &archives)?;
    for entry in fs::read_dir(&archives)? {
        let path = entry?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if file.ends_with(".deb") && wanted(&file) {
            run(command(&["dpkg-deb", "--extract"]).arg(&path).arg(&root))?.ok()?;
        }
    }
    fs::remove_dir_all(&archives)?;
    fs::write(done, "")?;
    step.done();
    Ok(root)
}

/// The root of these packages of the release, without what they need.
pub(super) fn unpacked_alone(name: &str, packages: &[&str]) -> Result<PathBuf> {
    fetched(name, |apt, archives| apt.download_alone(packages, archives), |_| true)
}

/// apt with files of its own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn prepare(base: &Path) -> Result<Self> {
        for directory in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(base.join(directory))?;
        }
        let sources = base.join("sources.list");
        fs::write(&sources, sources_list(&own_sources()?)?)?;
        let options = vec![
            format!("Dir::Etc::SourceList={}", sources.display()),
            "Dir::Etc::SourceParts=-".to_owned(),
            format!("Dir::State::Lists={}", base.join("lists").display()),
            format!("Dir::Cache={}", base.display()),
            // The directories are root's, so its own user could not write there.
            "APT::Sandbox::User=root".to_owned(),
        ];
        let apt = Self { options };
        apt.run(&["update"], &[])?;
        Ok(apt)
    }

    fn download(&self, package: &str, backports: bool, archives: &Path) -> Result<()> {
        let suite = if backports { format!("{RELEASE}-backports") } else { RELEASE.to_owned() };
        let archives = format!("Dir::Cache::Archives={}", archives.display());
        let words = [
            "install",
            "--yes",
            "--download-only",
            "--no-install-recommends",
            "--target-release",
            &suite,
            package,
        ];
        self.run(&words, &[&archives])
    }

    fn download_alone(&self, packages: &[&str], archives: &Path) -> Result<()> {
        let mut apt = self.command(&[]);
        run(apt.args(["--target-release", RELEASE, "download"]).args(packages).current_dir(archives))?
            .ok()?;
        Ok(())
    }

    fn run(&self, words: &[&str], options: &[&str]) -> Result<()> {
        run(self.command(options).args(words))?.ok()?;
        Ok(())
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut apt = command(&["apt-get"]);
        for option in self.options.iter().map(String::as_str).chain(options.iter().copied()) {
            apt.args(["-o", option]);
        }
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    }
}

/// The text of the host's own source files.
fn own_sources() -> Result<String> {
    let mut text = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    let entries = fs::read_dir("/etc/apt/sources.list.d").context("read apt's sources")?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    for path in paths {
        if path.extension().is_some_and(|extension| extension == "sources" || extension == "list") {
            text.push_str("\n\n");
            text.push_str(&fs::read_to_string(path)?);
        }
    }
    Ok(text)
}

/// The release and its backports, from where the host has the release: of deb822 stanzas or of lines.
fn sources_list(own: &str) -> Result<String> {
    let (uri, key) =
        own.split("\n\n").find_map(stanza).or_else(|| own.lines().find_map(one_line)).with_context(|| {
            format!(
                "apt's sources have no line or stanza for {RELEASE}: virtual machines are set up from them"
            )
        })?;
    let signed = key.map(|key| format!("[signed-by={key}] ")).unwrap_or_default();
    Ok(format!("deb {signed}{uri} {RELEASE} main\ndeb {signed}{uri} {RELEASE}-backports main\n"))
}

fn stanza(text: &str) -> Option<(String, Option<String>)> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
    };
    let suites = field("Suites")?;
    suites.split_whitespace().any(|suite| suite == RELEASE).then_some(())?;
    Some((field("URIs")?.split_whitespace().next()?.to_owned(), field("Signed-By")))
}

fn one_line(line: &str) -> Option<(String, Option<String>)> {
    let rest = line.trim().strip_prefix("deb ")?.trim();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let key =
        options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_owned);
    (suite == RELEASE).then(|| (uri.to_owned(), key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_both_forms_are_read() {
        let expected = "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main\n\
                        deb [signed-by=/k.gpg] http://mirror.example/debian bookworm-backports main\n";
        let stanzas = "Types: deb\nURIs: http://security.example/debian\nSuites: bookworm-security\n\n\
                       Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                       Components: main\nSigned-By: /k.gpg\n";
        assert_eq!(sources_list(stanzas).unwrap(), expected);
        let lines = "# comment\ndeb http://security.example/debian bookworm-security main\n\
                     deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib\n";
        assert_eq!(sources_list(lines).unwrap(), expected);
        assert!(sources_list("deb http://mirror.example/debian trixie main\n").is_err());
    }
}
