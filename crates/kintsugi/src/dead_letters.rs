//! `dead-letters`: input that could not be taken, and once more what can be by now.

use std::ops::ControlFlow;

use kintsugi_eventlog::{LogReader, TopicPartition};
use kintsugi_events::operations::DEAD_LETTER_BYTES_MAX;
use kintsugi_events::{DeadLetter, Payload, Topic};
use kintsugi_types::{EventId, Timestamp};
use serde::Serialize;

use crate::cli::{Format, LettersArguments, ReplayArguments, Where};
use crate::failure::Failure;
use crate::inspect;
use crate::partitions_read::PartitionsRead;
use crate::publish::Target;
use crate::terminal::{document, entry, json_line, line, plain};

/// A dead letter with its place.
#[derive(Debug, Serialize)]
struct Letter {
    id: EventId,
    time: Timestamp,
    #[serde(flatten)]
    told: DeadLetter,
}

impl Letter {
    /// Where the input came from: `topic partition/offset`.
    fn source(&self) -> String {
        let DeadLetter { source_topic, source_partition, source_offset, .. } = &self.told;
        let offset = source_offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
        format!("{source_topic} {source_partition}/{offset}")
    }
}

pub(crate) fn list(place: &Where) -> Result<(), Failure> {
    let log = inspect::open(&place.log)?;
    if place.format == Format::Text {
        line(&format!("{:<36} {:<24} {:<26} REASON", "ID", "TIME", "SOURCE"))?;
    }
    for_each(log.as_ref(), &mut |letter| {
        match place.format {
            Format::Json => json_line(letter)?,
            Format::Text => {
                let time = letter.time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
                let (id, source, reason) = (letter.id, letter.source(), plain(&letter.told.reason));
                line(&format!("{id:<36} {time:<24} {source:<26} {reason}"))?;
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}

pub(crate) fn show(arguments: &LettersArguments) -> Result<(), Failure> {
    let letter = find(inspect::open(&arguments.place.log)?.as_ref(), arguments.id)?;
    if arguments.place.format == Format::Json {
        return document(&letter);
    }
    entry("id", &letter.id.to_string())?;
    entry("time", &letter.time.to_rfc3339())?;
    entry("source", &letter.source())?;
    entry("reason", &letter.told.reason)?;
    entry("bytes", &letter.told.original_bytes.to_string())?;
    entry(if letter.told.original_is_hex { "in base 16" } else { "original" }, &letter.told.original)
}

/// Publishes the goal of a dead letter once more. Whoever could not take it may be able to by now.
pub(crate) fn replay(arguments: &ReplayArguments) -> Result<(), Failure> {
    let log = inspect::open(&arguments.log)?;
    let letter = find(log.as_ref(), arguments.id)?;
    let source: Topic = letter.told.source_topic.parse().map_err(|_| not_a_goal(&letter))?;
    if source != Topic::Goals {
        return Err(not_a_goal(&letter));
    }
    let original = original(log.as_ref(), &letter)?;
    let text = String::from_utf8(original).map_err(|_| {
        Failure::usage(format_args!(
            "the original of {} is no text: look at it with `kintsugi dead-letters show {}` and publish what was meant",
            letter.id, letter.id
        ))
    })?;
    // A log that is read must not be in the way of the one that is written.
    drop(log);
    let mut target = Target::open(arguments.url.as_deref(), &arguments.log)?;
    let published = target
        .publish(&text)
        .map_err(|failure| Failure { message: format!("{}: {}", letter.id, failure.message), ..failure })?;
    target.close()?;
    match arguments.format {
        Format::Json => json_line(&serde_json::json!({"id": published.id, "is_known": published.is_known})),
        Format::Text if published.is_known => line(&format!("{} was known", published.id)),
        Format::Text => line(&format!("{} published", published.id)),
    }
}

fn not_a_goal(letter: &Letter) -> Failure {
    Failure::usage(format_args!(
        "{} came from {}: only goals can be replayed",
        letter.id, letter.told.source_topic
    ))
}

/// What was refused, whole: from the letter, or from its source where the letter keeps a part only.
fn original(log: &dyn LogReader, letter: &Letter) -> Result<Vec<u8>, Failure> {
    let kept = &letter.told;
    if kept.original_bytes <= DEAD_LETTER_BYTES_MAX as u64 && !kept.original_is_hex {
        return Ok(kept.original.clone().into_bytes());
    }
    let gone = || {
        Failure::outside(format_args!(
            "the letter keeps a part of {} bytes only, and the source is gone: publish the goal anew",
            kept.original_bytes
        ))
    };
    let offset = kept.source_offset.ok_or_else(gone)?;
    let at = TopicPartition::new(Topic::Goals, kept.source_partition);
    let records = log.read(at, offset, 1, usize::MAX)?;
    let record = records.into_iter().find(|record| record.offset == offset).ok_or_else(gone)?;
    Ok(record.value.into())
}

fn find(log: &dyn LogReader, id: EventId) -> Result<Letter, Failure> {
    let mut found = None;
    for_each(log, &mut |letter| {
        if letter.id != id {
            return Ok(ControlFlow::Continue(()));
        }
        found = Some(Letter { told: letter.told.clone(), ..*letter });
        Ok(ControlFlow::Break(()))
    })?;
    found.ok_or_else(|| {
        Failure::usage(format_args!("there is no dead letter {id}: `kintsugi dead-letters list` names them"))
    })
}

fn for_each(
    log: &dyn LogReader,
    take: &mut dyn FnMut(&Letter) -> Result<ControlFlow<()>, Failure>,
) -> Result<(), Failure> {
    // What was handed over is not handed over again where a part has to be read again.
    let mut read = PartitionsRead::default();
    inspect::read_whole(log, |log| {
        let mut failed = None;
        log.replay_topics(&[Topic::DeadLetters], log.start_lsn(), &mut |record| {
            if !read.note(&record) {
                return ControlFlow::Continue(());
            }
            // One that cannot be read was written by another version, and is shown by `watch` as it is.
            let Ok(event) = record.to_event() else { return ControlFlow::Continue(()) };
            let Payload::DeadLetter(letter) = event.payload else { return ControlFlow::Continue(()) };
            let letter = Letter { id: event.envelope.id, time: event.envelope.time, told: *letter };
            match take(&letter) {
                Ok(flow) => flow,
                Err(failure) => {
                    failed = Some(failure);
                    ControlFlow::Break(())
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    })
}
