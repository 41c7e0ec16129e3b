//! One process at a time writes a log.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use crate::error::LogError;

const LOCK_FILE: &str = "LOCK";

/// The lock on a log's directory, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    file: File,
}

impl DirectoryLock {
    /// Takes the lock, or names the process that has it.
    pub(super) fn acquire(directory: &Path) -> Result<Self, LogError> {
        let path = directory.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(LogError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // The holder's id is a courtesy; the lock holds without it.
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(LogError::Locked { path: directory.to_owned(), pid });
            }
            Err(TryLockError::Error(error)) => return Err(LogError::io("lock", &path)(error)),
        }
        write_pid(&mut file).map_err(LogError::io("write", &path))?;
        Ok(Self { file })
    }
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing the file would release it as well, unless a child process inherited it.
        let _ = self.file.unlock();
    }
}

/// The name under which a directory's creation is made durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), LogError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(LogError::io("sync directory", path))
}

/// Creates `path` and makes its entry in the parent durable.
pub(super) fn create_directory(path: &Path) -> Result<(), LogError> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(LogError::io("create directory", path))?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(&PathBuf::from(".")),
    }
}
