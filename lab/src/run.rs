//! Running a program to its end and keeping what it said.

use std::io::Write as _;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};

/// What a finished program left behind.
#[derive(Debug, Clone)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    command: String,
}

impl Output {
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// The output of a program that must have succeeded; the error carries the command line and what it printed.
    pub fn ok(self) -> Result<Self> {
        if self.success() {
            return Ok(self);
        }
        let Self { status, stdout, stderr, command } = self;
        bail!("`{command}` failed ({status})\n{stderr}{stdout}")
    }
}

/// Runs `command` to its end. Only a program that could not be started is an error here; see [`Output::ok`].
pub fn run(command: &mut Command) -> Result<Output> {
    let shown = show(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start `{shown}`"))?;
    Ok(finished(output, shown))
}

/// As [`run`], with `input` on its standard input.
pub fn run_with_input(command: &mut Command, input: &str) -> Result<Output> {
    let shown = show(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{shown}`"))?;
    // Dropping the handle closes it. A program that ends without reading is judged by its exit status.
    let pipe = child.stdin.take();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || pipe.map(|mut pipe| pipe.write_all(input.as_bytes())));
    let output = child.wait_with_output().with_context(|| format!("wait for `{shown}`"))?;
    let _ = writer.join();
    Ok(finished(output, shown))
}

/// Shorthand for a command given as words.
pub(crate) fn command(words: &[&str]) -> Command {
    let (program, arguments) = words.split_first().unwrap_or((&"false", &[]));
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn finished(output: std::process::Output, command: String) -> Output {
    Output {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        command,
    }
}

fn show(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_shows_itself_and_what_it_printed() {
        let error = run(&mut command(&["sh", "-c", "echo why >&2; exit 3"])).unwrap().ok().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh -c") && text.contains("why") && text.contains("exit status: 3"), "{text}");
    }

    #[test]
    fn input_reaches_the_program() {
        let output = run_with_input(&mut command(&["cat"]), "hello").unwrap().ok().unwrap();
        assert_eq!(output.stdout, "hello");
    }
}
