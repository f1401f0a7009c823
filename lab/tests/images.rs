//! Images made on this machine, without a registry.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

use std::fs;
use std::process::Command;

use tartan_lab::images::{Build, build_with_buildah, test_image};

#[test]
fn a_dockerfile_becomes_an_archive_with_the_name_and_the_packages_that_it_asks_for() {
    let (directory, archives) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dockerfile = directory.path().join("Dockerfile");
    let write = |text: &str| fs::write(directory.path().join("hello"), text).unwrap();
    write("hello\n");
    fs::write(
        &dockerfile,
        "ARG BASE\nFROM $BASE AS common\nCOPY hello /hello\nFROM common AS one\n\
         RUN apt-get update && apt-get install -y --no-install-recommends nftables && test -x /usr/sbin/nft\n\
         USER 65532\nENTRYPOINT [\"/bin/cat\", \"/hello\"]\nFROM common AS other\nRUN false\n",
    )
    .unwrap();
    let build = Build {
        dockerfile: &dockerfile,
        context: directory.path(),
        target: "one",
        arguments: &[],
        name: "tartan-lab/built:1",
    };

    let archive = build_with_buildah(&build, &archives.path().join("built.tar")).unwrap();

    let manifest = Command::new("tar").arg("-xOf").arg(&archive).arg("manifest.json").output().unwrap();
    let manifest = String::from_utf8(manifest.stdout).unwrap();
    assert!(manifest.contains("docker.io/tartan-lab/built:1"), "{manifest}");
    let content = || fs::read(&archive).unwrap();
    // Of the same files nothing is built again; of others, what is there is replaced.
    let first = content();
    fs::write(&archive, "as it was").unwrap();
    build_with_buildah(&build, &archive).unwrap();
    assert_eq!(content(), b"as it was");
    write("hallo\n");
    build_with_buildah(&build, &archive).unwrap();
    assert!(content().len() > 1000 && content() != first);
    fs::remove_file(&archive).unwrap();
    build_with_buildah(&build, &archive).unwrap();
    assert!(content().len() > 1000);
}

#[test]
fn the_test_image_has_the_program_and_a_shell() {
    let archive = test_image().unwrap();
    let listed = Command::new("sh")
        .args(["-euc", "tar -xOf \"$1\" layer.tar | tar -t", "sh"])
        .arg(archive)
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for file in ["./agnhost", "./bin/sh", "./bin/wget"] {
        assert!(listed.lines().any(|line| line == file), "{file} is missing");
    }
}
