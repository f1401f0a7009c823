//! What leaves by the underlay, as tcpdump sees it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use super::{answered_at_once, common::run, until};

/// What left by the underlay: packets that a reader can tell from noise, and encrypted ones.
pub struct Capture {
    file: PathBuf,
    child: Child,
}

impl Capture {
    pub fn start(folder: &Path) -> Self {
        let file = folder.join("captured");
        let output = fs::File::create(&file).unwrap();
        let child = Command::new("tcpdump")
            .args(["-Z", "root", "-l", "-n", "-i", "eth0", "-Q", "out", "not", "arp"])
            .stdout(output)
            .stderr(fs::File::create(folder.join("tcpdump")).unwrap())
            .spawn()
            .expect("tcpdump");
        let words = folder.join("tcpdump");
        until("tcpdump", || fs::read_to_string(&words).unwrap_or_default().contains("listening"));
        Self { file, child }
    }

    /// Shows that it would see a packet in clear. Returns how many it saw.
    pub fn proved(&self) -> usize {
        run("ip route add 10.64.1.0/24 via 192.0.2.21");
        answered_at_once(2);
        until("the capture to see packets in clear", || self.clear() > 0);
        run("ip route delete 10.64.1.0/24");
        self.clear()
    }

    pub fn lines(&self, pattern: &str) -> usize {
        let text = fs::read_to_string(&self.file).unwrap();
        text.lines().filter(|line| line.contains(pattern)).count()
    }

    /// Packets of pods that can be read.
    pub fn clear(&self) -> usize {
        self.lines("10.251.1.") + self.lines("10.64.1.")
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
