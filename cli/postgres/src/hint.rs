//! Room: how to install PostgreSQL on the platform at hand.
//! Takes: `/etc/os-release`. Gives: one sentence. Never: installs anything.

use std::fs;

/// The sentence that ends "PostgreSQL was not found".
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
            format!("install it with `{command}`, or set DATABASE_URL to a server of yours")
        }
        None => "install PostgreSQL with your package manager, or set DATABASE_URL to a server \
                 of yours"
            .to_owned(),
    }
}

/// The command for a distribution, by its own id or, for a derivative, the ones it says it is like.
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
    fn a_derivative_gets_the_command_of_what_it_is_like() {
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
    fn an_unknown_system_gets_none() {
        assert_eq!(command_for("ID=plan9\n"), None);
        assert_eq!(command_for(""), None);
    }
}
