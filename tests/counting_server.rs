//! An outside tool: an HTTP server that acts on every request, deduplicates nothing, and counts.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};

/// What the server does with request number `n` (from 0): the status and the body of its answer.
pub type Behaviour = Arc<dyn Fn(usize) -> (u16, String) + Send + Sync>;

/// The server. It runs until the process ends.
#[derive(Debug)]
pub struct CountingServer {
    address: SocketAddr,
    acts: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl CountingServer {
    /// Starts a server that answers by `behaviour`; only answers below 400 count as acts.
    pub fn start(behaviour: Behaviour) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("bind")?;
        let address = listener.local_addr().context("local address")?;
        let acts: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let counted = acts.clone();
        let requests = Arc::new(Mutex::new(0));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (acts, requests, behaviour) = (counted.clone(), requests.clone(), behaviour.clone());
                // A client that was killed breaks its connection: that is its own business.
                std::thread::spawn(move || serve(stream, &acts, &requests, &behaviour));
            }
        });
        Ok(Self { address, acts })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How often it acted, by path.
    pub fn acts(&self) -> BTreeMap<String, usize> {
        self.acts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(
    stream: TcpStream,
    acts: &Mutex<BTreeMap<String, usize>>,
    requests: &Mutex<usize>,
    behaviour: &Behaviour,
) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let path = first.split_whitespace().nth(1)?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let number = {
        let mut requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests += 1;
        *requests - 1
    };
    let (status, answer) = behaviour(number);
    if status < 400 {
        *acts.lock().unwrap_or_else(PoisonError::into_inner).entry(path).or_default() += 1;
    }
    let length = answer.len();
    let head = format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {length}");
    let mut stream = stream;
    stream.write_all(format!("{head}\r\nconnection: close\r\n\r\n{answer}").as_bytes()).ok()
}
