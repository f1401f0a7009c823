//! What is done while tests that mostly wait go on: to compile what is shipped, and the lints.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command},
};

use anyhow::{Context, Result, bail};
use tartan_lab::shipping;

use super::LINTS;
use crate::workspace;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Optimized.
    Programs,
    Lints,
}

impl Task {
    fn command(self) -> Result<Command> {
        match self {
            Self::Programs => shipping(),
            Self::Lints => {
                let mut cargo = workspace::cargo();
                // With a target directory of its own: the tests' is locked whenever cargo compiles into it.
                cargo.args(LINTS).env("CARGO_TARGET_DIR", workspace::target().join("lints"));
                Ok(cargo)
            }
        }
    }

    /// What it prints, which nobody could read between the lines of tests.
    fn log(self) -> PathBuf {
        workspace::target().join(format!("beside-{self:?}.log").to_lowercase())
    }
}

/// What was begun. Cargo is ended when it is dropped, as after a step that failed; its compilers end with what they do.
#[derive(Default)]
pub struct Beside(Vec<(Task, Child)>);

impl Beside {
    pub fn begin(&mut self, task: Task) -> Result<()> {
        let log = fs::File::create(task.log()).with_context(|| format!("create {}", task.log().display()))?;
        let mut command = last(&task.command()?);
        command.stdout(log.try_clone()?).stderr(log);
        if task == Task::Lints {
            // The programs are waited for.
            command.env("CARGO_BUILD_JOBS", "1");
        }
        self.0.push((task, command.spawn().context("start cargo")?));
        Ok(())
    }

    /// Waits for all of it. What one of them printed is shown where it failed.
    pub fn end(&mut self) -> Result<()> {
        while let Some((task, mut child)) = self.0.pop() {
            let status = child.wait().context("wait for cargo")?;
            if !status.success() {
                println!("{}", String::from_utf8_lossy(&fs::read(task.log()).unwrap_or_default()));
                bail!("{task:?}: cargo ended with {status}, see {}", task.log().display());
            }
        }
        Ok(())
    }
}

/// The same command, which gets the processors that nobody else wants: tests have time limits.
fn last(command: &Command) -> Command {
    let mut last = Command::new("nice");
    last.args(["-n", "19"]).arg(command.get_program()).args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        last.current_dir(directory);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => last.env(name, value),
            None => last.env_remove(name),
        };
    }
    last
}

impl Drop for Beside {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_beside_is_the_same_and_gives_way() {
        let mut command = Command::new("sh");
        command.args(["-c", "nice; pwd; echo ${BESIDE-none} ${HOME-none}"]);
        command.current_dir("/").env("BESIDE", "told").env_remove("HOME");
        let output = last(&command).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "19\n/\ntold none\n");
    }
}
