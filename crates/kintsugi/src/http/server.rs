//! The server: a bound port, then a thread that serves it until it is told to stop.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, rt, web};
use tracing::error;

use super::{Api, access, endpoints};
use crate::failure::{Explain, Failure};

/// Connections that may be open at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 256;

/// Threads for what blocks: appends that wait for the disk, and reads of the log.
const BLOCKING_THREADS: usize = 8;

/// How long a client may take for a request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// How long a connection without a request is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long requests may take to end when the node stops, in seconds.
const STOP_WITHIN_S: u64 = 5;

/// Where `listen` says to listen.
pub(crate) fn resolve(listen: &str) -> Result<SocketAddr, Failure> {
    let mut addresses = listen.to_socket_addrs().map_err(|error| {
        Failure::usage(format_args!(
            "http.listen is {listen:?}, which is no address: {error}; write HOST:PORT such as 127.0.0.1:7878"
        ))
    })?;
    addresses
        .next()
        .ok_or_else(|| Failure::usage(format_args!("http.listen is {listen:?}: it has no address")))
}

/// Takes the port, before anything else is begun.
pub(crate) fn bind(address: &SocketAddr) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address).map_err(|error| {
        let next_step = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another program has it: stop that, or name another with --listen, such as 127.0.0.1:0 for \
                 any free one"
            }
            std::io::ErrorKind::PermissionDenied => "take a port above 1023 with --listen",
            _ => "name an address of this machine with --listen",
        };
        Failure::outside(format_args!("listen on {address}: {error}; {next_step}"))
    })?;
    listener.set_nonblocking(true).outside(|| format!("listen on {address}"))?;
    Ok(listener)
}

/// The running server.
#[derive(Debug)]
pub(crate) struct Server {
    api: web::Data<Api>,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `listener` on a thread of its own.
    pub(crate) fn start(listener: TcpListener, api: web::Data<Api>) -> Result<Self, Failure> {
        let (told, started) = mpsc::sync_channel(1);
        let shared = api.clone();
        let thread = std::thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || {
                let outcome = rt::System::new().block_on(async move {
                    let server = HttpServer::new(move || {
                        App::new()
                            .app_data(shared.clone())
                            .configure(endpoints::configure)
                            .wrap(from_fn(access::check))
                    })
                    .workers(1)
                    .worker_max_blocking_threads(BLOCKING_THREADS)
                    .max_connections(CONNECTIONS_MAX)
                    .keep_alive(KEEP_ALIVE)
                    .client_request_timeout(HEAD_WITHIN)
                    .shutdown_timeout(STOP_WITHIN_S)
                    // The command listens to signals, and stops the server when the time has come.
                    .disable_signals()
                    .listen(listener)?
                    .run();
                    // Whoever started the server waits for this.
                    let _ = told.send(server.handle());
                    server.await
                });
                if let Err(failure) = outcome {
                    error!(%failure, "the HTTP server ended");
                }
            })
            .outside(|| "start thread".to_owned())?;
        let handle = started.recv().outside(|| "start the HTTP server".to_owned())?;
        Ok(Self { api, handle, thread: Some(thread) })
    }

    /// Whether the server ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Server {
    /// Takes no more requests and waits for those under way, so that none meets a node that is gone.
    fn drop(&mut self) {
        self.api.is_closing.send_replace(true);
        // The stop is sent when it is called; the future only tells when it is done, and so does the thread's end.
        drop(self.handle.stop(true));
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing more to tell.
            let _ = thread.join();
        }
    }
}
