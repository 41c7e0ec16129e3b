//! Waiting for a producer's events without asking for them over and over.
//!
//! The library's own wait asks without a pause once less than a millisecond of it is left, and never ends before its
//! time is over, so waiting a millisecond at a time keeps a core busy for as long as a transaction takes. The client
//! in C calls back when its queue of events gets its first one; that is what is waited for here.

#![expect(unsafe_code, reason = "the callback of a queue has no safe form in rdkafka")]

use std::ffi::c_void;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::bindings::{
    rd_kafka_queue_cb_event_enable, rd_kafka_queue_destroy, rd_kafka_queue_get_main, rd_kafka_queue_length,
    rd_kafka_queue_t, rd_kafka_t,
};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};

use crate::queue::locked;

/// What is said of a client without one.
pub(super) const NO_EVENTS: &str = "the client library has no queue of events";

/// Whether events came since somebody waited for them.
#[derive(Debug, Default)]
struct Signal {
    has_come: Mutex<bool>,
    changed: Condvar,
}

/// A producer whose events can be waited for.
pub(super) struct WaitedProducer<C: ProducerContext + 'static> {
    // Before the producer, for it is dropped first.
    wakeup: Wakeup,
    producer: BaseProducer<C>,
}

impl<C: ProducerContext> WaitedProducer<C> {
    /// The same producer. Nothing where the client has no queue of events.
    pub(super) fn new(producer: BaseProducer<C>) -> Option<Self> {
        Some(Self { wakeup: Wakeup::new(&producer)?, producer })
    }

    /// Waits until there are events, at most for `patience`, and hands them to the producer's context.
    pub(super) fn serve(&self, patience: Duration) {
        if !self.wakeup.is_due() {
            self.wakeup.wait(patience);
        }
        while self.wakeup.is_due() {
            self.producer.poll(Duration::ZERO);
        }
    }
}

impl<C: ProducerContext> Deref for WaitedProducer<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &BaseProducer<C> {
        &self.producer
    }
}

/// Wakes whoever waits for a producer's events. Has to be dropped before the producer.
struct Wakeup {
    queue: NonNull<rd_kafka_queue_t>,
    /// Stays where it is: the library calls back with its address.
    signal: Box<Signal>,
}

// SAFETY: a queue of the client in C may be used from any thread, and by many at once; each of its functions locks it.
unsafe impl Send for Wakeup {}
// SAFETY: as above.
unsafe impl Sync for Wakeup {}

/// What the library calls, on a thread of its own and with the queue locked.
unsafe extern "C" fn on_event(_: *mut rd_kafka_t, signal: *mut c_void) {
    // SAFETY: `Wakeup` owns the signal, and takes the callback back before it drops it.
    let signal = unsafe { &*signal.cast::<Signal>() };
    *locked(&signal.has_come) = true;
    signal.changed.notify_one();
}

impl Wakeup {
    /// Wakes for the events of `producer`, from now on. Nothing where the client has no queue of events.
    fn new<C: ProducerContext>(producer: &BaseProducer<C>) -> Option<Self> {
        // SAFETY: the client lives for as long as the producer, and the queue is counted by it.
        let queue = unsafe { rd_kafka_queue_get_main(producer.client().native_ptr()) };
        let wakeup = Self { queue: NonNull::new(queue)?, signal: Box::default() };
        let signal: *const Signal = &raw const *wakeup.signal;
        // SAFETY: the signal stays where it is until the callback is taken back, and is only read through.
        unsafe {
            rd_kafka_queue_cb_event_enable(wakeup.queue.as_ptr(), Some(on_event), signal.cast_mut().cast());
        }
        Some(wakeup)
    }

    /// Whether events wait to be handed over.
    fn is_due(&self) -> bool {
        // SAFETY: the queue is held until this is dropped.
        unsafe { rd_kafka_queue_length(self.queue.as_ptr()) > 0 }
    }

    /// Waits for events that come after those that were there when it was last waited for, at most for `patience`.
    fn wait(&self, patience: Duration) {
        let has_come = locked(&self.signal.has_come);
        let waited = self.signal.changed.wait_timeout_while(has_come, patience, |has_come| !*has_come);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

impl Drop for Wakeup {
    fn drop(&mut self) {
        // SAFETY: the queue is given back once, after its callback, which needs its lock and so has ended by then.
        unsafe {
            rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, std::ptr::null_mut());
            rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}
