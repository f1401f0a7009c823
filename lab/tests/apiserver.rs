//! The API server of the lab: real, restartable, and gone when its owner is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tartan_lab::{ApiServer, ApiServerOptions, eventually, remove_leftovers};

#[test]
fn an_api_server_keeps_its_data_over_a_restart_and_leaves_nothing() {
    let mut api = ApiServer::start(ApiServerOptions::default()).unwrap();
    api.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"]).unwrap().ok().unwrap();

    api.stop().unwrap();
    assert!(!api.kubectl(&["get", "--raw", "/readyz"]).unwrap().success());
    api.resume().unwrap();

    let kept = api.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]).unwrap().ok().unwrap();
    assert_eq!(kept.stdout, "b");
    let directory = api.directory().to_owned();
    drop(api);
    assert!(!directory.exists());
    assert_eq!(processes_with(&directory), Vec::<String>::new());
}

#[test]
fn users_groups_and_service_accounts_are_told_apart() {
    let options = ApiServerOptions { controller_manager: Some(Vec::new()), ..ApiServerOptions::default() };
    let api = ApiServer::start(options).unwrap();
    let check = |kubeconfig: &Path, verb: &[&str]| {
        api.kubectl_as(kubeconfig, &[&["auth", "can-i"], verb].concat()).unwrap().stdout.trim().to_owned()
    };

    let jane = api.kubeconfig_for("jane", &["viewers"]).unwrap();
    assert_eq!(check(&jane, &["list", "nodes"]), "no");
    let bind = ["create", "clusterrolebinding", "viewers", "--clusterrole=view", "--group=viewers"];
    api.kubectl(&bind).unwrap().ok().unwrap();
    eventually("RBAC", Duration::from_secs(10), || check(&jane, &["list", "pods"]) == "yes").unwrap();

    let node = api.kubeconfig_for("system:node:one", &["system:nodes"]).unwrap();
    assert_eq!(check(&node, &["create", "nodes"]), "yes");

    let token = api.kubectl(&["create", "token", "default"]).unwrap().ok().unwrap().stdout;
    let account = api.kubeconfig_for_token("default", &token).unwrap();
    let whoami = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"];
    let name = api.kubectl_as(&account, &whoami).unwrap().ok().unwrap().stdout;
    assert_eq!(name, "system:serviceaccount:default:default");
}

/// Runs as a child of the next test.
#[test]
#[ignore = "a helper of an_api_server_dies_with_a_killed_owner"]
fn helper_that_waits_to_be_killed() {
    let api = ApiServer::start(ApiServerOptions::default()).unwrap();
    println!("directory={}", api.directory().display());
    eventually("a death", Duration::from_secs(600), || false).unwrap();
}

#[test]
fn an_api_server_dies_with_a_killed_owner() {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_that_waits_to_be_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let directory = lines
        .map_while(Result::ok)
        .find_map(|line| line.split_once("directory=").map(|(_, path)| path.to_owned()))
        .expect("the helper says where it is");
    let directory = Path::new(&directory);
    assert!(!processes_with(directory).is_empty());

    owner.kill().unwrap();
    owner.wait().unwrap();

    eventually("the end of all processes", Duration::from_secs(10), || processes_with(directory).is_empty())
        .unwrap();
    remove_leftovers().unwrap();
    assert!(!directory.exists());
}

/// The command lines that name this directory.
fn processes_with(directory: &Path) -> Vec<String> {
    let text = format!("{}/", directory.display());
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&text))
        .collect()
}
