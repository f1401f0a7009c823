//! Docker archives: `manifest.json`, a configuration and one layer, named by their digests.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::run::{command, run};

/// What a container of the image runs.
pub(super) struct Config<'a> {
    pub(super) entrypoint: &'a [&'a str],
    pub(super) arguments: &'a [&'a str],
}

/// Writes the directory `root` as an image with these names.
pub(super) fn write(path: &Path, names: &[&str], root: &Path, config: &Config<'_>) -> Result<()> {
    let parts = tempfile::tempdir_in(path.parent().context("an archive is in a directory")?)?;
    let layer = parts.path().join("layer.tar");
    // Reproducible: the same files give the same digest.
    let mut tar = command(&["tar", "--create", "--sort=name", "--mtime=@0", "--numeric-owner", "--file"]);
    run(tar.arg(&layer).arg("--directory").arg(root).arg("."))?.ok()?;
    let Config { entrypoint, arguments } = config;
    let image = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": entrypoint,
            "Cmd": arguments,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer)?)] },
        // One entry for each layer: a builder that finds fewer gives up.
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "tartan-lab" }],
    });
    let unnamed = parts.path().join("config");
    fs::write(&unnamed, image.to_string())?;
    let config = format!("{}.json", sha256(&unnamed)?);
    fs::rename(unnamed, parts.path().join(&config))?;
    let manifest = json!([{
        "Config": config,
        // containerd completes a name without a host by itself only when a user types it.
        "RepoTags": names.iter().map(|name| format!("docker.io/{name}")).collect::<Vec<_>>(),
        "Layers": ["layer.tar"],
    }]);
    fs::write(parts.path().join("manifest.json"), manifest.to_string())?;
    let mut tar = command(&["tar", "--create", "--file"]);
    tar.arg(path).arg("--directory").arg(parts.path()).args(["manifest.json", &config, "layer.tar"]);
    run(&mut tar)?.ok()?;
    Ok(())
}

fn sha256(path: &Path) -> Result<String> {
    let output = run(command(&["sha256sum"]).arg(path))?.ok()?.stdout;
    Ok(output.split_whitespace().next().context("sha256sum printed nothing")?.to_owned())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        "x86_64" => "amd64",
        other => other,
    }
}
