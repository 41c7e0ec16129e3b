//! `GET /metrics`: the counters of the log, and gauges of what is now.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use actix_web::{HttpResponse, web};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::api::Api;
use super::problem::Problem;
use crate::backbone::Standing;

/// The media type of the answer.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A value with its label, where it has one.
type Sample = (Option<(&'static str, &'static str)>, f64);

/// What is now, gathered at the time of the scrape.
#[derive(Debug, Default)]
struct Now {
    families: Vec<(&'static str, &'static str, MetricType, Vec<Sample>)>,
}

impl Now {
    fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.families.push((name, help, MetricType::Gauge, vec![(None, value)]));
    }

    fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.families.push((name, help, MetricType::Counter, vec![(None, value as f64)]));
    }

    fn labelled(
        &mut self,
        (name, help, metric_type): (&'static str, &'static str, MetricType),
        label: &'static str,
        values: impl IntoIterator<Item = (&'static str, f64)>,
    ) {
        let samples = values.into_iter().map(|(value, number)| (Some((label, value)), number)).collect();
        self.families.push((name, help, metric_type, samples));
    }
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, metric_type, samples) in &self.families {
            let mut family = encoder.encode_descriptor(name, help, None, *metric_type)?;
            for (label, value) in samples {
                match (metric_type, label) {
                    (MetricType::Counter, None) => {
                        family.encode_counter::<NoLabelSet, _, u64>(value, None)?;
                    }
                    (MetricType::Counter, Some(label)) => {
                        family.encode_family(&[*label])?.encode_counter::<NoLabelSet, _, u64>(value, None)?;
                    }
                    (_, None) => family.encode_gauge(value)?,
                    (_, Some(label)) => family.encode_family(&[*label])?.encode_gauge(value)?,
                }
            }
        }
        Ok(())
    }
}

/// Answers a scrape.
pub(super) async fn metrics(api: web::Data<Api>) -> Result<HttpResponse, Problem> {
    let mut registry = Registry::default();
    api.live.healing.register(&mut registry);
    registry.register_collector(Box::new(gather(&api)));
    let mut text = String::new();
    encode(&mut text, &registry).map_err(Problem::internal)?;
    Ok(HttpResponse::Ok().content_type(OPEN_METRICS).body(text))
}

fn gather(api: &Api) -> Now {
    let mut now = Now::default();
    let rates = api.live.healing.success().into_iter().map(|(action, success)| (action, success.rate()));
    let help = "Share of started recoveries that helped";
    now.labelled(("agent_recovery_success_rate", help, MetricType::Gauge), "action_type", rates);
    gather_view(&mut now, api);
    gather_work(&mut now, api);
    gather_log(&mut now, api);
    gather_scheduler(&mut now, api);
    now
}

fn gather_view(now: &mut Now, api: &Api) {
    let view = api.live.view();
    let mut states: BTreeMap<&'static str, u64> =
        ["idle", "running", "degraded", "recovering", "failed"].map(|state| (state, 0)).into();
    let mut healths = Vec::new();
    for agent in view.agents.values() {
        *states.entry(agent.shown()).or_default() += 1;
        healths.extend(agent.last_metric.as_ref().map(|metric| metric.health.get()));
    }
    // Those that never had work are idle too.
    let total: u64 = api.population.iter().map(|kind| u64::from(kind.count)).sum();
    let known: u64 = states.values().sum();
    *states.entry("idle").or_default() += total.saturating_sub(known);
    let states = states.into_iter().map(|(state, count)| (state, count as f64));
    now.labelled(("kintsugi_agents", "Agents by state", MetricType::Gauge), "state", states);
    let mean = healths.iter().sum::<f64>() / healths.len().max(1) as f64;
    let health = [
        ("mean", if healths.is_empty() { 1.0 } else { mean }),
        ("min", healths.iter().copied().fold(1.0, f64::min)),
    ];
    let help = "Health of the agents that had work, after their last step";
    now.labelled(("kintsugi_agent_health", help, MetricType::Gauge), "statistic", health);
    now.gauge("kintsugi_goals_open", "Goals that have not ended", view.open_goals() as f64);
    now.gauge(
        "kintsugi_contradictions",
        "What in the log contradicts the promises",
        view.contradictions.len() as f64,
    );
}

fn gather_work(now: &mut Now, api: &Api) {
    let work = api.live.healing.work();
    now.counter("kintsugi_goals_published", "Goals that were published", work.goals_published);
    now.counter("kintsugi_dead_letters", "Input that could not be taken", work.dead_letters);
    now.counter("kintsugi_steps", "Steps that were measured", work.steps);
    now.counter("kintsugi_tool_calls", "Tool calls that ended", work.tool_calls);
    let tokens = [
        ("prompt", work.tokens.prompt),
        ("cached", work.tokens.cached),
        ("completion", work.tokens.completion),
    ]
    .map(|(kind, count)| (kind, count as f64));
    now.labelled(("kintsugi_tokens", "Tokens of thoughts", MetricType::Counter), "kind", tokens);
}

fn gather_log(now: &mut Now, api: &Api) {
    match api.backbone.standing() {
        Standing::Embedded(size) => {
            now.gauge("kintsugi_log_bytes", "Bytes of the log", size.bytes as f64);
            now.gauge("kintsugi_log_segments", "Files of the log", size.segments as f64);
        }
        Standing::Kafka { away } => {
            let lanes = api.node.get().map_or(0, |node| node.lanes().len());
            now.gauge("kintsugi_lanes", "Partitions of the cluster that are this node's", lanes as f64);
            let help = "Whether the Kafka cluster answers";
            now.gauge("kintsugi_log_up", help, if away.is_none() { 1.0 } else { 0.0 });
            let away_s = away.map_or(0.0, |away| away.since.elapsed().as_secs_f64());
            now.gauge("kintsugi_log_away_seconds", "For how long the Kafka cluster has not answered", away_s);
        }
    }
    now.gauge(
        "kintsugi_log_end_lsn",
        "The place in the log that the next event gets",
        api.log.end_lsn().0 as f64,
    );
    now.gauge("kintsugi_log_start_lsn", "The oldest place that is kept", api.log.start_lsn().0 as f64);
    now.gauge("kintsugi_view_lsn", "How far the log is in the answers of this API", api.live.seen().0 as f64);
    let streams = api.streams.load(Ordering::Relaxed);
    now.gauge("kintsugi_http_event_streams", "Event streams that are open", streams as f64);
    now.gauge(
        "kintsugi_http_goals_on_their_way",
        "Goals on their way into the log",
        api.intake.count() as f64,
    );
}

fn gather_scheduler(now: &mut Now, api: &Api) {
    let Some(node) = api.node.get() else { return };
    let stats = node.scheduler_stats();
    let memory = [
        ("weights", stats.memory.weights),
        ("kv_pool", stats.memory.kv_pool),
        ("kv_used", stats.memory.kv_used),
        ("scratch", stats.memory.scratch),
    ]
    .map(|(purpose, bytes)| (purpose, bytes.bytes() as f64));
    let help = "What the model holds; kv_used is a part of kv_pool";
    now.labelled(("kintsugi_memory_bytes", help, MetricType::Gauge), "purpose", memory);
    let budget = stats.memory_budget.bytes() as f64;
    now.gauge("kintsugi_memory_budget_bytes", "What the model may hold", budget);
    let peak = stats.memory_peak.bytes() as f64;
    now.gauge("kintsugi_memory_peak_bytes", "The most that the model held since the node started", peak);
    now.gauge("kintsugi_leases_out", "Agents on the model", stats.leases_out as f64);
    now.gauge("kintsugi_leases_queued", "Agents that wait for the model", stats.queued as f64);
    if let Some((_, smaller)) = node.smaller_stats() {
        // Each its own count: the difference of two that were taken one after the other may go back.
        let main = node.main_stats();
        let answers =
            [("main", main), ("smaller", smaller)].map(|(model, stats)| (model, stats.completions as f64));
        let help = "Answers of the main model and of the smaller one since the node started";
        now.labelled(("kintsugi_answers", help, MetricType::Counter), "model", answers);
    }
    now.counter("kintsugi_engine_faults", "Faults of the engine since the node started", stats.faults);
    now.counter(
        "kintsugi_engine_rebuilds",
        "Engines that were rebuilt since the node started",
        stats.rebuilds,
    );
    let asks = node.diagnosis_asks().into_iter().map(|(outcome, count)| (outcome, count as f64));
    let help =
        "Times that the model was to be asked for a diagnosis since the node started, by what came of it";
    now.labelled(("kintsugi_diagnosis_asks", help, MetricType::Counter), "outcome", asks);
    let violations = node.invariants().total();
    now.counter("kintsugi_invariant_violations", "Broken promises since the node started", violations);
}
