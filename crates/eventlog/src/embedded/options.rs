//! How an embedded log behaves.

use std::fmt;
use std::io;
use std::sync::Arc;

use kintsugi_types::{ByteCount, Clock, SystemClock};

/// A point on the way of a group commit at which a crash, or a failing device, has its own consequences.
///
/// Tests kill the process there, or let the step after it fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Boundary {
    /// Nothing of the frame is written. Killed here: as if the group had never been queued.
    BeforeWrite,
    /// Half of the frame is written. Killed here: the next open cuts a torn frame.
    MidWrite,
    /// The frame is written, not synced. Killed here: it may or may not be there after, as a whole.
    AfterWrite,
    /// The frame is durable, nobody was told. Killed here: it is there, and its appenders do not know.
    AfterSync,
    /// Every appender of the group was told.
    AfterAck,
}

impl Boundary {
    /// Every boundary, in the order in which a group passes them.
    pub const ALL: &'static [Self] =
        &[Self::BeforeWrite, Self::MidWrite, Self::AfterWrite, Self::AfterSync, Self::AfterAck];

    /// Its name for a flag.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeWrite => "before-write",
            Self::MidWrite => "mid-write",
            Self::AfterWrite => "after-write",
            Self::AfterSync => "after-sync",
            Self::AfterAck => "after-ack",
        }
    }
}

/// Called by the writer thread at every [`Boundary`] of every frame. An error stands in for a failure of the device
/// at that point and poisons the log; after the acknowledgement it has no effect.
///
/// With a probe set, a frame is written in two halves, so that there is a middle.
pub type Probe = Arc<dyn Fn(Boundary) -> io::Result<()> + Send + Sync>;

/// How much is read when a log is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VerifyOnOpen {
    /// Every byte of the active segment; of a sealed one its header, length and index. A damaged frame in a sealed
    /// segment is found when it is read, or by [`verify`](super::verify()).
    #[default]
    Active,
    /// Every byte of every segment.
    All,
}

/// How an embedded log behaves. The defaults are for a node.
#[derive(Clone)]
pub struct Options {
    /// Tells when a frame was written.
    pub clock: Arc<dyn Clock>,
    /// A segment that has reached this size is sealed before the next frame.
    pub segment_bytes: ByteCount,
    /// The most records that one group commit takes, unless a single append has more.
    pub group_records_max: usize,
    /// The most bytes that one append, and one group commit, may have.
    pub append_bytes_max: ByteCount,
    /// How many appends may wait.
    pub queue_appends_max: usize,
    /// How many bytes of appends may wait.
    pub queue_bytes_max: ByteCount,
    /// How many sealed segments are held open with their index for reading.
    pub open_segments_max: usize,
    /// How much is read when the log is opened.
    pub verify: VerifyOnOpen,
    /// For tests: called at every boundary.
    pub probe: Option<Probe>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            segment_bytes: ByteCount::mib(64),
            group_records_max: 1024,
            append_bytes_max: ByteCount::mib(16),
            queue_appends_max: 8192,
            queue_bytes_max: ByteCount::mib(64),
            open_segments_max: 8,
            verify: VerifyOnOpen::Active,
            probe: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("segment_bytes", &self.segment_bytes)
            .field("group_records_max", &self.group_records_max)
            .field("append_bytes_max", &self.append_bytes_max)
            .field("queue_appends_max", &self.queue_appends_max)
            .field("queue_bytes_max", &self.queue_bytes_max)
            .field("verify", &self.verify)
            .finish_non_exhaustive()
    }
}
