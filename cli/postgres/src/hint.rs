//! How to install PostgreSQL on this system, from `/etc/os-release`.

use std::fs;

/// The advice at the end of "PostgreSQL was not found".
pub(crate) fn install() -> String {
    let command = if cfg!(target_os = "macos") {
        Some("brew install postgresql@17")
    } else {
        fs::read_to_string("/etc/os-release")
            .ok()
            .as_deref()
            .and_then(command_for)
    };
    match command {
        Some(command) => {
            format!("install it with `{command}`, or set DATABASE_URL to your own server")
        }
        None => "install PostgreSQL with your package manager, or set DATABASE_URL to your own \
                 server"
            .to_owned(),
    }
}

/// The command for a distribution, by its id or, for a derivative, its `ID_LIKE`.
fn command_for(os_release: &str) -> Option<&'static str> {
    let value = |key: &str| {
        os_release
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches(['"', '\'']))
            .unwrap_or_default()
    };
    std::iter::once(value("ID"))
        .chain(value("ID_LIKE").split_whitespace())
        .find_map(|id| match id {
            "debian" | "ubuntu" => Some("sudo apt-get install postgresql"),
            "fedora" | "rhel" | "centos" => Some("sudo dnf install postgresql-server"),
            "alpine" => Some("sudo apk add postgresql"),
            "arch" => Some("sudo pacman -S postgresql"),
            "suse" | "opensuse" => Some("sudo zypper install postgresql-server"),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::command_for;

    #[test]
    fn derivative_gets_the_command_of_its_parent() {
        let mint = "NAME=\"Linux Mint\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n";
        assert_eq!(command_for(mint), Some("sudo apt-get install postgresql"));
        let rocky = "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n";
        assert_eq!(
            command_for(rocky),
            Some("sudo dnf install postgresql-server")
        );
        assert_eq!(command_for("ID=alpine\n"), Some("sudo apk add postgresql"));
    }

    #[test]
    fn unknown_system_gets_no_command() {
        assert_eq!(command_for("ID=plan9\n"), None);
        assert_eq!(command_for(""), None);
    }
}
