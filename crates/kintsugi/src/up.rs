//! `kintsugi up DIR`: the same node as `run` has, long-lived, with its HTTP API.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use actix_web::web;
use kintsugi_eventlog::LogReader;
use kintsugi_eventlog::kafka::Membership;
use kintsugi_runtime::Node;
use kintsugi_types::{Clock as _, SystemClock, TenantId};
use serde_json::json;
use tokio::sync::{Semaphore, watch};

use crate::backbone::{Backbone, Standing};
use crate::cli::{Format, UpArguments};
use crate::example::{self, Example};
use crate::failure::{Explain as _, Failure, FailureKind, when_full};
use crate::http::{self, Access, Api, Intake, Server};
use crate::live::Live;
use crate::model;
use crate::node_parts::node_parts;
use crate::policies::PolicyFolder;
use crate::resolved::{self, Flags};
use crate::retention::Upkeep;
use crate::run_folder::{RunFolder, find_or_begin_node};
use crate::settings::Settings;
use crate::settings_shown;
use crate::signals::{Ending, Signals};
use crate::terminal;

/// How often the command looks at signals and at the node.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(crate) fn up(arguments: &UpArguments) -> Result<(), Failure> {
    let dir = arguments.dir.as_path();
    let name = example::name_of(dir)?;
    let flags = Flags { listen: arguments.listen.as_deref(), ..Flags::from(&arguments.node) };
    let resolved = resolved::resolve(&dir.join("kintsugi.toml"), &flags)?;
    if arguments.print_config {
        return settings_shown::show(&resolved, arguments.node.format);
    }
    let settings = &resolved.settings;
    let address = http::resolve(&settings.http.listen).map_err(|error| resolved.at("http.listen", error))?;
    let access = Access::resolve(&settings.http, dir, &address, resolved.place("http.listen").as_deref())?;
    let listener = http::bind(&address)?;
    let address = listener.local_addr().unwrap_or(address);
    // Before any thread is started, for it settles how many compute.
    let (backend, mut probe) = model::factory(&resolved)?;
    let signals = Signals::listen()?;
    let folder = find_or_begin_node(arguments.node.data_dir.as_deref(), &name, settings.node.seed)?;
    // Its lock keeps every other process out of the folder from here on.
    let backbone = Arc::new(Backbone::open(&arguments.node.log, &resolved, dir, &folder)?);
    let log = backbone.reader();
    // Dropped before the log: what a refused start takes away, it takes away under the lock.
    let mut folder = folder;
    folder.check_unchanged()?;
    let (live, follower) = Live::follow(log.clone())?;
    let files = folder.files();
    example::copy_data(dir, &files, folder.is_resumed)?;
    let mut example = example::load(dir, &files, settings, arguments.node.agents, &mut probe)?;
    // Its memory is the engine's that works.
    drop(probe);
    let tenant = TenantId::default();
    let api = web::Data::new(api(&backbone, &live, access, settings, &example, &tenant));
    // From here on probes are answered; goals are taken when the node has come back to where it was.
    let server = Server::start(listener, api.clone())?;
    wait_for_view(&live, log.as_ref());
    agree_on_config(&mut folder, &example, &live)?;
    let lanes = backbone.lanes();
    let parts =
        node_parts(settings, &example, (folder.store(), tenant), lanes, backend, arguments.node.chaos);
    let node = Node::start(parts).outside(|| format!("start the node in {}", folder.path.display()))?;
    let node = Arc::new(node);
    let membership = backbone.join(&node)?;
    // It was empty: there is one node.
    let _ = api.node.set(node.clone());
    // A cluster looks after its topics by itself.
    let upkeep = match backbone.standing() {
        Standing::Embedded(_) => Some(Upkeep::start(settings.log, node.clone(), live.clone())?),
        Standing::Kafka { .. } => None,
    };
    announce(arguments, &folder, &example, &address)?;
    let ending = serve(&node, &backbone, &server, &signals, &mut example.policies, arguments.node.quiet);
    drop(upkeep);
    stop(server, api, membership, node);
    drop(follower);
    let open = live.view().open_goals();
    let last_words = format!("stopped with {open} goals open; the same command goes on");
    match ending? {
        Ending::Interrupted => Err(Failure::interrupted(last_words)),
        Ending::Terminated => {
            say(arguments.node.quiet, &last_words);
            Ok(())
        }
    }
}

fn api(
    backbone: &Arc<Backbone>,
    live: &Arc<Live>,
    access: Access,
    settings: &Settings,
    example: &Example,
    tenant: &TenantId,
) -> Api {
    Api {
        log: backbone.reader(),
        backbone: backbone.clone(),
        live: live.clone(),
        node: OnceLock::new(),
        access,
        intake: Intake::default(),
        settings: settings.http.clone(),
        tenant: tenant.clone(),
        roster: example.roster.clone(),
        population: example.population.clone(),
        streams: AtomicUsize::new(0),
        is_closing: watch::Sender::new(false),
        look_up: Semaphore::new(1),
    }
}

/// Waits until the view holds what the log held when it was opened.
fn wait_for_view(live: &Live, log: &dyn LogReader) {
    let end = log.end_lsn();
    while live.seen() < end {
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A goal keeps the configuration that it began with: while one is open, nothing may change that goals depend on.
fn agree_on_config(folder: &mut RunFolder, example: &Example, live: &Live) -> Result<(), Failure> {
    let open = live.view().open_goals();
    if folder.is_resumed && folder.manifest.config_hash != example.config_hash && open > 0 {
        return Err(Failure::usage(format_args!(
            "the configuration has changed and {open} goals in {} began with the old one: take the change back \
             until they have ended, or begin anew with --data-dir NEW",
            folder.path.display()
        )));
    }
    folder.manifest.config_hash.clone_from(&example.config_hash);
    folder.manifest.roster = Some(example.roster.clone());
    folder.manifest.started_at = SystemClock.now();
    folder.save()
}

fn announce(
    arguments: &UpArguments,
    folder: &RunFolder,
    example: &Example,
    address: &SocketAddr,
) -> Result<(), Failure> {
    let path = folder.path.as_path();
    let agents = example.agents_total();
    let url = format!("http://{address}");
    if arguments.node.format == Format::Json {
        let announced = json!({
            "url": url,
            "example": example.name,
            "data_dir": path,
            "agents": agents,
            "resumed": folder.is_resumed,
        });
        // Whoever started the node may not read what it says: it serves all the same.
        terminal::line_if_read(&announced.to_string())?;
    }
    let verb = if folder.is_resumed { "going on with" } else { "serving" };
    let words =
        format!("{verb} {}: {agents} agents, listening on {url}, in {}", example.name, path.display());
    say(arguments.node.quiet, &words);
    Ok(())
}

/// Looks after the node until it shall end.
fn serve(
    node: &Node,
    backbone: &Backbone,
    server: &Server,
    signals: &Signals,
    policies: &mut PolicyFolder,
    is_quiet: bool,
) -> Result<Ending, Failure> {
    let mut is_away = false;
    loop {
        let status = node.status();
        for line in &status.seam_lines {
            say(is_quiet, &format!("mended  {line}"));
        }
        if let Some(reason) = &status.log_failure {
            return Err(Failure::outside(format_args!(
                "the node stopped: {reason}; what was acknowledged is safe{}; the same command goes on",
                when_full(reason)
            )));
        }
        if node.has_ended() {
            return Err(Failure::job("the node ended by itself; the same command goes on"));
        }
        if server.has_ended() {
            return Err(Failure {
                kind: FailureKind::Outside,
                message: "the HTTP server ended by itself, see the log; the same command goes on".to_owned(),
            });
        }
        if let Standing::Kafka { away } = backbone.standing()
            && away.is_some() != is_away
        {
            is_away = away.is_some();
            say(is_quiet, &away.map_or_else(|| "Kafka answers again".to_owned(), |away| away.to_string()));
        }
        if let Some(said) = policies.follow(Instant::now()) {
            terminal::say(&said);
        }
        if let Some(ending) = signals.heard() {
            return Ok(ending);
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// First the requests end, then the node: nothing meets what is gone.
fn stop(server: Server, api: web::Data<Api>, membership: Option<Membership>, node: Arc<Node>) {
    drop(server);
    drop(api);
    // Its lanes go to others at once.
    if let Some(membership) = membership {
        membership.leave();
    }
    if let Some(node) = Arc::into_inner(node) {
        node.stop();
    }
}

fn say(is_quiet: bool, line: &str) {
    if !is_quiet {
        terminal::say(line);
    }
}
