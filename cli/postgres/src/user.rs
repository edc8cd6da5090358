//! The account the server runs as, because PostgreSQL refuses to run as root.
//!
//! The identity of the current process is never changed.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::Error;

/// Accounts tried for a server started by root, in this order.
const UNPRIVILEGED_ACCOUNTS: [&str; 2] = ["postgres", "nobody"];

/// The account the server runs as.
#[derive(Debug, Clone)]
pub(crate) struct ServerUser {
    uid: u32,
    /// The group to drop privileges to; `None` when the server runs as the current user.
    drop_to: Option<u32>,
    name: String,
}

impl ServerUser {
    /// Whether this process is root, so that the server needs another account.
    pub(crate) fn must_drop() -> bool {
        rustix::process::geteuid().is_root()
    }

    /// The account for a cluster that does not exist yet.
    pub(crate) fn for_new_cluster() -> Result<Self, Error> {
        if !Self::must_drop() {
            return Ok(Self::current());
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        UNPRIVILEGED_ACCOUNTS
            .iter()
            .find_map(|name| {
                let (uid, gid) = ids_of(&passwd, name)?;
                Some(Self::dropped(uid, gid, format!("the user `{name}`")))
            })
            .ok_or(Error::NoServerUser)
    }

    /// The account for an existing cluster: its owner.
    ///
    /// Ownership therefore never has to change, even when a volume comes from a machine with other ids.
    pub(crate) fn for_cluster(cluster: &Path, metadata: &Metadata) -> Result<Self, Error> {
        let owner = metadata.uid();
        if Self::must_drop() && owner != 0 {
            let name = format!("the user with id {owner}");
            return Ok(Self::dropped(owner, metadata.gid(), name));
        }
        let current = Self::current();
        if owner == current.uid && owner != 0 {
            return Ok(current);
        }
        Err(Error::ForeignOwner {
            cluster: cluster.to_path_buf(),
            owner,
        })
    }

    fn current() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            drop_to: None,
            name: "this user".to_owned(),
        }
    }

    fn dropped(uid: u32, gid: u32, name: String) -> Self {
        Self {
            uid,
            drop_to: Some(gid),
            name,
        }
    }

    /// The account's numeric id.
    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// Description of the account, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes `command` run as this account. The standard library drops root's supplementary groups.
    pub(crate) fn apply_to(&self, command: &mut Command) {
        if let Some(gid) = self.drop_to {
            command.uid(self.uid).gid(gid);
        }
    }

    /// Makes this account the owner of `path`. For a symbolic link, of the link itself.
    pub(crate) fn take_ownership(&self, path: &Path) -> io::Result<()> {
        match self.drop_to {
            Some(gid) => lchown(path, Some(self.uid), Some(gid)),
            None => Ok(()),
        }
    }

    /// Whether this account can enter `dir`. Tested by entering it, so that every parent, access list and
    /// mount option counts.
    pub(crate) fn can_enter(&self, dir: &Path) -> bool {
        let mut probe = Command::new("/bin/sh");
        probe.args(["-c", r#"cd -- "$1""#, "sh"]).arg(dir);
        self.succeeds(probe).is_ok()
    }

    /// Whether this account can run the server, tested with `--version`; else the reason.
    pub(crate) fn can_run(&self, postgres: &Path) -> Result<(), String> {
        let mut probe = Command::new(postgres);
        probe.arg("--version");
        self.succeeds(probe)
    }

    fn succeeds(&self, mut probe: Command) -> Result<(), String> {
        self.apply_to(&mut probe);
        let status = probe
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map_err(|error| error.to_string())?;
        if status.success() {
            Ok(())
        } else {
            Err(status.to_string())
        }
    }
}

/// User and group id of `name` in a password file.
fn ids_of(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let fields: Vec<_> = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))?;
    let id = |text: &str| text.parse().ok();
    Some((id(fields.get(2)?)?, id(fields.get(3)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_owned_by_root_is_refused() {
        let root = Path::new("/");
        let metadata = fs::metadata(root).unwrap();
        let error = ServerUser::for_cluster(root, &metadata).unwrap_err();
        assert!(
            matches!(error, Error::ForeignOwner { owner: 0, .. }),
            "{error}"
        );
    }

    #[test]
    fn ids_are_found_by_exact_name() {
        let passwd = "postgres2:x:1:2::/:/bin/sh\npostgres:x:101:104:admin,,,:/var:/bin/sh\n";
        assert_eq!(ids_of(passwd, "postgres"), Some((101, 104)));
        assert_eq!(ids_of(passwd, "nobody"), None);
        assert_eq!(ids_of("postgres:x:-2", "postgres"), None);
    }
}
