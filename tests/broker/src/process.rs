//! Starting, watching and ending the broker's process.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::BrokerError;
use crate::jars::printed;
use crate::tls;

/// The longest that a broker takes to start on a busy machine.
const START_MAX: Duration = Duration::from_mins(3);

/// The longest that a broker takes to end by itself before it is killed.
const STOP_MAX: Duration = Duration::from_secs(20);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Any identifier of a cluster will do: 16 bytes in base 64.
const CLUSTER: &str = "MkU3OEVBNTcwNTJENDM2Qg";

/// Closes what the caller left open before it becomes the program: a lock that a broker inherits is held for as
/// long as it runs.
const CLOSE_ALL: &str = r#"
for descriptor in /proc/$$/fd/*; do
  descriptor=${descriptor##*/}
  if [ "$descriptor" -gt 2 ]; then eval "exec $descriptor>&-"; fi
done
exec "$@"
"#;

/// How long a process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Until it is stopped, in a session of its own.
    Daemon,
    /// No longer than the thread that started it.
    OfThread,
}

/// A command that begins with nothing open but its standard streams.
fn detached(life: Life) -> Command {
    let mut command = match life {
        Life::Daemon => Command::new("setsid"),
        Life::OfThread => {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL"]);
            command
        }
    };
    command.args(["bash", "-c", CLOSE_ALL, "broker"]);
    command
}

/// Makes `folder/data` a broker's, unless it is one already.
pub(crate) fn format(folder: &Path, jars: &Path) -> Result<(), BrokerError> {
    if folder.join("data/meta.properties").is_file() {
        return Ok(());
    }
    let formatted = Command::new("java")
        .args(["-Xmx128m", "-XX:TieredStopAtLevel=1"])
        .arg(format!("-Dlog4j2.configurationFile={}", folder.join("log4j2.properties").display()))
        .arg("-cp")
        .arg(format!("{}/*", jars.display()))
        .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c"])
        .arg(folder.join("server.properties"))
        .arg("--add-scram")
        .arg(format!("SCRAM-SHA-512=[name={},password={}]", tls::USER, tls::PASSWORD))
        .output()
        .map_err(|source| BrokerError::Io { what: "run java".to_owned(), source })?;
    if formatted.status.success() {
        return Ok(());
    }
    let what = format!("format {}: java ended with {}", folder.display(), formatted.status);
    Err(BrokerError::Failed { what, printed: printed(&formatted) })
}

/// Starts the broker of `folder` and waits until it answers on `port`.
pub(crate) fn start(folder: &Path, jars: &Path, port: u16, life: Life) -> Result<Child, BrokerError> {
    let output = folder.join("output.txt");
    let file = File::create(&output).map_err(BrokerError::io("create", &output))?;
    let errors = file.try_clone().map_err(BrokerError::io("open", &output))?;
    let mut child = detached(life)
        .args(["java", "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg(format!("-Dlog4j2.configurationFile={}", folder.join("log4j2.properties").display()))
        .arg("-cp")
        .arg(format!("{}/*", jars.display()))
        .arg("kafka.Kafka")
        .arg(folder.join("server.properties"))
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .map_err(|source| BrokerError::Io { what: "start the broker".to_owned(), source })?;
    let begun = Instant::now();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    loop {
        let ended = child.try_wait();
        if let Some(status) =
            ended.map_err(|source| BrokerError::Io { what: "watch the broker".to_owned(), source })?
        {
            let what = format!("the broker in {} ended with {status} as it started", folder.display());
            return Err(BrokerError::Failed { what, printed: last_lines(&output) });
        }
        let is_started = fs::read_to_string(&output).is_ok_and(|text| text.contains("Kafka Server started"));
        if is_started && TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
            return Ok(child);
        }
        if begun.elapsed() > START_MAX {
            // It would be in the way of the next try.
            let _ = child.kill().and_then(|()| child.wait());
            let what = format!("the broker in {} did not start in {START_MAX:?}", folder.display());
            return Err(BrokerError::Failed { what, printed: last_lines(&output) });
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn last_lines(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
}

/// Whether `pid` is the broker of `folder`. A process that took the number over later is not.
pub(crate) fn is_broker_of(pid: u32, folder: &Path) -> bool {
    let settings = folder.join("server.properties");
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        line.split(|byte| *byte == 0).any(|word| word == settings.as_os_str().as_encoded_bytes())
    })
}

/// Sends a signal by its name without `SIG`.
pub(crate) fn signal(pid: u32, name: &str) -> Result<(), BrokerError> {
    let send = format!("kill -{name} {pid}");
    let status = Command::new("bash")
        .args(["-c", &send])
        .stderr(Stdio::null())
        .status()
        .map_err(|source| BrokerError::Io { what: send.clone(), source })?;
    if status.success() {
        return Ok(());
    }
    Err(BrokerError::Io { what: send, source: io::Error::other(format!("no such process: {status}")) })
}

/// Ends the broker of `folder` by itself, and by force where that takes too long. It may be another's child.
pub(crate) fn stop(pid: u32, folder: &Path, child: Option<&mut Child>) -> Result<(), BrokerError> {
    let mut child = child;
    let begun = Instant::now();
    let mut is_killed = false;
    if is_broker_of(pid, folder) {
        signal(pid, "TERM")?;
    }
    loop {
        let has_ended = match child.as_mut() {
            Some(child) => child.try_wait().is_ok_and(|status| status.is_some()),
            None => !is_broker_of(pid, folder),
        };
        if has_ended {
            return Ok(());
        }
        if begun.elapsed() > STOP_MAX && !is_killed {
            is_killed = true;
            signal(pid, "KILL")?;
        }
        thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_inherits_nothing_that_is_open() {
        for life in [Life::Daemon, Life::OfThread] {
            let command = detached(life);
            let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
            // A shell that leaves two files open, one of them past the nine that a plain shell could close.
            let listed = Command::new("bash")
                .args(["-c", "exec 7</dev/null 23</dev/null; exec \"$@\"", "caller"])
                .args(words)
                .args(["bash", "-c", "echo /proc/$$/fd/*"])
                .output()
                .expect("bash runs");
            let listed = String::from_utf8(listed.stdout).expect("text");
            let open: Vec<&str> =
                listed.split_whitespace().filter_map(|path| path.rsplit('/').next()).collect();
            assert!(open.contains(&"0") && open.contains(&"1"), "{listed}");
            assert!(!open.contains(&"7") && !open.contains(&"23"), "{listed}");
        }
    }
}
