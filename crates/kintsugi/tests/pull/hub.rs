//! A hub as Hugging Face's is, and the storage on another address to which it redirects.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The file that it has.
pub(crate) const FILE: &str = "owner/repo/nano.gguf";

/// What opens what is gated.
pub(crate) const TOKEN: &str = "hf_secretSecretSecret";

/// The SHA-256 of the shipped model.
pub(crate) const HASH: &str = "52bba473061797a251e9aae9a5fb75ab27b327080f8cce4ad8bbba11d8f7eeca";

/// The version that the storage has at first.
pub(crate) const ETAG: &str = "\"version-1\"";

type Headers = BTreeMap<String, String>;

/// How an answer ends early.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Never,
    /// The first answer ends at this byte.
    First(usize),
    /// The first answer stops at this byte, and the connection stays open.
    HoldFirst(usize),
    /// No answer goes past this byte.
    Always(usize),
}

struct State {
    file: Vec<u8>,
    sha256: String,
    etag: Mutex<String>,
    cut: Mutex<Cut>,
    /// Whether the storage leaves out how long the file is, as one does that makes it while it sends.
    is_length_left_out: AtomicBool,
    hub: Mutex<Vec<Headers>>,
    storage: Mutex<Vec<Headers>>,
    storage_url: String,
}

pub(crate) struct Hub {
    state: Arc<State>,
    url: String,
}

impl Hub {
    pub(crate) fn start(file: Vec<u8>) -> Self {
        Self::start_with(file, HASH)
    }

    /// A hub that says that its file has this SHA-256; nothing where it is empty.
    pub(crate) fn start_with(file: Vec<u8>, sha256: &str) -> Self {
        let (hub, storage) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = |listener: &TcpListener| listener.local_addr().unwrap();
        let state = Arc::new(State {
            file,
            sha256: sha256.to_owned(),
            etag: Mutex::new(ETAG.to_owned()),
            cut: Mutex::new(Cut::Never),
            is_length_left_out: AtomicBool::new(false),
            hub: Mutex::default(),
            storage: Mutex::default(),
            storage_url: format!("http://{}/blob/nano.gguf", address(&storage)),
        });
        let url = format!("http://{}", address(&hub));
        serve(hub, state.clone(), answer_as_hub);
        serve(storage, state.clone(), answer_as_storage);
        Self { state, url }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn storage_url(&self) -> &str {
        &self.state.storage_url
    }

    pub(crate) fn cut_first(&self, at: usize) {
        *self.state.cut.lock().unwrap() = Cut::First(at);
    }

    pub(crate) fn hold_first(&self, at: usize) {
        *self.state.cut.lock().unwrap() = Cut::HoldFirst(at);
    }

    pub(crate) fn cut_always(&self, at: usize) {
        *self.state.cut.lock().unwrap() = Cut::Always(at);
    }

    pub(crate) fn cut_never(&self) {
        *self.state.cut.lock().unwrap() = Cut::Never;
    }

    pub(crate) fn leave_length_out(&self) {
        self.state.is_length_left_out.store(true, Ordering::Relaxed);
    }

    pub(crate) fn another_version(&self) {
        "\"version-2\"".clone_into(&mut self.state.etag.lock().unwrap());
    }

    /// The headers of each request for a file that the storage had.
    pub(crate) fn asked_of_storage(&self) -> Vec<Headers> {
        self.state.storage.lock().unwrap().clone()
    }

    pub(crate) fn asked_of_hub(&self) -> Vec<Headers> {
        self.state.hub.lock().unwrap().clone()
    }
}

/// Answers one request a connection, each on a thread of its own. The threads end with the test.
fn serve(listener: TcpListener, state: Arc<State>, answer: fn(&State, &str, &Headers, &mut TcpStream)) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let state = state.clone();
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let Some(request) = lines.next() else { return };
                let path = request.split(' ').nth(1).unwrap().to_owned();
                let headers: Headers = lines
                    .take_while(|line| !line.is_empty())
                    .filter_map(|line| {
                        let (name, value) = line.split_once(": ")?;
                        Some((name.to_ascii_lowercase(), value.to_owned()))
                    })
                    .collect();
                answer(&state, &path, &headers, &mut stream);
            });
        }
    });
}

/// Whoever asked may be gone.
fn send(stream: &mut TcpStream, head: &str, body: &[u8]) {
    let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
    let _ = stream.write_all(body);
    let _ = stream.flush();
}

fn answer_as_hub(state: &State, path: &str, headers: &Headers, stream: &mut TcpStream) {
    state.hub.lock().unwrap().push(headers.clone());
    let has_token = headers.get("authorization").is_some_and(|told| *told == format!("Bearer {TOKEN}"));
    let files: Option<&[&str]> = match path {
        "/api/models/owner/repo" => Some(&["README.md", "nano.gguf"]),
        "/api/models/owner/several" => Some(&["a.gguf", "b.gguf"]),
        "/api/models/owner/none" => Some(&["README.md"]),
        _ => None,
    };
    if let Some(files) = files {
        let files: Vec<String> = files.iter().map(|file| format!("{{\"rfilename\": \"{file}\"}}")).collect();
        let body = format!("{{\"siblings\": [{}]}}", files.join(", "));
        return send(stream, &format!("200 OK\r\nContent-Length: {}", body.len()), body.as_bytes());
    }
    match path {
        "/owner/gated/resolve/main/nano.gguf" if !has_token => {
            send(stream, "401 Unauthorized\r\nContent-Length: 0", b"");
        }
        // The hub sends some of its files to another place of its own first.
        "/owner/repo/resolve/main/nano.gguf" => {
            send(stream, "307 Temporary Redirect\r\nLocation: /moved/nano.gguf\r\nContent-Length: 0", b"");
        }
        "/owner/gated/resolve/main/nano.gguf" | "/moved/nano.gguf" => {
            let linked = if state.sha256.is_empty() {
                String::new()
            } else {
                format!("\r\nX-Linked-Etag: \"{}\"", state.sha256)
            };
            let head = format!(
                "302 Found\r\nLocation: {}?signature=7{linked}\r\nContent-Length: 0",
                state.storage_url
            );
            send(stream, &head, b"");
        }
        _ => send(stream, "404 Not Found\r\nContent-Length: 0", b""),
    }
}

fn answer_as_storage(state: &State, _: &str, headers: &Headers, stream: &mut TcpStream) {
    state.storage.lock().unwrap().push(headers.clone());
    let etag = state.etag.lock().unwrap().clone();
    let total = state.file.len();
    let is_same = headers.get("if-range").is_none_or(|wanted| *wanted == etag);
    let from = headers.get("range").filter(|_| is_same);
    let from: Option<usize> =
        from.map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
    let begin = from.unwrap_or(0);
    if begin >= total {
        let head =
            format!("416 Range Not Satisfiable\r\nContent-Range: bytes */{total}\r\nContent-Length: 0");
        return send(stream, &head, b"");
    }
    let cut = *state.cut.lock().unwrap();
    let end = match cut {
        Cut::Never => total,
        Cut::Always(at) => at.max(begin),
        Cut::First(at) | Cut::HoldFirst(at) => {
            *state.cut.lock().unwrap() = Cut::Never;
            at
        }
    };
    let length = total - begin;
    let head = match from {
        // The end of the connection is the file's.
        None if state.is_length_left_out.load(Ordering::Relaxed) => format!("200 OK\r\nETag: {etag}"),
        None => format!("200 OK\r\nContent-Length: {length}\r\nETag: {etag}"),
        Some(begin) => format!(
            "206 Partial Content\r\nContent-Length: {length}\r\nETag: {etag}\r\nContent-Range: bytes {begin}-{}/{total}",
            total - 1
        ),
    };
    send(stream, &head, &state.file[begin..end]);
    if matches!(cut, Cut::HoldFirst(_)) {
        // Until the client is gone; the test ends before.
        std::thread::park_timeout(Duration::from_mins(2));
    }
}
