//! The files of [`super`] on disk: written whole or not at all, and written again when someone alters
//! them. The conflist lives in the run directory, which a reboot empties, and the runtime's directory holds
//! a link to it: so no pod starts on yesterday's subnet.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::{CONFLIST, SUBNET_ENV_MARK};

/// Where the files go.
#[derive(Clone, Debug)]
pub struct Places {
    /// The container runtime's configuration directory.
    pub cni_conf_dir: PathBuf,
    /// Ours.
    pub run_dir: PathBuf,
    pub subnet_env: PathBuf,
}

/// What the files should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    pub conflist: String,
    pub subnet_env: String,
}

/// What came of writing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Written {
    /// Files that had to be written.
    pub count: usize,
    /// A file of somebody else where ours would be: left alone.
    pub foreign: Option<PathBuf>,
}

/// A file could not be handled.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Places {
    /// host-local's store. In the run directory: it must not outlive the node's boot.
    pub fn data_dir(&self) -> PathBuf {
        self.run_dir.join("ipam")
    }

    fn conflist(&self) -> PathBuf {
        self.run_dir.join(CONFLIST)
    }

    fn link(&self) -> PathBuf {
        self.cni_conf_dir.join(CONFLIST)
    }

    /// Makes the files say `texts`.
    pub fn write(&self, texts: &Texts) -> Result<Written, FileError> {
        let mut written = Written::default();
        written.count += usize::from(write_if_different(&self.conflist(), &texts.conflist)?);
        if self.subnet_env_is_foreign() {
            written.foreign = Some(self.subnet_env.clone());
        } else {
            written.count += usize::from(write_if_different(&self.subnet_env, &texts.subnet_env)?);
        }
        // Last: the runtime looks at nothing else.
        written.count += usize::from(link_if_different(&self.link(), &self.conflist())?);
        Ok(written)
    }

    fn subnet_env_is_foreign(&self) -> bool {
        fs::read_to_string(&self.subnet_env)
            .is_ok_and(|text| !text.is_empty() && !text.starts_with(SUBNET_ENV_MARK))
    }

    /// A configuration of someone else that the runtime takes instead of ours.
    pub fn shadowing(&self) -> Option<String> {
        let mut names: Vec<String> = fs::read_dir(&self.cni_conf_dir)
            .ok()?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end)))
            .collect();
        names.sort();
        names.into_iter().next().filter(|first| first.as_str() < CONFLIST)
    }

    /// Removes what is ours. What was removed.
    pub fn remove(&self) -> Result<Vec<PathBuf>, FileError> {
        let mut removed = Vec::new();
        let link = self.link();
        if fs::symlink_metadata(&link).is_ok() {
            fs::remove_file(&link).map_err(wrap("remove", &link))?;
            removed.push(link);
        }
        let conflist = self.conflist();
        if conflist.exists() {
            fs::remove_file(&conflist).map_err(wrap("remove", &conflist))?;
            removed.push(conflist);
        }
        let ours = fs::read_to_string(&self.subnet_env).is_ok_and(|text| text.starts_with(SUBNET_ENV_MARK));
        if ours {
            fs::remove_file(&self.subnet_env).map_err(wrap("remove", &self.subnet_env))?;
            // Only if it is empty, then it was made for the file.
            if let Some(directory) = self.subnet_env.parent() {
                let _ = fs::remove_dir(directory);
            }
            removed.push(self.subnet_env.clone());
        }
        Ok(removed)
    }
}

/// True where it was written.
fn write_if_different(path: &Path, text: &str) -> Result<bool, FileError> {
    // A link in our place would make us write into someone else's file.
    let plain = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    if plain && fs::read(path).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(false);
    }
    make_parent(path)?;
    let temporary = beside(path);
    fs::write(&temporary, text).map_err(wrap("write", &temporary))?;
    fs::rename(&temporary, path).map_err(wrap("replace", path))?;
    Ok(true)
}

fn link_if_different(link: &Path, target: &Path) -> Result<bool, FileError> {
    if fs::read_link(link).is_ok_and(|found| found == target) {
        return Ok(false);
    }
    make_parent(link)?;
    let temporary = beside(link);
    let _ = fs::remove_file(&temporary);
    symlink(target, &temporary).map_err(wrap("link", &temporary))?;
    fs::rename(&temporary, link).map_err(wrap("replace", link))?;
    Ok(true)
}

/// In the same directory, so that a rename is atomic, and with a name that no runtime reads.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

fn make_parent(path: &Path) -> Result<(), FileError> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(wrap("make directory", parent)),
        None => Ok(()),
    }
}

fn wrap(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> (tempfile::TempDir, Places, Texts) {
        let root = tempfile::tempdir().unwrap();
        let places = Places {
            cni_conf_dir: root.path().join("etc/cni/net.d"),
            run_dir: root.path().join("run/tartan"),
            subnet_env: root.path().join("run/flannel/subnet.env"),
        };
        let texts = Texts { conflist: "{}\n".into(), subnet_env: format!("{SUBNET_ENV_MARK}\nA=b\n") };
        (root, places, texts)
    }

    #[test]
    fn files_are_written_once_and_again_when_altered_or_deleted() {
        let (_root, places, texts) = setup();
        assert_eq!(places.write(&texts).unwrap().count, 3);
        assert_eq!(places.write(&texts).unwrap().count, 0);
        assert_eq!(fs::read_to_string(places.link()).unwrap(), texts.conflist);
        fs::write(places.conflist(), "nonsense").unwrap();
        assert_eq!(places.write(&texts).unwrap().count, 1);
        fs::remove_file(&places.subnet_env).unwrap();
        assert_eq!(places.write(&texts).unwrap().count, 1);
        fs::remove_file(places.link()).unwrap();
        fs::write(places.link(), "a plain file").unwrap();
        assert_eq!(places.write(&texts).unwrap().count, 1);
        assert_eq!(fs::read_to_string(places.link()).unwrap(), texts.conflist);
        let names: Vec<_> = fs::read_dir(&places.run_dir).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "temporary files were left: {names:?}");
    }

    #[test]
    fn a_file_that_sorts_before_ours_is_reported() {
        let (_root, places, texts) = setup();
        places.write(&texts).unwrap();
        fs::write(places.cni_conf_dir.join("10-flannel.conflist"), "{}").unwrap();
        fs::write(places.cni_conf_dir.join("01-readme.txt"), "").unwrap();
        assert_eq!(places.shadowing(), None);
        fs::write(places.cni_conf_dir.join("00-other.conf"), "{}").unwrap();
        assert_eq!(places.shadowing().as_deref(), Some("00-other.conf"));
    }

    #[test]
    fn only_what_is_ours_is_removed() {
        let (_root, places, texts) = setup();
        places.write(&texts).unwrap();
        fs::write(&places.subnet_env, "FLANNEL_MTU=1450\n").unwrap();
        fs::write(places.cni_conf_dir.join("99-loopback.conf"), "{}").unwrap();
        assert_eq!(
            places.write(&texts).unwrap(),
            Written { count: 0, foreign: Some(places.subnet_env.clone()) }
        );
        assert_eq!(places.remove().unwrap().len(), 2);
        assert_eq!(fs::read_to_string(&places.subnet_env).unwrap(), "FLANNEL_MTU=1450\n");
        fs::remove_file(&places.subnet_env).unwrap();
        assert!(places.cni_conf_dir.join("99-loopback.conf").exists());
        places.write(&texts).unwrap();
        assert_eq!(places.remove().unwrap().len(), 3);
        assert!(!places.subnet_env.exists());
        assert!(places.remove().unwrap().is_empty());
    }
}
