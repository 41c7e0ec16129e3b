//! Locks on files that others may take away.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::failure::{Explain as _, Failure};

/// Locks `file`, which was opened at `path`, until it is closed. Fails as `busy` says where another process has it.
///
/// So it does where the file was taken away or replaced between opening and locking: its lock keeps nobody out then.
pub(crate) fn lock(file: &File, path: &Path, busy: impl Fn() -> Failure) -> Result<(), Failure> {
    let what = || format!("lock {}", path.display());
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(busy()),
        Err(TryLockError::Error(error)) => return Err(error).outside(what),
    }
    let (opened, there) = (file.metadata().outside(what)?, std::fs::metadata(path));
    if there.is_ok_and(|there| (there.dev(), there.ino()) == (opened.dev(), opened.ino())) {
        Ok(())
    } else {
        Err(busy())
    }
}
