//! From settings and an example to what a node is made of.

use std::path::PathBuf;
use std::sync::Arc;

use kintsugi_chaos::FaultPlan;
use kintsugi_gpu_scheduler::{RebuildPolicy, SchedulerConfig};
use kintsugi_runtime::node::NodeParts;
use kintsugi_runtime::{Lanes, NodeConfig, SmallerParts};
use kintsugi_types::{RetryPolicy, SystemClock, TenantId};

use crate::example::Example;
use crate::model::Backends;
use crate::settings::Settings;

/// How agents that die are restarted.
const RESTART: RetryPolicy =
    RetryPolicy { attempts_max: 6, first_delay_ms: 10, factor: 2.0, delay_max_ms: 5_000, jitter: 0.5 };

/// Within which time restarts are counted, in milliseconds.
const RESTART_WINDOW_MS: u64 = 60_000;

/// What a node is made of. Its cache lies in `store_dir`; its agents are `tenant`'s.
pub(crate) fn node_parts(
    settings: &Settings,
    example: &Example,
    (store_dir, tenant): (PathBuf, TenantId),
    lanes: Lanes,
    backends: Backends,
    chaos: Option<f64>,
) -> NodeParts {
    let (of_main, of_smaller) = settings.model.shared_out(settings.model.memory_budget);
    let scheduler = |memory_budget| SchedulerConfig {
        slots: settings.node.slots,
        queue_max: settings.node.slots * 8,
        lease_ms_max: settings.model.lease_ms_max,
        memory_budget,
        rebuild: RebuildPolicy::default(),
    };
    let Backends { main, smaller } = backends;
    NodeParts {
        config: NodeConfig {
            store_dir,
            tenant,
            kinds: example.kinds.clone(),
            population: example.population.clone(),
            policies: example.policies.shared(),
            stages: settings.stages.inside(),
            monitor: settings.healing.monitor_settings(),
            ask: settings.healing.diagnose.ask(),
            mode: settings.healing.mode,
            runnable_max: settings.node.slots * 2,
            seed: settings.node.seed,
            restart: RESTART,
            restart_window_ms: RESTART_WINDOW_MS,
            tool_threads: settings.node.tool_threads,
            tool_ms_max: settings.node.tool_ms_max,
            chaos: chaos.map(|probability| FaultPlan::new(probability, settings.node.seed)),
            before_decide: None,
            effect_probe: None,
        },
        lanes,
        tools: example.tools.clone(),
        scheduler: scheduler(of_main),
        backend: main,
        smaller: smaller.map(|(name, backend)| SmallerParts {
            name,
            scheduler: scheduler(of_smaller),
            backend,
        }),
        clock: Arc::new(SystemClock),
    }
}
