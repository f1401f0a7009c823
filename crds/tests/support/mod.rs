//! A real API server with our definitions, shared by the tests of this program, and words for asking it.
#![allow(dead_code, reason = "each test program uses a part")]

use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use tartan_lab::{ApiServer, ApiServerOptions, Output, eventually_ok};

static SHARED: Mutex<Weak<ApiServer>> = Mutex::new(Weak::new());

/// The server of this test program. It ends when no test holds it.
pub fn api() -> Arc<ApiServer> {
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(api) = shared.upgrade() {
        return api;
    }
    let api = Arc::new(ApiServer::start(ApiServerOptions::default()).unwrap());
    install(&api);
    *shared = Arc::downgrade(&api);
    api
}

pub fn yaml_directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("yaml")
}

/// Applies the definitions and waits until their objects can be made. What kubectl said is returned.
pub fn install(api: &ApiServer) -> Output {
    let directory = yaml_directory();
    let said = api.kubectl(&["apply", "-f", directory.to_str().unwrap()]).unwrap().ok().unwrap();
    let wait = ["wait", "crd", "--all", "--for=condition=Established", "--timeout=60s"];
    api.kubectl(&wait).unwrap().ok().unwrap();
    eventually_ok("the new kinds are served", Duration::from_secs(30), || {
        api.kubectl(&["get", "tartan"])?.ok()
    })
    .unwrap();
    said
}

/// `kubectl VERB -f` of an object.
pub fn send(api: &ApiServer, verb: &[&str], object: &Value) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), object.to_string()).unwrap();
    api.kubectl(&[verb, &["-f", file.path().to_str().unwrap()]].concat()).unwrap()
}

/// What the server says to a new object, without keeping it. `None`: it would take it.
pub fn refusal(api: &ApiServer, object: &Value) -> Option<String> {
    let said = send(api, &["create", "--dry-run=server"], object);
    (!said.success()).then_some(said.stderr)
}

/// Fails unless the server refuses `object` and its answer contains `expected`.
pub fn check_refused(api: &ApiServer, what: &str, object: &Value, expected: &str) {
    match refusal(api, object) {
        None => panic!("{what} was accepted: {object}"),
        Some(said) => assert!(said.contains(expected), "{what}\nexpected: {expected}\ngot: {said}"),
    }
}

/// Merge-patches a stored object; the answer is what the server refused it for, or `None`.
pub fn patch(api: &ApiServer, target: &[&str], patch: &Value) -> Option<String> {
    let patch = patch.to_string();
    let said = api.kubectl(&[&["patch", "--type=merge", "-p", &patch], target].concat()).unwrap();
    (!said.success()).then_some(said.stderr)
}

pub fn get(api: &ApiServer, target: &[&str]) -> Value {
    let said = api.kubectl(&[&["get", "-o", "json"], target].concat()).unwrap().ok().unwrap();
    serde_json::from_str(&said.stdout).unwrap()
}

pub fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "tartan.network/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

/// `base` with the fields of `change` set (RFC 7396).
pub fn with(mut base: Value, change: &Value) -> Value {
    fn merge(base: &mut Value, change: &Value) {
        match (base.as_object_mut(), change.as_object()) {
            (Some(base), Some(change)) => {
                for (key, value) in change {
                    if value.is_null() {
                        base.remove(key);
                    } else {
                        merge(base.entry(key).or_insert(Value::Null), value);
                    }
                }
            }
            _ => *base = change.clone(),
        }
    }
    merge(&mut base, change);
    base
}
