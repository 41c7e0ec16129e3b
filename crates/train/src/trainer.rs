//! The training loop.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};

use crate::checkpoint::{Checkpoint, Place};
use crate::model::{Batch, Dropout, Loss, Network, Workspace, flush_denormals};
use crate::optimizer::{follow, learning_rate, step};

/// How a run is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Threads that compute; each takes its share of a step's batches.
    pub threads: usize,
    /// Batches whose gradients make one step.
    pub batches_per_step: usize,
    /// The largest learning rate.
    pub peak_rate: f32,
    /// Steps until it is reached.
    pub warmup_steps: u64,
    /// Weight decay, times the learning rate a step.
    pub decay: f32,
    /// The gradient is scaled down to this norm.
    pub norm_max: f32,
    /// How many of 256 values are dropped where a branch joins the residual stream.
    pub dropped_of_256: u8,
    /// Length of the run. The learning rate follows from the step and from this, never from the time.
    pub steps: u64,
    /// Seconds between checkpoints.
    pub checkpoint_every_s: f64,
    /// Seconds between reports.
    pub report_every_s: f64,
    /// Determines all that is random.
    pub seed: u64,
}

/// Makes the batches of a pass over the traces; the same ones whenever it is asked.
pub trait Source: Sync {
    /// The batches of pass `epoch`, shuffled.
    fn batches(&self, epoch: u64) -> anyhow::Result<Vec<Batch>>;
}

/// What happened since the last report.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// How far the run is.
    pub place: Place,
    /// Mean weighted cross-entropy, in nats a token.
    pub loss: f64,
    /// Norm of the last gradient.
    pub norm: f32,
    /// Learning rate of the last step.
    pub rate: f32,
    /// Tokens that went through the network per second, shared prefixes counted once.
    pub tokens_per_second: f64,
    /// Seconds left, if the rest goes as fast as the steps since the last report.
    pub left_s: f64,
}

/// What the loop tells its caller.
pub trait Observer {
    /// Some seconds went by.
    fn report(&mut self, report: Report) -> anyhow::Result<()>;
    /// A checkpoint is written; also after the last step.
    fn saved(&mut self, checkpoint: &Checkpoint) -> anyhow::Result<()>;
}

/// One thread's buffers.
#[derive(Debug, Default)]
struct Worker {
    space: Workspace,
    gradient: Vec<f32>,
    loss: Loss,
}

/// Trains up to step `settings.steps`; `save` makes a checkpoint durable.
pub fn train(
    network: &Network,
    checkpoint: &mut Checkpoint,
    settings: &Settings,
    source: &dyn Source,
    save: &dyn Fn(&Checkpoint) -> anyhow::Result<()>,
    observer: &mut dyn Observer,
) -> anyhow::Result<()> {
    thread::scope(|scope| {
        // One pass is made ready while another is trained on.
        let (sender, passes) = mpsc::sync_channel(1);
        let first_epoch = checkpoint.place.epoch;
        scope.spawn(move || {
            for epoch in first_epoch.. {
                if sender.send(source.batches(epoch)).is_err() {
                    return;
                }
            }
        });
        let mut workers: Vec<Worker> = Vec::new();
        workers.resize_with(settings.threads, Worker::default);
        let mut clock = Clock::new();
        while checkpoint.place.step < settings.steps {
            let batches = passes.recv().context("the thread that prepares batches ended")??;
            let done = usize::try_from(checkpoint.place.batch).unwrap_or(usize::MAX).min(batches.len());
            for group in batches.get(done..).unwrap_or_default().chunks(settings.batches_per_step) {
                let (norm, rate) = one_step(network, checkpoint, settings, group, &mut workers)?;
                let place = &mut checkpoint.place;
                place.step += 1;
                place.batch += group.len() as u64;
                let loss = workers.iter().fold(Loss::default(), |sum, worker| Loss {
                    total: sum.total + worker.loss.total,
                    weight: sum.weight + worker.loss.weight,
                });
                clock.count(group, loss);
                if let Some(mut report) = clock.report(*place, settings) {
                    (report.norm, report.rate) = (norm, rate);
                    observer.report(report)?;
                }
                if clock.saved.elapsed().as_secs_f64() >= settings.checkpoint_every_s {
                    save(checkpoint)?;
                    observer.saved(checkpoint)?;
                    clock.saved = Instant::now();
                }
                if checkpoint.place.step >= settings.steps {
                    break;
                }
            }
            if checkpoint.place.step < settings.steps {
                checkpoint.place.epoch += 1;
                checkpoint.place.batch = 0;
            }
        }
        drop(passes);
        save(checkpoint)?;
        observer.saved(checkpoint)
    })
}

fn one_step(
    network: &Network,
    checkpoint: &mut Checkpoint,
    settings: &Settings,
    group: &[Batch],
    workers: &mut [Worker],
) -> anyhow::Result<(f32, f32)> {
    let place = checkpoint.place;
    let weight: f32 = group.iter().map(Batch::weight).sum();
    let scale = 1.0 / weight.max(1.0);
    let parameters = &checkpoint.parameters;
    let threads = workers.len();
    thread::scope(|scope| {
        let handles: Vec<_> = workers
            .iter_mut()
            .enumerate()
            .map(|(index, worker)| {
                scope.spawn(move || {
                    flush_denormals();
                    worker.gradient.clear();
                    worker.gradient.resize(network.layout.len, 0.0);
                    worker.loss = Loss::default();
                    for (number, batch) in group.iter().enumerate().skip(index).step_by(threads) {
                        let seed = settings.seed.wrapping_mul(31) ^ (place.step << 8) ^ number as u64;
                        let dropout = Dropout { seed, dropped_of_256: settings.dropped_of_256 };
                        let Worker { space, gradient, loss } = &mut *worker;
                        let cost = network.accumulate(parameters, batch, dropout, scale, space, gradient);
                        loss.total += cost.total;
                        loss.weight += cost.weight;
                    }
                })
            })
            .collect();
        handles
            .into_iter()
            .try_for_each(|handle| handle.join().map_err(|_| anyhow!("a training thread panicked")))
    })?;
    let (first, others) = workers.split_first_mut().context("a run needs a thread")?;
    for other in others {
        first.gradient.iter_mut().zip(&other.gradient).for_each(|(sum, value)| *sum += value);
    }
    let rate = learning_rate(settings.peak_rate, place.step, settings.warmup_steps, settings.steps);
    flush_denormals();
    let limits = (rate, settings.decay, settings.norm_max);
    let (parameters, moments) = (&mut checkpoint.parameters, &mut checkpoint.moments);
    let norm = step(&network.layout, parameters, moments, &first.gradient, place.step, limits);
    follow(&mut checkpoint.average, &checkpoint.parameters, place.step);
    Ok((norm, rate))
}

/// Counts between reports.
#[derive(Debug)]
struct Clock {
    reported: Instant,
    saved: Instant,
    steps: u32,
    tokens: usize,
    loss: Loss,
}

impl Clock {
    fn new() -> Self {
        Self { reported: Instant::now(), saved: Instant::now(), steps: 0, tokens: 0, loss: Loss::default() }
    }

    fn count(&mut self, group: &[Batch], loss: Loss) {
        self.steps += 1;
        self.tokens += group.iter().map(|batch| batch.tokens.len()).sum::<usize>();
        self.loss.total += loss.total;
        self.loss.weight += loss.weight;
    }

    fn report(&mut self, place: Place, settings: &Settings) -> Option<Report> {
        let passed: Duration = self.reported.elapsed();
        if passed.as_secs_f64() < settings.report_every_s {
            return None;
        }
        let report = Report {
            place,
            loss: self.loss.total / self.loss.weight.max(1.0),
            norm: 0.0,
            rate: 0.0,
            tokens_per_second: self.tokens as f64 / passed.as_secs_f64(),
            left_s: passed.as_secs_f64() / f64::from(self.steps.max(1))
                * settings.steps.saturating_sub(place.step) as f64,
        };
        (self.reported, self.steps, self.tokens, self.loss) = (Instant::now(), 0, 0, Loss::default());
        Some(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Layout, Shape};

    /// Says a random-looking sequence twice: the second time can be copied.
    struct Copying;

    impl Source for Copying {
        fn batches(&self, epoch: u64) -> anyhow::Result<Vec<Batch>> {
            let batches = (0..4u64).map(|number| {
                let mut batch = Batch::new(&[1, 2, 3]);
                for document in 0..8u64 {
                    let half: Vec<u32> = (0..6u64)
                        .map(|index| {
                            let mix = (epoch * 131 + number * 17 + document * 7 + index)
                                .wrapping_mul(2_654_435_761);
                            u32::try_from((mix >> 13) % 20).unwrap() + 5
                        })
                        .collect();
                    let tokens: Vec<u32> = [half.clone(), half].concat();
                    let weights: Vec<f32> = (0..12u8).map(|index| f32::from(u8::from(index >= 6))).collect();
                    batch.push(&tokens, &weights);
                }
                batch
            });
            Ok(batches.collect())
        }
    }

    struct Last(Option<Report>);

    impl Observer for Last {
        fn report(&mut self, report: Report) -> anyhow::Result<()> {
            self.0 = Some(report);
            Ok(())
        }

        fn saved(&mut self, _: &Checkpoint) -> anyhow::Result<()> {
            Ok(())
        }
    }

    /// A network and the checkpoint after `steps` steps of learning to copy, with the last loss.
    fn trained(steps: u64) -> (Checkpoint, f64) {
        let shape = Shape {
            vocabulary: 32,
            width: 32,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            ffn: 64,
            context: 64,
            rope_base: 10_000.0,
            norm_epsilon: 1e-5,
        };
        let network = Network::new(Layout::new(shape));
        let mut checkpoint = Checkpoint::initial(&network.layout, 1);
        let settings = Settings {
            threads: 2,
            batches_per_step: 2,
            peak_rate: 5e-3,
            warmup_steps: 20,
            decay: 0.01,
            norm_max: 1.0,
            dropped_of_256: 0,
            steps,
            checkpoint_every_s: 100.0,
            report_every_s: 0.2,
            seed: 1,
        };
        let mut last = Last(None);
        train(&network, &mut checkpoint, &settings, &Copying, &|_| Ok(()), &mut last).unwrap();
        (checkpoint, last.0.map_or(f64::INFINITY, |report| report.loss))
    }

    #[test]
    fn a_small_network_learns_to_copy() {
        let (_, loss) = trained(1_500);
        assert!(loss < 0.5, "the loss is still {loss}");
    }

    #[test]
    fn the_same_run_gives_the_same_parameters() {
        assert_eq!(trained(30).0, trained(30).0);
    }
}
