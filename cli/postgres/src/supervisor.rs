//! Room: child processes that cannot outlive us.
//! Takes: a command. Gives: a handle whose loss, however it comes about, ends the command.
//! Never: knows what the command is for.
//!
//! Each child runs below a small shell script that holds the reading end of a pipe; we hold the
//! writing end and nobody else does. When we die, be it by SIGKILL, the system closes our end and
//! the script acts. The usual way, a parent-death signal, needs `unsafe`, follows the thread that
//! started the child rather than the process, and exists on Linux alone.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::{env, process, thread};

use tokio::sync::watch;

use crate::user::ServerUser;

/// The locale of every process here. A bare C where C.UTF-8 is not everywhere to be had; the
/// encoding is UTF-8 either way.
pub(crate) const LOCALE: &str = if cfg!(target_os = "macos") {
    "C"
} else {
    "C.UTF-8"
};

/// Runs `"$@"`, prints its process id, sends it the signals named on the pipe, and interrupts it
/// when the pipe closes; ends when the command ends, with its code.
///
/// - Signals to the script itself are ignored: only the pipe and the command's end count.
/// - A command started with `&` ignores SIGINT until it installs its own handler, so the last
///   request is repeated until it is heard.
/// - Should the script itself be killed, the part that reads the pipe lives on and does its work.
const SUPERVISOR: &str = r#"
trap '' HUP INT TERM
exec 3<&0 </dev/null
"$@" >&2 3<&- &
child=$!
echo "$child"
{
    while read -r signal; do kill -s "$signal" "$child"; done
    while kill -s INT "$child"; do sleep 1; done
} <&3 2>/dev/null &
reader=$!
wait "$child"
code=$?
kill -s KILL "$reader"
exit "$code"
"#;

/// Waits for the pipe to close, then for the server named in the file `$1` to end, then removes
/// the directories that follow. Gives up after a minute of trying.
const JANITOR: &str = r#"
trap '' HUP INT TERM
cat >/dev/null
pid_file=$1
shift
tries=60
while read -r pid <"$pid_file" && kill -s 0 "$pid" && [ "$tries" -gt 0 ]; do
    tries=$((tries - 1))
    sleep 1
done
until rm -rf -- "$@" || [ "$tries" -le 0 ]; do
    tries=$((tries - 1))
    sleep 1
done
"#;

/// A script that runs, and our end of its pipe. Dropping it closes the pipe and waits for nothing.
#[derive(Debug)]
struct Script {
    pipe: ChildStdin,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Script {
    /// Starts `command`, giving the script's output to `greet` before anything else happens.
    fn start<T>(
        mut command: Command,
        greet: impl FnOnce(&mut Child) -> io::Result<T>,
    ) -> io::Result<(Self, T)> {
        let mut child = command
            .stdin(Stdio::piped())
            // A group of its own: Ctrl-C reaches only us, and we stop the server after draining.
            .process_group(0)
            // No directory is kept from being unmounted or removed.
            .current_dir("/")
            .spawn()?;
        let pipe = child
            .stdin
            .take()
            .ok_or_else(|| io::Error::other("no pipe"))?;
        let greeting = greet(&mut child)?;
        let (report, exit) = watch::channel(None);
        // The thread makes the end of the process an event for any async runtime, or several one
        // after the other, and leaves no zombie when nobody waits.
        thread::Builder::new()
            .name("harkara-postgres".to_owned())
            .spawn(move || report.send(child.wait().ok()))?;
        Ok((Self { pipe, exit }, greeting))
    }

    /// Waits for the script's end. None if its status is lost.
    async fn exited(&mut self) -> Option<ExitStatus> {
        self.exit
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|status| *status)
    }
}

/// A command that ends when this handle is dropped or our process dies.
#[derive(Debug)]
pub(crate) struct Supervised {
    script: Script,
    pid: u32,
}

impl Supervised {
    /// Runs `program` with `args` as `user`, its output going to the end of `log`.
    pub(crate) fn start(
        program: &Path,
        args: &[OsString],
        user: &ServerUser,
        log: File,
    ) -> io::Result<Self> {
        let mut command = shell(SUPERVISOR);
        user.dress(&mut command);
        command
            .arg(program)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(log);
        let (script, pid) = Script::start(command, |child| {
            let mut line = String::new();
            let output = child.stdout.take();
            BufReader::new(output.ok_or_else(|| io::Error::other("no output"))?)
                .read_line(&mut line)?;
            line.trim()
                .parse()
                .map_err(|_| io::Error::other("the supervising shell did not start"))
        })?;
        Ok(Self { script, pid })
    }

    /// The command's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the command has not ended.
    pub(crate) fn is_running(&self) -> bool {
        self.script.exit.borrow().is_none() && self.script.exit.has_changed().is_ok()
    }

    /// Sends the command a signal by its name, such as `INT`. Fails when it has ended.
    pub(crate) fn signal(&mut self, name: &str) -> io::Result<()> {
        self.script.pipe.write_all(format!("{name}\n").as_bytes())
    }

    /// Waits for the command's end. None if its status is lost.
    pub(crate) async fn exited(&mut self) -> Option<ExitStatus> {
        self.script.exited().await
    }
}

/// Removes directories once this handle is dropped, or our process has died, and the server is
/// gone.
#[derive(Debug)]
pub(crate) struct Janitor(Script);

impl Janitor {
    /// Will remove `directories` after the server whose pid file is `pid_file`. Runs as ourselves,
    /// so that a directory in a place closed to the server's account goes too.
    pub(crate) fn start(pid_file: &Path, directories: &[PathBuf]) -> io::Result<Self> {
        let mut command = shell(JANITOR);
        command
            .arg(pid_file)
            .args(directories)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (script, ()) = Script::start(command, |_| Ok(()))?;
        Ok(Self(script))
    }

    /// Lets the janitor work now and waits until it has.
    pub(crate) async fn finish(self) {
        let Script { pipe, mut exit } = self.0;
        drop(pipe);
        // An error means the reporting thread is gone and the script with it.
        let _ = exit.wait_for(Option::is_some).await;
    }
}

/// A shell for `script` in a bare environment: our settings and locale must not leak into the
/// server, whose messages we read.
fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", script, "harkara-postgres"])
        .env_clear()
        .env("LC_ALL", LOCALE)
        // As pg_ctl does: a stale pid file may name a process that is now us, and the server
        // must not mistake its own ancestors for a rival.
        .env("PG_GRANDPARENT_PID", process::id().to_string());
    if let Some(path) = env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}
