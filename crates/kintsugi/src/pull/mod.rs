//! `models pull`: a GGUF file from the net to where `--model NAME` finds it.
//!
//! It comes into a `.part` file, which is given the model's name when all of it is there, has the hash that was
//! promised, and is a model that can be loaded. A pull that was cut off, by the net or by a kill, goes on where it was.

mod part;
mod place;
mod progress;
mod server;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kintsugi_inference::{CandleEngine, EngineConfig, GgufFile, ModelSource};
use kintsugi_types::ByteCount;
use serde::Serialize;
use ureq::http::Uri;

use self::part::{Part, sha256};
use self::place::{Place, Told};
use self::progress::Progress;
use self::server::{Answer, Kind, Server, is_sha256};
use crate::cli::{Format, PullArguments};
use crate::failure::{Explain as _, Failure};
use crate::model;
use crate::terminal::{document, entry, say};

/// The longest file that is taken.
const BYTES_MAX: u64 = 1 << 40;

/// What stays free on the disk.
const FREE_MIN: u64 = 64 << 20;

/// After so many bytes it is looked at the disk again, where nobody says how many are to come.
const LOOK_EVERY: u64 = 1 << 20;

/// Bytes that are written at once.
const WRITE_BYTES: usize = 256 << 10;

/// What a GGUF file begins with.
const MAGIC: &[u8] = b"GGUF";

/// How often one pull goes on after the connection was lost, and how long it waits before it does.
const TRIES_MAX: u32 = 5;
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A larger model is looked at, and not loaded to try it: that would take as much memory as working with it.
const LOADED_BYTES_MAX: u64 = 1 << 30;

/// The context that a model is tried with.
const CONTEXT_TOKENS: u32 = 256;

/// What was pulled.
#[derive(Debug, Serialize)]
struct Pulled {
    /// What `--model` takes.
    model: String,
    path: PathBuf,
    stored_bytes: ByteCount,
    architecture: String,
    sha256: String,
    /// Whether somebody named the hash before.
    is_verified: bool,
    /// Whether the file was there before.
    was_there: bool,
}

/// Why the file is not whole yet.
enum Cut {
    /// The connection was lost: what has come is kept.
    Lost(String),
    /// Trying again is of no use.
    Failed(Failure),
}

impl From<Failure> for Cut {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

pub(crate) fn pull(arguments: &PullArguments) -> Result<(), Failure> {
    let promised = arguments.sha256.as_ref().map(|hash| hash.to_ascii_lowercase());
    if promised.as_ref().is_some_and(|hash| !is_sha256(hash)) {
        return Err(Failure::usage("--sha256 takes 64 digits of base 16"));
    }
    let place = Place::parse(&arguments.place)?;
    let server = Server::new(place::hub()?)?;
    let place = match place {
        Place::Repository(repository) => server.only_file(&repository)?,
        known => known,
    };
    let Some(url) = place.url(server.hub())? else { return Err(Failure::usage("name a file")) };
    let name = file_name(arguments.name.as_deref().unwrap_or_else(|| place.file_name()))?;
    let folder = match &arguments.to {
        Some(folder) => folder.clone(),
        None => model::folder()?,
    };
    std::fs::create_dir_all(&folder).outside(|| format!("make {}", folder.display()))?;
    let target = folder.join(&name);
    let is_in_place = arguments.to.is_none();
    let told = |pulled| tell(pulled, is_in_place, arguments.format);
    if target.exists() {
        return told(found(&target, &server, &url, promised)?);
    }
    let mut part = Part::open(&target, &url.to_string())?;
    if target.exists() {
        // Another pull ended just now.
        part.discard();
        return told(found(&target, &server, &url, promised)?);
    }
    let progress = Progress::new(arguments.quiet);
    let named = fetch(&server, &url, &mut part, &progress);
    progress.finish();
    let named = match named {
        Err(failure) if part.bytes() == 0 => {
            part.discard();
            return Err(failure);
        }
        named => named?,
    };
    let found = part.sha256()?;
    for expected in [&promised, &named].into_iter().flatten() {
        if *expected != found {
            let failure = Failure::outside(format_args!(
                "{}: its SHA-256 is {found}, it should be {expected}: nothing is kept of it",
                Told(&url)
            ));
            part.discard();
            return Err(failure);
        }
    }
    let architecture = match try_model(part.path()) {
        Ok(architecture) => architecture,
        Err(failure) => {
            part.discard();
            return Err(failure);
        }
    };
    let stored_bytes = ByteCount(part.bytes());
    part.finish(&target)?;
    told(Pulled {
        model: name,
        path: target,
        stored_bytes,
        architecture,
        sha256: found,
        is_verified: promised.or(named).is_some(),
        was_there: false,
    })
}

/// What the file is called here.
fn file_name(name: &str) -> Result<String, Failure> {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._ +".contains(&byte);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_fit) {
        return Err(Failure::usage(format_args!(
            "{name:?} cannot be the name of a model: name it with --name, in letters, digits, dots, dashes and \
             underscores"
        )));
    }
    Ok(if name.to_ascii_lowercase().ends_with(".gguf") { name.to_owned() } else { format!("{name}.gguf") })
}

/// A file that is there already: it is what was asked for, or in the way.
fn found(target: &Path, server: &Server, url: &Uri, promised: Option<String>) -> Result<Pulled, Failure> {
    let expected = match promised {
        Some(promised) => Some(promised),
        None => server.get(url, None)?.sha256,
    };
    let sha256 = sha256(target)?;
    if expected.as_ref() != Some(&sha256) {
        let why = if expected.is_some() {
            "another file"
        } else {
            "a file, and nobody says whether it is the same"
        };
        return Err(Failure::usage(format_args!(
            "{} is {why}: take it away, or name the model otherwise with --name",
            target.display()
        )));
    }
    let file = GgufFile::open(&ModelSource::Path(target.to_owned())).map_err(Failure::outside)?;
    Ok(Pulled {
        model: target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        path: target.to_owned(),
        stored_bytes: ByteCount(std::fs::metadata(target).outside(|| "look at the file".to_owned())?.len()),
        architecture: file.architecture().map_err(Failure::outside)?,
        sha256,
        is_verified: true,
        was_there: true,
    })
}

/// Fetches what is missing of `part`. Returns the SHA-256 that the hub names.
fn fetch(
    server: &Server,
    url: &Uri,
    part: &mut Part,
    progress: &Progress,
) -> Result<Option<String>, Failure> {
    let mut named = None;
    let mut tries = 0;
    loop {
        let before = part.bytes();
        let answer = server.get(url, part.rest()).map_err(|failure| match tries {
            0 => Cut::Failed(failure),
            // The connection was there before, and may come back.
            _ => Cut::Lost(failure.message),
        });
        let outcome = answer.and_then(|answer| {
            named = answer.sha256.clone().or(named.take());
            receive(answer, url, part, progress)
        });
        match outcome {
            Ok(()) => return Ok(named),
            Err(Cut::Failed(failure)) => return Err(failure),
            Err(Cut::Lost(reason)) => {
                tries = if part.bytes() > before { 1 } else { tries + 1 };
                let so_far = ByteCount(part.bytes());
                if tries >= TRIES_MAX {
                    return Err(Failure::outside(format_args!(
                        "{}: {reason} after {so_far}: the same command goes on there",
                        Told(url)
                    )));
                }
                progress.note(&format!("{reason} after {so_far}: going on"));
                std::thread::sleep(AGAIN_AFTER * tries);
            }
        }
    }
}

/// Takes in one answer to its end.
fn receive(answer: Answer, url: &Uri, part: &mut Part, progress: &Progress) -> Result<(), Cut> {
    let Answer { kind, total, etag, mut body, .. } = answer;
    let is_same =
        |part: &Part| part.rest().is_none_or(|rest| etag.as_deref().is_none_or(|etag| etag == rest.etag));
    match kind {
        Kind::Whole => part.begin(etag)?,
        Kind::PastTheEnd if total == Some(part.bytes()) => return Ok(()),
        Kind::From(byte) if byte == part.bytes() && is_same(part) => {}
        Kind::From(_) | Kind::PastTheEnd => {
            part.begin(None)?;
            return Err(Cut::Lost("the server has another version now".to_owned()));
        }
    }
    check_size(part, url, total)?;
    let mut has_room_until = part.bytes() + LOOK_EVERY;
    progress.begin(part.bytes(), total);
    let mut buffer = vec![0; WRITE_BYTES];
    let mut head = Vec::new();
    let is_beginning = part.bytes() == 0;
    loop {
        let count = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Cut::Lost(format!("the connection was lost ({error})"))),
        };
        let come = buffer.get(..count).unwrap_or_default();
        if is_beginning && head.len() < MAGIC.len() {
            head.extend(come.iter().take(MAGIC.len() - head.len()));
            if !MAGIC.starts_with(&head) {
                part.begin(None)?;
                return Err(no_model(url).into());
            }
        }
        if total.is_none() && part.bytes() + come.len() as u64 > has_room_until {
            check_size(part, url, None)?;
            has_room_until = part.bytes() + LOOK_EVERY;
        }
        part.write(come)?;
        progress.show(part.bytes());
        if part.bytes() > total.unwrap_or(BYTES_MAX) {
            part.begin(None)?;
            return Err(Failure::outside(format_args!("{}: longer than it may be", Told(url))).into());
        }
    }
    if total.is_some_and(|total| part.bytes() < total) {
        return Err(Cut::Lost("the connection was lost".to_owned()));
    }
    if part.bytes() < MAGIC.len() as u64 {
        return Err(no_model(url).into());
    }
    Ok(())
}

fn no_model(url: &Uri) -> Failure {
    Failure::outside(format_args!("{} is no GGUF file", Told(url)))
}

/// Whether the file may be so large, and the disk has room for the rest of it; where nobody says how large it is, for
/// what comes until the next look.
fn check_size(part: &Part, url: &Uri, total: Option<u64>) -> Result<(), Failure> {
    if let Some(total) = total.filter(|total| *total > BYTES_MAX) {
        return Err(Failure::outside(format_args!(
            "{} has {}: that is no model",
            Told(url),
            ByteCount(total)
        )));
    }
    let missing = total.map_or(LOOK_EVERY, |total| total.saturating_sub(part.bytes()));
    let Some(folder) = part.path().parent() else { return Ok(()) };
    let free = rustix::fs::statvfs(folder)
        .map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))
        .outside(|| format!("look at the disk of {}", folder.display()))?;
    if free < missing.saturating_add(FREE_MIN) {
        let coming = match total {
            Some(_) => format!("{} are", ByteCount(missing)),
            None => "nobody says how many bytes are".to_owned(),
        };
        return Err(Failure::outside(format_args!(
            "{coming} to come and {} are free in {}: make room there, or name a folder on another disk with --to",
            ByteCount(free),
            folder.display()
        )));
    }
    Ok(())
}

/// Loads the model, where it is not too large for that. Returns its architecture.
fn try_model(path: &Path) -> Result<String, Failure> {
    let source = ModelSource::Path(path.to_owned());
    let file = GgufFile::open(&source).map_err(Failure::outside)?;
    let architecture = file.architecture().map_err(Failure::outside)?;
    if file.tensors_bytes() > LOADED_BYTES_MAX {
        return Ok(architecture);
    }
    drop(file);
    model::set_threads(0)?;
    CandleEngine::load(&EngineConfig {
        model: source,
        slots: 1,
        context_tokens: CONTEXT_TOKENS,
        memory_budget: ByteCount(u64::MAX),
        step_tokens_max: EngineConfig::STEP_TOKENS_DEFAULT,
        host_memory: ByteCount(0),
    })
    .map_err(model::explain)?;
    Ok(architecture)
}

fn tell(mut pulled: Pulled, is_in_place: bool, format: Format) -> Result<(), Failure> {
    if !is_in_place {
        pulled.model = pulled.path.display().to_string();
    }
    if !pulled.is_verified {
        say("nobody named the file's SHA-256: what came is taken as it is, see --sha256");
    }
    if format == Format::Json {
        return document(&pulled);
    }
    let Pulled { model, path, stored_bytes, architecture, sha256, was_there, .. } = &pulled;
    entry("model", model)?;
    entry("path", &path.display().to_string())?;
    entry("architecture", architecture)?;
    entry("stored", &stored_bytes.to_string())?;
    entry("sha256", sha256)?;
    entry("state", if *was_there { "was there already" } else { "pulled" })
}
