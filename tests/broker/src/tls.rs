//! The certificates of a broker's protected listener, made by `openssl` for one broker.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::BrokerError;
use crate::jars::printed;

/// The user that the protected listener lets in.
pub(crate) const USER: &str = "app";

/// The password of [`USER`].
pub(crate) const PASSWORD: &str = "app-secret";

/// Makes an authority and a certificate of it for this machine, where they are not there yet.
const MAKE: &str = r#"
set -e
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj "/CN=test-ca" -keyout ca.key -out ca.pem \
  -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign"
openssl req -newkey rsa:2048 -nodes -subj "/CN=localhost" -keyout server.key -out server.csr
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' > extensions
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days "$SERVER_DAYS" -out server.crt -extfile extensions
cat server.key server.crt ca.pem > server.pem
"#;

/// How the protected listener of a broker is reached.
#[derive(Debug, Clone)]
pub struct Secured {
    /// Where clients find it.
    pub bootstrap: String,
    /// The file with the certificate that a client has to trust.
    pub authority: PathBuf,
    /// Who is let in, with SCRAM-SHA-512 or PLAIN.
    pub user: &'static str,
    /// That user's password.
    pub password: &'static str,
}

impl Secured {
    /// The listener at `port` of the broker in `folder`.
    pub(crate) fn of(folder: &Path, port: u16) -> Self {
        Self {
            bootstrap: format!("127.0.0.1:{port}"),
            authority: authority(folder),
            user: USER,
            password: PASSWORD,
        }
    }
}

/// How long a broker's certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validity {
    /// For a month.
    Month,
    /// It ended yesterday. That of the authority is good.
    Expired,
}

/// The authority that a client has to trust.
fn authority(folder: &Path) -> PathBuf {
    folder.join("tls").join("ca.pem")
}

/// Makes what the protected listener of the broker in `folder` needs.
pub(crate) fn make(folder: &Path, validity: Validity) -> Result<(), BrokerError> {
    let home = folder.join("tls");
    drop(fs::remove_dir_all(&home));
    fs::create_dir_all(&home).map_err(BrokerError::io("create", &home))?;
    if let Err(error) = Command::new("openssl").arg("version").output()
        && error.kind() == io::ErrorKind::NotFound
    {
        return Err(BrokerError::Missing { program: "openssl".to_owned(), package: "openssl" });
    }
    let days = match validity {
        Validity::Month => "30",
        Validity::Expired => "-1",
    };
    let made = Command::new("bash").args(["-c", MAKE]).env("SERVER_DAYS", days).current_dir(&home).output();
    let made = made.map_err(|source| BrokerError::Io { what: "run openssl".to_owned(), source })?;
    if made.status.success() {
        return Ok(());
    }
    Err(BrokerError::Failed { what: "make certificates".to_owned(), printed: printed(&made) })
}
