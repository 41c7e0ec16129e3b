//! The broker's program: Java, and the jars that Maven fetches once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::error::BrokerError;

/// The version of Apache Kafka.
const KAFKA: &str = "4.1.1";

/// The oldest Java that runs it.
const JAVA_MIN: u32 = 17;

/// Names the jars: the broker, and the Java client as a program. Kafka brings the interface of its logger; the implementation is named here.
const POM: &str = include_str!("pom.xml");

/// Fails where there is no Java that is new enough.
pub(crate) fn check_java() -> Result<(), BrokerError> {
    let missing = |program: String| BrokerError::Missing { program, package: "openjdk-17-jre-headless" };
    let told = match Command::new("java").arg("-version").output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(missing(format!("Java {JAVA_MIN} or newer")));
        }
        Err(source) => return Err(BrokerError::Io { what: "run java".to_owned(), source }),
    };
    match java_version(&String::from_utf8_lossy(&told.stderr)) {
        Some(version) if version < JAVA_MIN => {
            Err(missing(format!("Java {JAVA_MIN} or newer, and this is Java {version}")))
        }
        _ => Ok(()),
    }
}

/// Reads `openjdk version "17.0.17" …`, and `"1.8.0"` of old.
fn java_version(printed: &str) -> Option<u32> {
    let mut parts = printed.split('"').nth(1)?.split(['.', '-', '+']);
    let first = parts.next()?.parse().ok()?;
    if first == 1 { parts.next()?.parse().ok() } else { Some(first) }
}

/// The folder with the jars, fetched where they are not there yet. Two processes must not call this at once.
pub(crate) fn fetch(folder: &Path) -> Result<PathBuf, BrokerError> {
    let jars = folder.join(format!("jars-{KAFKA}"));
    // Written last: what an interrupted fetch left behind does not count, nor what another version fetched.
    let complete = jars.join("complete");
    if fs::read_to_string(&complete).is_ok_and(|fetched| fetched == POM) {
        return Ok(jars);
    }
    fs::create_dir_all(&jars).map_err(BrokerError::io("create", &jars))?;
    let pom = jars.join("pom.xml");
    fs::write(&pom, POM.replace("@KAFKA@", KAFKA)).map_err(BrokerError::io("write", &pom))?;
    let fetched = Command::new("mvn")
        .args(["--quiet", "--batch-mode", "--file"])
        .arg(&pom)
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", jars.display()))
        .output();
    let fetched = match fetched {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BrokerError::Missing { program: "Maven".to_owned(), package: "maven" });
        }
        Err(source) => return Err(BrokerError::Io { what: "run mvn".to_owned(), source }),
    };
    if !fetched.status.success() {
        let what =
            format!("fetch Apache Kafka {KAFKA} from Maven Central: mvn ended with {}", fetched.status);
        return Err(BrokerError::Failed { what, printed: printed(&fetched) });
    }
    fs::write(&complete, POM).map_err(BrokerError::io("write", &complete))?;
    Ok(jars)
}

/// What a program printed, errors last.
pub(crate) fn printed(output: &Output) -> String {
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{errors}").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::java_version;

    #[test]
    fn the_version_of_java_is_read_from_what_it_prints() {
        for (printed, version) in [
            ("openjdk version \"17.0.17\" 2026-10-20\nOpenJDK Runtime", Some(17)),
            ("openjdk version \"21\" 2023-09-19", Some(21)),
            ("openjdk version \"25-ea\" 2025-09-16", Some(25)),
            ("java version \"1.8.0_402\"", Some(8)),
            ("no version at all", None),
        ] {
            assert_eq!(java_version(printed), version, "{printed}");
        }
    }
}
