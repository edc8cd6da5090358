//! Room: the account the server runs as, because PostgreSQL refuses to run as root.
//! Takes: our own user id and the password file. Gives: a [`ServerUser`] that dresses commands,
//! owns directories and says what that account can reach.
//! Never: changes the identity of our own process.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::Error;

/// The accounts tried for a server started by root, in this order.
const ACCOUNTS: [&str; 2] = ["postgres", "nobody"];

/// The account the server runs as.
#[derive(Debug, Clone)]
pub(crate) struct ServerUser {
    uid: u32,
    /// The group to drop to; none when the server runs as ourselves.
    drop_to: Option<u32>,
    name: String,
}

impl ServerUser {
    /// Whether we are root and the server therefore needs another account.
    pub(crate) fn must_drop() -> bool {
        rustix::process::geteuid().is_root()
    }

    /// The account for a cluster that does not exist yet.
    pub(crate) fn for_new_cluster() -> Result<Self, Error> {
        if !Self::must_drop() {
            return Ok(Self::ourselves());
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        ACCOUNTS
            .iter()
            .find_map(|name| {
                let (uid, gid) = ids_of(&passwd, name)?;
                Some(Self::dropped(uid, gid, format!("the user `{name}`")))
            })
            .ok_or(Error::NoServerUser)
    }

    /// The account for a cluster that exists: its owner, whoever made it.
    ///
    /// Going on as the owner means that nothing ever has to be handed from user to user, also when
    /// a volume comes from a machine with other ids.
    pub(crate) fn for_cluster(cluster: &Path, metadata: &Metadata) -> Result<Self, Error> {
        let owner = metadata.uid();
        if Self::must_drop() && owner != 0 {
            let name = format!("the user with id {owner}");
            return Ok(Self::dropped(owner, metadata.gid(), name));
        }
        let ourselves = Self::ourselves();
        if owner == ourselves.uid && owner != 0 {
            return Ok(ourselves);
        }
        Err(Error::ForeignOwner {
            cluster: cluster.to_path_buf(),
            owner,
        })
    }

    fn ourselves() -> Self {
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

    /// The account in words, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes `command` run as this account. (The standard library drops root's further groups.)
    pub(crate) fn dress(&self, command: &mut Command) {
        if let Some(gid) = self.drop_to {
            command.uid(self.uid).gid(gid);
        }
    }

    /// Gives `path` to this account. A link is given itself, not what it points to.
    pub(crate) fn give(&self, path: &Path) -> io::Result<()> {
        match self.drop_to {
            Some(gid) => lchown(path, Some(self.uid), Some(gid)),
            None => Ok(()),
        }
    }

    /// Whether this account can enter `dir`: asked of the system by doing it, so that every
    /// parent, access list and mount option counts.
    pub(crate) fn can_enter(&self, dir: &Path) -> bool {
        let mut probe = Command::new("/bin/sh");
        probe.args(["-c", r#"cd -- "$1""#, "sh"]).arg(dir);
        self.answers(probe).is_ok()
    }

    /// Whether this account can run the server, by asking its version; else the reason.
    pub(crate) fn can_run(&self, postgres: &Path) -> Result<(), String> {
        let mut probe = Command::new(postgres);
        probe.arg("--version");
        self.answers(probe)
    }

    fn answers(&self, mut probe: Command) -> Result<(), String> {
        self.dress(&mut probe);
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

/// The user and group id of `name` in a password file.
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
    fn a_cluster_of_roots_is_run_by_nobody() {
        let root = Path::new("/");
        let metadata = fs::metadata(root).unwrap();
        let error = ServerUser::for_cluster(root, &metadata).unwrap_err();
        assert!(
            matches!(error, Error::ForeignOwner { owner: 0, .. }),
            "{error}"
        );
    }

    #[test]
    fn ids_come_from_the_exact_name() {
        let passwd = "postgres2:x:1:2::/:/bin/sh\npostgres:x:101:104:admin,,,:/var:/bin/sh\n";
        assert_eq!(ids_of(passwd, "postgres"), Some((101, 104)));
        assert_eq!(ids_of(passwd, "nobody"), None);
        assert_eq!(ids_of("postgres:x:-2", "postgres"), None);
    }
}
