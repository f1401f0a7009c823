//! Our nft table and our rules in chains of others, by the `nft` program: one call, one transaction.
//!
//! **Exactness.** The declaration that was loaded is named in the kernel by its digest, as an empty chain's
//! name, so a restart knows whether the rules are ours and current. Whether somebody changed them
//! since is told by nft's own listing: it must be the same, counters and set elements apart, as right
//! after we loaded it. A fresh process has no such listing and takes the first that it sees under its own
//! digest; before that, it counts rules and chains against the declaration.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use crate::{
    mark,
    model::{ForwardException, NftTable},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Why a call of nft failed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("start {}: install the nftables package", program.display())]
    Missing {
        program: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("start nft or talk to it")]
    Io(#[source] std::io::Error),
    #[error("nft did not end within {} s", PATIENCE.as_secs())]
    Timeout,
    #[error("nft: {0}")]
    Refused(String),
    #[error("nft printed what is no JSON")]
    Json(#[source] serde_json::Error),
}

impl NftError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "nft-missing",
            Self::Refused(text) if text.contains("Operation not permitted") => "permission-denied",
            Self::Io(_) | Self::Timeout | Self::Refused(_) | Self::Json(_) => "nft-failed",
        }
    }
}

#[derive(Debug)]
pub(super) struct Nft {
    program: PathBuf,
    /// Declaration that this process knows to be loaded, and how nft listed it then.
    known: Option<(String, Value)>,
}

/// What of a listing is compared.
#[derive(Debug, Default)]
struct Listing {
    digest: Option<String>,
    rules: Value,
    rule_count: usize,
    elements: BTreeMap<String, Vec<String>>,
    counters: BTreeMap<String, (u64, u64)>,
}

impl Nft {
    pub(super) fn new(program: PathBuf) -> Self {
        Self { program, known: None }
    }

    /// The table as it is: equal to `wanted` in its rules only where nobody has touched them. `None` where
    /// there is no table.
    pub(super) async fn observe(&mut self, wanted: Option<&NftTable>) -> Result<Option<NftTable>, NftError> {
        let Some(listing) = self.list().await? else {
            self.known = None;
            return Ok(None);
        };
        let declaration = wanted
            .map(|wanted| wanted.declaration.as_str())
            .filter(|text| listing.digest.as_deref() == Some(digest(text).as_str()));
        let declaration = match (declaration, &self.known) {
            (Some(text), Some((known, rules))) if known == text => (*rules == listing.rules).then_some(text),
            (Some(text), _) => {
                let whole = listing.rule_count == count_rules(text);
                if whole {
                    self.known = Some((text.to_owned(), listing.rules.clone()));
                }
                whole.then_some(text)
            }
            (None, _) => None,
        };
        let declaration = declaration.map_or_else(|| "altered".to_owned(), str::to_owned);
        Ok(Some(NftTable { declaration, elements: listing.elements }))
    }

    /// Makes the table `wanted`. Where only elements differ from `before`, only these are touched, so that
    /// counters go on; otherwise the table is replaced in one transaction and its counters are carried over.
    pub(super) async fn apply(
        &mut self,
        wanted: &NftTable,
        before: Option<&NftTable>,
    ) -> Result<(), NftError> {
        match before {
            Some(before) if before.declaration == wanted.declaration => {
                self.run(&element_changes(before, wanted)).await.map(drop)
            }
            _ => self.replace(wanted).await,
        }
    }

    async fn replace(&mut self, wanted: &NftTable) -> Result<(), NftError> {
        let counters = self.list().await.ok().flatten().map(|listing| listing.counters).unwrap_or_default();
        let table = mark::NFT_TABLE;
        let mut text = format!("add table inet {table}\ndelete table inet {table}\n");
        text.push_str(&with_digest(
            &with_counters(&wanted.declaration, &counters),
            &digest(&wanted.declaration),
        ));
        let none = NftTable { declaration: String::new(), elements: BTreeMap::new() };
        text.push_str(&element_changes(&none, wanted));
        self.run(&text).await?;
        self.known = self.list().await?.map(|listing| (wanted.declaration.clone(), listing.rules));
        Ok(())
    }

    pub(super) async fn delete(&mut self) -> Result<(), NftError> {
        let table = mark::NFT_TABLE;
        self.run(&format!("add table inet {table}\ndelete table inet {table}\n")).await?;
        self.known = None;
        Ok(())
    }

    /// Packets and bytes by named counter.
    pub(super) async fn counters(&self) -> Result<BTreeMap<String, (u64, u64)>, NftError> {
        Ok(self.list().await?.map(|listing| listing.counters).unwrap_or_default())
    }

    /// Our rules in the chain, and whether the chain drops by policy. `None` where there is no such chain.
    pub(super) async fn forward(&self, chain: ForwardException) -> Result<Option<Forward>, NftError> {
        let (family, name) = forward_chain(chain);
        let Some(listing) = self.list_json(&["list", "chain", family, "filter", name]).await? else {
            return Ok(None);
        };
        let objects = || listing.get("nftables").and_then(Value::as_array).into_iter().flatten();
        let chain = objects().find_map(|object| object.get("chain"));
        let drops = chain.is_some_and(|chain| chain["policy"] == "drop" && chain["hook"] == "forward");
        let handles: Vec<u64> = objects()
            .filter_map(|object| object.get("rule"))
            .filter(|rule| rule["comment"] == mark::RULE_COMMENT)
            .filter_map(|rule| rule["handle"].as_u64())
            .collect();
        Ok(Some(Forward { drops, handles }))
    }

    /// At the end: what an administrator refuses before stays refused, and only the policy is overruled.
    pub(super) async fn set_forward(&self, chain: ForwardException) -> Result<(), NftError> {
        let (family, name) = forward_chain(chain);
        let mut text = self.forward_removal(chain).await?;
        let (bridge, comment) = (mark::BRIDGE, mark::RULE_COMMENT);
        for direction in ["iifname", "oifname"] {
            text.push_str(&format!("add rule {family} filter {name} {direction} \"{bridge}\" counter accept comment \"{comment}\"\n"));
        }
        self.run(&text).await.map(drop)
    }

    pub(super) async fn delete_forward(&self, chain: ForwardException) -> Result<(), NftError> {
        let text = self.forward_removal(chain).await?;
        if text.is_empty() { Ok(()) } else { self.run(&text).await.map(drop) }
    }

    async fn forward_removal(&self, chain: ForwardException) -> Result<String, NftError> {
        let (family, name) = forward_chain(chain);
        let handles = self.forward(chain).await?.map(|forward| forward.handles).unwrap_or_default();
        Ok(handles
            .iter()
            .map(|handle| format!("delete rule {family} filter {name} handle {handle}\n"))
            .collect())
    }

    async fn list(&self) -> Result<Option<Listing>, NftError> {
        let listing = self.list_json(&["list", "table", "inet", mark::NFT_TABLE]).await?;
        Ok(listing.as_ref().map(read_listing))
    }

    /// `None` where nft says that there is no such thing.
    async fn list_json(&self, words: &[&str]) -> Result<Option<Value>, NftError> {
        let mut arguments = vec!["--json", "--handle"];
        arguments.extend(words);
        match self.call(&arguments, "").await {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(NftError::Json),
            Err(NftError::Refused(text)) if text.contains("No such file or directory") => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn run(&self, text: &str) -> Result<String, NftError> {
        self.call(&["-f", "-"], text).await
    }

    async fn call(&self, arguments: &[&str], input: &str) -> Result<String, NftError> {
        let mut child = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => NftError::Missing { program: self.program.clone(), source },
                _ => NftError::Io(source),
            })?;
        let stdin = child.stdin.take();
        let conversation = async {
            if let Some(mut stdin) = stdin {
                // A program that has failed already doesn't read: what it says tells more.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            child.wait_with_output().await.map_err(NftError::Io)
        };
        let output = timeout(PATIENCE, conversation).await.map_err(|_| NftError::Timeout)??;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let words: Vec<&str> =
            std::str::from_utf8(&output.stderr).unwrap_or_default().split_whitespace().take(60).collect();
        Err(NftError::Refused(words.join(" ")))
    }
}

/// A forward chain of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Forward {
    pub(super) drops: bool,
    pub(super) handles: Vec<u64>,
}

fn forward_chain(chain: ForwardException) -> (&'static str, &'static str) {
    match chain {
        ForwardException::Ip => ("ip", "FORWARD"),
        ForwardException::Ip6 => ("ip6", "FORWARD"),
    }
}

fn digest(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("v{:016x}", hasher.finish())
}

/// The digest as the name of an empty chain: comments on tables are newer than the oldest kernels.
fn with_digest(declaration: &str, digest: &str) -> String {
    match declaration.rsplit_once('}') {
        Some((body, rest)) => format!("{body}  chain {digest} {{\n  }}\n}}{rest}"),
        None => declaration.to_owned(),
    }
}

fn with_counters(declaration: &str, counters: &BTreeMap<String, (u64, u64)>) -> String {
    let mut text = declaration.to_owned();
    for (name, (packets, bytes)) in counters {
        let empty = format!("counter {name} {{\n");
        text = text.replace(&empty, &format!("{empty}    packets {packets} bytes {bytes}\n"));
    }
    text
}

/// Rules in a declaration: lines inside of chains that are neither the hook nor a brace.
fn count_rules(declaration: &str) -> usize {
    let mut in_chain = false;
    let mut count = 0;
    for line in declaration.lines().map(str::trim) {
        match line {
            _ if line.starts_with("chain ") => in_chain = true,
            "}" => in_chain = false,
            _ if in_chain && !line.starts_with("type ") => count += 1,
            _ => {}
        }
    }
    count
}

fn element_changes(before: &NftTable, wanted: &NftTable) -> String {
    let table = mark::NFT_TABLE;
    let mut text = String::new();
    for (verb, from, to) in
        [("delete", &before.elements, &wanted.elements), ("add", &wanted.elements, &before.elements)]
    {
        for (set, elements) in from {
            let other: BTreeSet<&String> = to.get(set).into_iter().flatten().collect();
            let changed: Vec<&str> =
                elements.iter().filter(|element| !other.contains(*element)).map(String::as_str).collect();
            if !changed.is_empty() {
                text.push_str(&format!("{verb} element inet {table} {set} {{ {} }}\n", changed.join(", ")));
            }
        }
    }
    text
}

fn read_listing(listing: &Value) -> Listing {
    let mut read = Listing::default();
    let mut rules = vec![];
    for object in listing["nftables"].as_array().into_iter().flatten() {
        if let Some(set) = object.get("set") {
            let name = set["name"].as_str().unwrap_or_default().to_owned();
            let mut elements: Vec<String> =
                set["elem"].as_array().into_iter().flatten().map(element_text).collect();
            elements.sort();
            read.elements.insert(name, elements);
        } else if let Some(counter) = object.get("counter") {
            let value = |field: &str| counter[field].as_u64().unwrap_or(0);
            let name = counter["name"].as_str().unwrap_or_default().to_owned();
            read.counters.insert(name, (value("packets"), value("bytes")));
        } else if let Some(rule) = object.get("rule") {
            read.rule_count += 1;
            rules.push(serde_json::json!([rule["chain"], rule["expr"]]));
        } else if let Some(chain) = object.get("chain") {
            let name = chain["name"].as_str().unwrap_or_default();
            if name.len() == 17 && name.starts_with('v') {
                read.digest = Some(name.to_owned());
            }
            rules.push(serde_json::json!([name, chain["hook"], chain["prio"], chain["policy"]]));
        }
    }
    read.rules = Value::Array(rules);
    read
}

/// An element as [`crate::nft`] writes it.
fn element_text(element: &Value) -> String {
    let element = element.get("elem").map_or(element, |wrapped| &wrapped["val"]);
    match element.get("prefix") {
        Some(prefix) => {
            format!(
                "{}/{}",
                prefix["addr"].as_str().unwrap_or_default(),
                prefix["len"].as_u64().unwrap_or_default()
            )
        }
        None => match element.get("range").and_then(Value::as_array).map(Vec::as_slice) {
            Some([from, to]) => {
                format!("{}-{}", from.as_str().unwrap_or_default(), to.as_str().unwrap_or_default())
            }
            _ => element.as_str().unwrap_or_default().to_owned(),
        },
    }
}
