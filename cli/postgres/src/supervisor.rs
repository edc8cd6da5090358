//! Child processes that cannot outlive this process.
//!
//! Each child runs below a small shell script that holds the reading end of a pipe; only this process holds
//! the writing end. When this process dies, even by SIGKILL, the operating system closes the pipe and the
//! script stops the child. The usual alternative, a parent-death signal, requires `unsafe`, follows the
//! thread that started the child rather than the process, and exists on Linux only.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::{env, process, thread};

use tokio::sync::watch;

use crate::user::ServerUser;

/// The locale of every child process. Plain C on systems that do not always have C.UTF-8; the encoding is
/// UTF-8 either way.
pub(crate) const LOCALE: &str = if cfg!(target_os = "macos") {
    "C"
} else {
    "C.UTF-8"
};

/// Runs `"$@"`, prints its process id, sends it the signals named on the pipe, and interrupts it when the
/// pipe closes; exits with the command's exit code.
///
/// - Signals to the script itself are ignored: only the pipe and the command's end matter.
/// - A command started with `&` ignores SIGINT until it installs its own handler, so the final SIGINT is
///   repeated until the command ends.
/// - If the script itself is killed, the subshell that reads the pipe survives and does its work.
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

/// Waits for the pipe to close, then for the server of the pid file `$1` to end, then removes the remaining
/// arguments. Stops trying after a minute.
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

/// A running script and the writing end of its pipe. Dropping it closes the pipe without waiting.
#[derive(Debug)]
struct Script {
    pipe: ChildStdin,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Script {
    /// Starts `command` and calls `greet` to read the script's first output.
    fn start<T>(
        mut command: Command,
        greet: impl FnOnce(&mut Child) -> io::Result<T>,
    ) -> io::Result<(Self, T)> {
        let mut child = command
            .stdin(Stdio::piped())
            // Its own process group: Ctrl-C reaches only this process, which stops the server after draining.
            .process_group(0)
            // The child must not keep a directory from being unmounted or removed.
            .current_dir("/")
            .spawn()?;
        let pipe = child
            .stdin
            .take()
            .ok_or_else(|| io::Error::other("no pipe"))?;
        let greeting = greet(&mut child)?;
        let (report, exit) = watch::channel(None);
        // The thread makes the process's end observable from any async runtime, and reaps the process even
        // if no task waits.
        thread::Builder::new()
            .name("harkara-postgres".to_owned())
            .spawn(move || report.send(child.wait().ok()))?;
        Ok((Self { pipe, exit }, greeting))
    }

    /// Waits for the script's end; `None` if its status was lost.
    async fn exited(&mut self) -> Option<ExitStatus> {
        self.exit
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|status| *status)
    }
}

/// A command that ends when this handle is dropped or this process dies.
#[derive(Debug)]
pub(crate) struct Supervised {
    script: Script,
    pid: u32,
}

impl Supervised {
    /// Runs `program` with `args` as `user`, appending its output to `log`.
    pub(crate) fn start(
        program: &Path,
        args: &[OsString],
        user: &ServerUser,
        log: File,
    ) -> io::Result<Self> {
        let mut command = shell(SUPERVISOR);
        user.apply_to(&mut command);
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

    /// Whether the command is running.
    pub(crate) fn is_running(&self) -> bool {
        self.script.exit.borrow().is_none() && self.script.exit.has_changed().is_ok()
    }

    /// Sends the command a signal by name, such as `INT`. Fails when the command has ended.
    pub(crate) fn signal(&mut self, name: &str) -> io::Result<()> {
        self.script.pipe.write_all(format!("{name}\n").as_bytes())
    }

    /// Waits for the command's end; `None` if its status was lost.
    pub(crate) async fn exited(&mut self) -> Option<ExitStatus> {
        self.script.exited().await
    }
}

/// Removes directories after this handle is dropped or this process dies, once the server has ended.
#[derive(Debug)]
pub(crate) struct Janitor(Script);

impl Janitor {
    /// Prepares the removal of `directories` after the end of the server with this pid file. Runs as the
    /// current user, so that directories which the server's account cannot reach are removed too.
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

    /// Starts the removal and waits for its end.
    pub(crate) async fn finish(self) {
        let Script { pipe, mut exit } = self.0;
        drop(pipe);
        // An error means that the reporting thread, and so the script, has ended.
        let _ = exit.wait_for(Option::is_some).await;
    }
}

/// A shell for `script` in a clean environment: settings and locale must not leak into the server, whose
/// messages are parsed.
fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", script, "harkara-postgres"])
        .env_clear()
        .env("LC_ALL", LOCALE)
        // As pg_ctl does: a stale pid file can contain the current process id of this process, and the
        // server must not mistake its own ancestor for another server.
        .env("PG_GRANDPARENT_PID", process::id().to_string());
    if let Some(path) = env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}
