//! From settings to a connection: how the cluster is spoken to, and with which secrets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kintsugi_eventlog::kafka::Connection;

use crate::failure::{Explain, Failure};
use crate::settings::{KafkaSettings, Security};

/// The environment variable that holds the password of SASL, instead of a file.
pub(crate) const PASSWORD_VARIABLE: &str = "KINTSUGI_KAFKA_PASSWORD";

/// The connection to `brokers` that `settings` describe. Files are relative to `dir`.
pub(crate) fn connection(
    brokers: &Arc<str>,
    settings: &KafkaSettings,
    dir: &Path,
) -> Result<Connection, Failure> {
    let mut properties = BTreeMap::new();
    let mut set = |name: &str, value: String| properties.insert(name.to_owned(), value);
    set("security.protocol", settings.security.name().to_owned());
    if settings.security.has_sasl() {
        let username = settings.username.clone().ok_or_else(|| missing("username", settings.security))?;
        set("sasl.mechanism", settings.sasl_mechanism.name().to_owned());
        set("sasl.username", username);
        set("sasl.password", password(settings, dir)?);
    }
    if settings.security.has_tls() {
        let files = [
            ("ssl.ca.location", &settings.ca_file),
            ("ssl.certificate.location", &settings.certificate_file),
            ("ssl.key.location", &settings.key_file),
        ];
        for (name, file) in files {
            if let Some(file) = file {
                let file = dir.join(file);
                // The library says only that it could not read one of them.
                std::fs::File::open(&file).outside(|| format!("read {}", file.display()))?;
                set(name, file.display().to_string());
            }
        }
        if let Some(file) = &settings.key_password_file {
            set("ssl.key.password", read_secret(&dir.join(file))?);
        }
    }
    Ok(Connection {
        prefix: settings.prefix.as_str().into(),
        client: settings.node.as_deref().unwrap_or("kintsugi").into(),
        properties,
        ..Connection::new(Arc::clone(brokers))
    })
}

fn password(settings: &KafkaSettings, dir: &Path) -> Result<String, Failure> {
    if let Some(password) = std::env::var_os(PASSWORD_VARIABLE) {
        return Ok(password.to_string_lossy().into_owned());
    }
    let file: &PathBuf =
        settings.password_file.as_ref().ok_or_else(|| missing("password_file", settings.security))?;
    read_secret(&dir.join(file))
}

fn read_secret(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).outside(|| format!("read {}", file.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn missing(key: &str, security: Security) -> Failure {
    let or =
        if key == "password_file" { format!(", or the variable {PASSWORD_VARIABLE}") } else { String::new() };
    Failure::usage(format_args!(
        "`kafka.security` is \"{}\", which needs `kafka.{key}`{or}: set it in kintsugi.toml, or take \
         another `kafka.security`",
        security.name()
    ))
}
