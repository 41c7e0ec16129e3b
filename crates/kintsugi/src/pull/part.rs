//! The part of a file that is there already, so that a pull that was cut off goes on.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::server::Rest;
use crate::failure::{Explain as _, Failure};
use crate::file_lock;

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// What is known of the version that a part is of, in a file beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    /// BLAKE3 of the URL: the URL itself may hold a secret.
    url: String,
    etag: String,
}

/// What has come so far of a file.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    bytes: u64,
    url: String,
    version: Option<Version>,
}

impl Part {
    /// Opens the part of `target`, which is fetched from `url`; begins one where there is none, or one of something
    /// else. No other process has it open meanwhile.
    pub(super) fn open(target: &Path, url: &str) -> Result<Self, Failure> {
        let path = beside(target, "part");
        let what = || format!("open {}", path.display());
        let busy = || Failure::outside(format_args!("{} is being pulled already", target.display()));
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.outside(what)?;
        // Another pull may end meanwhile, and the file that was opened be the model.
        file_lock::lock(&file, &path, busy)?;
        let bytes = file.seek(SeekFrom::End(0)).outside(what)?;
        let url = blake3::hash(url.as_bytes()).to_hex().to_string();
        let version = std::fs::read(beside(target, "part.version")).ok();
        let version = version.and_then(|json| serde_json::from_slice::<Version>(&json).ok());
        let version = version.filter(|version| version.url == url);
        let mut part = Self { path, file, bytes, url, version };
        if part.version.is_none() {
            part.begin(None)?;
        }
        Ok(part)
    }

    /// How much is there.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// From where on the rest is asked for, where that can be done.
    pub(super) fn rest(&self) -> Option<Rest<'_>> {
        let version = self.version.as_ref().filter(|_| self.bytes > 0)?;
        Some(Rest { byte: self.bytes, etag: &version.etag })
    }

    /// Begins with nothing, with the version that `etag` names.
    pub(super) fn begin(&mut self, etag: Option<String>) -> Result<(), Failure> {
        let what = || format!("write {}", self.path.display());
        let version_file = self.path.with_extension("part.version");
        match std::fs::remove_file(&version_file) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).outside(what),
            _ => {}
        }
        self.file.set_len(0).and_then(|()| self.file.rewind()).outside(what)?;
        self.bytes = 0;
        self.version = etag.map(|etag| Version { url: self.url.clone(), etag });
        if let Some(version) = &self.version {
            let json = serde_json::to_vec(version).map_err(Failure::job)?;
            std::fs::write(&version_file, json).outside(|| format!("write {}", version_file.display()))?;
        }
        Ok(())
    }

    /// Adds what has come.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| no_room(&self.path, &error))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Its SHA-256 in base 16.
    pub(super) fn sha256(&self) -> Result<String, Failure> {
        sha256(&self.path)
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it the file that it is a part of, so that a crash leaves the whole file or none.
    pub(super) fn finish(self, target: &Path) -> Result<(), Failure> {
        let what = || format!("write {}", target.display());
        self.file.sync_all().map_err(|error| no_room(&self.path, &error))?;
        std::fs::rename(&self.path, target).outside(what)?;
        if let Some(folder) = target.parent() {
            File::open(folder).and_then(|folder| folder.sync_all()).outside(what)?;
        }
        // Whoever finds it beside a file without a part takes no notice of it.
        let _ = std::fs::remove_file(self.path.with_extension("part.version"));
        Ok(())
    }

    /// Throws it away: it is not what was wanted.
    pub(super) fn discard(self) {
        // What is left is thrown away by the next pull.
        let _ = std::fs::remove_file(self.path.with_extension("part.version"));
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The SHA-256 of a file in base 16.
pub(super) fn sha256(path: &Path) -> Result<String, Failure> {
    let what = || format!("read {}", path.display());
    let mut file = File::open(path).outside(what)?;
    let mut hash = Context::new(&SHA256);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = file.read(&mut buffer).outside(what)?;
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { break };
        hash.update(read);
    }
    let mut text = String::new();
    for byte in hash.finish().as_ref() {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// The file of this name with an ending more.
fn beside(target: &Path, ending: &str) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn no_room(path: &Path, error: &std::io::Error) -> Failure {
    let remedy = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "; make room there and pull again, or name a folder on another disk with --to"
        }
        _ => "",
    };
    Failure::outside(format_args!("write {}: {error}{remedy}", path.display()))
}
