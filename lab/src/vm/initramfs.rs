//! The root file system of a virtual machine: a cpio archive in "newc" form (Linux,
//! Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::kernel::Unpacked;
use crate::run::{command, run};

/// Programs of the host's, with the libraries that they need. busybox gives the rest.
const TOOLS: [&str; 22] = [
    "bridge",
    "conntrack",
    "dash",
    "ethtool",
    "find",
    "ip",
    "ip6tables-legacy-save",
    "iptables-legacy-save",
    "mount",
    "nft",
    "nsenter",
    "ping",
    "setpriv",
    "setsid",
    "sleep",
    "ss",
    "sysctl",
    "tc",
    "tcpdump",
    "umount",
    "unshare",
    "wg",
];

const DIRECTORIES: [&str; 13] = [
    "dev", "etc", "opt", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/sbin", "sbin", "var/lib",
    "var/log",
];

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;

pub(super) struct Initramfs {
    file: BufWriter<File>,
    inode: u32,
    there: BTreeSet<PathBuf>,
}

impl Initramfs {
    pub(super) fn new(file: File) -> Self {
        Self { file: BufWriter::new(file), inode: 0, there: BTreeSet::new() }
    }

    /// busybox, the tools, and empty directories to mount on.
    pub(super) fn add_tools(&mut self) -> Result<()> {
        for directory in DIRECTORIES {
            self.add_directories(&Path::new("/").join(directory).join("x"))?;
        }
        self.add_file(Path::new("/bin/busybox"), Path::new("/bin/busybox"))?;
        // Some look up who they are.
        self.add_text("/etc/passwd", "root:x:0:0:root:/:/bin/sh\n", 0o644)?;
        self.add_text("/etc/group", "root:x:0:\n", 0o644)?;
        for tool in TOOLS {
            let found =
                run(&mut command(&["sh", "-c", &format!("PATH=$PATH:/usr/sbin:/sbin command -v {tool}")]))?;
            let path = PathBuf::from(found.ok().with_context(|| format!("find {tool}"))?.stdout.trim());
            self.add_libraries(&path)?;
            self.add_file(&path, &Path::new("/usr/sbin").join(tool))?;
            if tool == "dash" {
                // busybox's shell would take its own `ip` before the one in PATH.
                self.add_file(&path, Path::new("/bin/sh"))?;
            }
        }
        Ok(())
    }

    /// A program or shared object as it is, with the libraries that it needs and that are not in `libraries`.
    pub(super) fn add_object(&mut self, source: &Path, target: &Path, libraries: &Path) -> Result<()> {
        let listing = run(command(&["ldd"]).arg(source).env("LD_LIBRARY_PATH", libraries))?.stdout;
        for library in listing.split_whitespace().filter(|word| word.starts_with('/')) {
            let library = Path::new(library.trim_end_matches(':'));
            if library != source && !library.starts_with(libraries) {
                self.add_file(library, library)?;
            }
        }
        self.add_file(source, target)
    }

    /// Modules below `/modules`, uncompressed, and `/modules/order`.
    pub(super) fn add_modules(&mut self, kernel: &Unpacked) -> Result<()> {
        let mut order = String::new();
        for path in &kernel.modules {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let plain = name.trim_end_matches(".xz");
            let bytes = if name.ends_with(".xz") {
                let mut xz = command(&["xz", "--decompress", "--stdout"]);
                let output = xz.arg(path).output().context("start xz")?;
                anyhow::ensure!(output.status.success(), "xz can't unpack {}", path.display());
                output.stdout
            } else {
                fs::read(path)?
            };
            self.add(Path::new("/modules").join(plain).as_path(), REGULAR | 0o644, &bytes)?;
            order.push_str(plain);
            order.push('\n');
        }
        self.add_text("/modules/order", &order, 0o644)
    }

    /// A program with the libraries that it needs, and without what only a debugger needs: it all lies in memory.
    pub(super) fn add_program(&mut self, source: &Path, target: &Path) -> Result<()> {
        self.add_libraries(source)?;
        let small = tempfile::NamedTempFile::new()?;
        run(command(&["strip", "--strip-debug", "-o"]).arg(small.path()).arg(source))?.ok()?;
        let bytes = fs::read(small.path())?;
        self.add(target, REGULAR | 0o755, &bytes)
    }

    /// None, for a program that is linked statically.
    fn add_libraries(&mut self, program: &Path) -> Result<()> {
        let listing = run(command(&["ldd"]).arg(program))?.stdout;
        for library in listing.split_whitespace().filter(|word| word.starts_with('/')) {
            self.add_file(Path::new(library), Path::new(library))?;
        }
        Ok(())
    }

    pub(super) fn add_file(&mut self, source: &Path, target: &Path) -> Result<()> {
        if self.there.contains(target) {
            return Ok(());
        }
        let bytes = fs::read(source).with_context(|| format!("read {}", source.display()))?;
        let mode = fs::metadata(source)?.permissions().mode() & 0o777;
        self.add(target, REGULAR | mode, &bytes)
    }

    pub(super) fn add_text(&mut self, target: &str, text: &str, mode: u32) -> Result<()> {
        self.add(Path::new(target), REGULAR | mode, text.as_bytes())
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.file.flush()?;
        Ok(())
    }

    fn add(&mut self, path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
        self.add_directories(path)?;
        if self.there.insert(path.to_owned()) {
            self.entry(&path.display().to_string(), mode, bytes)?;
        }
        Ok(())
    }

    /// Those above `path`.
    fn add_directories(&mut self, path: &Path) -> Result<()> {
        let mut above: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
        above.reverse();
        for directory in above.into_iter().skip(1) {
            if self.there.insert(directory.clone()) {
                self.entry(&directory.display().to_string(), DIRECTORY, &[])?;
            }
        }
        Ok(())
    }

    /// Magic and thirteen hexadecimal numbers of eight digits, the name, the bytes; both filled up to words.
    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.inode += 1;
        let name = path.trim_start_matches('/');
        let size = u32::try_from(bytes.len()).with_context(|| format!("{path} is too large"))?;
        let length = u32::try_from(name.len() + 1)?;
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
        let mut header = String::from("070701");
        fields.iter().for_each(|field| header.push_str(&format!("{field:08X}")));
        header.push_str(name);
        header.push('\0');
        self.file.write_all(header.as_bytes())?;
        self.fill(header.len())?;
        self.file.write_all(bytes)?;
        self.fill(bytes.len())
    }

    fn fill(&mut self, written: usize) -> Result<()> {
        let missing = written.next_multiple_of(4) - written;
        self.file.write_all(&vec![0; missing])?;
        Ok(())
    }
}
