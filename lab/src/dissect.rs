//! What packets are, as Wireshark's dissectors read them: a judge of wire formats that others wrote.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{
    prerequisites::{Tool, require},
    run::{command, run},
};

/// Packets in a file (pcap).
#[derive(Debug)]
pub struct Capture(PathBuf);

impl Capture {
    pub fn of(file: impl Into<PathBuf>) -> Result<Self> {
        require(&[Tool::Dissectors])?;
        Ok(Self(file.into()))
    }

    /// Of each packet its `fields`, all occurrences of one with commas between, outermost first. `options` are tshark's.
    pub fn read(&self, options: &[String], fields: &[&str]) -> Result<Vec<Vec<String>>> {
        let mut tshark = command(&["tshark", "-n", "-T", "fields", "-r"]);
        tshark.arg(&self.0).args(options);
        for field in fields {
            tshark.args(["-e", field]);
        }
        let said = run(&mut tshark)?.ok().context("tshark could not read a capture")?.stdout;
        Ok(said.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
    }

    /// The packets without their first `bytes`, which end where an IP header begins; written to `file`.
    pub fn inside(&self, bytes: usize, file: &Path) -> Result<Self> {
        let mut editcap = command(&["editcap", "-F", "pcap", "-T", "rawip", "-C", &bytes.to_string()]);
        run(editcap.arg(&self.0).arg(file))?.ok()?;
        Ok(Self(file.to_owned()))
    }
}
