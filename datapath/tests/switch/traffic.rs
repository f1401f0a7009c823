//! Numbered UDP packets and TCP questions between all pods, from before the first change to after the last.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tartan_lab::traffic::{self, Report};

use crate::network::Network;

const PORT: &str = "7000";

pub struct Traffic {
    loads: Vec<(String, Running)>,
    _echoes: Vec<Running>,
}

/// A program whose standard output is read; ended when dropped.
struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Traffic {
    /// Returns when every flow of every ordered pair has been answered.
    pub fn start(network: &Network) -> Self {
        // In a virtual machine there is nothing to build it with; it lies beside the test.
        let program = std::env::var_os("TARTAN_TRAFFIC").map(PathBuf::from);
        let program = program.unwrap_or_else(|| traffic::program().unwrap());
        let rate = std::env::var("TARTAN_UDP_RATE").unwrap_or_else(|_| "1000".into());
        let flows = std::env::var("TARTAN_TCP_FLOWS").unwrap_or_else(|_| "8".into());
        let run = |namespace: &str, words: &[&str]| {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace]).arg(&program).args(words);
            Running::start(command)
        };
        let pods: Vec<_> = network.nodes.iter().map(crate::node::Node::pod).collect();
        let mut echoes: Vec<Running> =
            pods.iter().map(|(pod, _)| run(pod, &["serve", "--port", PORT])).collect();
        echoes.iter_mut().for_each(|echo| echo.wait_for("listening"));
        let mut loads = vec![];
        for (from, _) in &pods {
            for (to, address) in pods.iter().filter(|(to, _)| to != from) {
                let target = format!("{address}:{PORT}");
                let words = [
                    "load",
                    "--to",
                    &target,
                    "--udp-rate",
                    &rate,
                    "--tcp-flows",
                    &flows,
                    "--tcp-interval",
                    "50",
                ];
                loads.push((format!("{from} to {to}"), run(from, &words)));
            }
        }
        loads.iter_mut().for_each(|(_, load)| load.wait_for("flowing"));
        Self { loads, _echoes: echoes }
    }

    pub fn finish(mut self) -> Vec<(String, Report)> {
        for (_, load) in &self.loads {
            kill(Pid::from_raw(load.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        }
        self.loads
            .drain(..)
            .map(|(pair, mut load)| {
                let mut line = String::new();
                load.output.read_line(&mut line).unwrap();
                let report =
                    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{pair}: {error}: {line}"));
                (pair, report)
            })
            .collect()
    }
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn wait_for(&mut self, expected: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), expected);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
