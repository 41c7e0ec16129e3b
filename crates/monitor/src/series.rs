//! One gauge of an agent: what it was lately against what it usually is.

use std::collections::VecDeque;

use kintsugi_events::AnomalyKind;
use serde::{Deserialize, Serialize};

use crate::baseline::Baseline;
use crate::settings::Ratios;

/// Samples that a series keeps.
const WINDOW: usize = 100;

/// The newest samples that make up a level.
pub(crate) const RECENT: u32 = 10;

/// Of the newest samples so many have to be slow for a level to be: one slow step is judged by itself.
const SLOW_SAMPLES: usize = 2;

/// Samples that a baseline has to have learned before anything is compared with it.
const SAMPLES_KNOWN: u64 = 30;

/// What is watched over many steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gauge {
    /// The model's measured confidence in a step.
    Confidence,
    /// Coherence of a step.
    Coherence,
    /// A step's time without queueing, in milliseconds; its level is the 95th percentile.
    Latency,
    /// Tokens of a whole goal.
    Tokens,
    /// Whether a tool call was answered: 1 or 0.
    ToolSuccess,
}

impl Gauge {
    /// What is held to be usual before anything was seen.
    pub const fn prior(self) -> f64 {
        match self {
            Self::Confidence => 0.7,
            Self::Coherence => 0.6,
            Self::Latency => 2_000.0,
            Self::Tokens => 1_000.0,
            Self::ToolSuccess => 0.95,
        }
    }

    /// The anomaly that a deviation is.
    pub const fn anomaly(self) -> AnomalyKind {
        match self {
            Self::Confidence => AnomalyKind::LowConfidence,
            Self::Coherence => AnomalyKind::LowCoherence,
            Self::Latency => AnomalyKind::HighLatency,
            Self::Tokens => AnomalyKind::HighTokens,
            Self::ToolSuccess => AnomalyKind::LowToolSuccess,
        }
    }

    /// The name of its level in anomalies.
    pub const fn level_name(self) -> &'static str {
        match self {
            Self::Confidence => "confidence.mean",
            Self::Coherence => "coherence.mean",
            Self::Latency => "latency_ms.p95",
            Self::Tokens => "tokens_per_goal.mean",
            Self::ToolSuccess => "tool.success_rate",
        }
    }

    /// The share of the usual at which a level deviates: below it where it is less than one, else above it.
    pub const fn bound(self, ratios: &Ratios) -> f64 {
        match self {
            Self::Confidence => ratios.confidence_min,
            Self::Coherence => ratios.coherence_min,
            Self::Latency => ratios.latency_max,
            Self::Tokens => ratios.tokens_max,
            Self::ToolSuccess => ratios.tool_success_min,
        }
    }

    fn level(self, recent: &[f32]) -> f64 {
        match self {
            Self::Latency => percentile_95(recent),
            _ => recent.iter().map(|sample| f64::from(*sample)).sum::<f64>() / recent.len().max(1) as f64,
        }
    }
}

/// The 95th percentile by nearest rank (Hyndman and Fan 1996, definition 1).
fn percentile_95(samples: &[f32]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let rank = (samples.len() * 95).div_ceil(100);
    rank.checked_sub(1).and_then(|place| sorted.get(place)).copied().map_or(0.0, f64::from)
}

/// How far a level stands from the usual.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LevelDeviation {
    /// The level of the newest samples.
    pub level: f64,
    /// What is usual.
    pub usual: f64,
    /// How many times as far from the usual as a level may be; above 1.
    pub excess: f64,
}

/// The newest samples of a gauge, and its baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The newest samples, newest last.
    window: VecDeque<f32>,
    /// What it usually is.
    pub usual: Baseline,
    /// Samples in a row at which the level deviated.
    deviating: u32,
    /// Samples to come that push suspects out of the newest ones: until then nothing is learned.
    suspect: u32,
}

impl Series {
    /// A series without samples.
    pub fn new(gauge: Gauge) -> Self {
        Self { window: VecDeque::new(), usual: Baseline::with_prior(gauge.prior()), deviating: 0, suspect: 0 }
    }

    /// What it usually is, once that is known.
    pub fn known_usual(&self) -> Option<f64> {
        (self.usual.samples >= SAMPLES_KNOWN).then_some(self.usual.mean)
    }

    /// Whether most of the newest samples lie above what is usual, and not just one of them.
    pub fn is_mostly_above_usual(&self) -> bool {
        let Some(usual) = self.known_usual() else { return false };
        let above = self.samples(0).iter().filter(|sample| f64::from(**sample) > usual).count();
        above * 2 >= RECENT as usize
    }

    /// The sample before the newest.
    pub(crate) fn before_last(&self) -> Option<f64> {
        self.window.iter().rev().nth(1).copied().map(f64::from)
    }

    /// Takes in a sample and compares the level of the newest `RECENT` with what is usual: by its own baseline once
    /// that is known, else by `kind_usual`, that of agents of its kind.
    ///
    /// A level that deviates is told when it begins to and every `RECENT` samples while it lasts. A sample is learned
    /// when `RECENT` newer ones have come, and never if it was among them while the level deviated: so a fall does
    /// not pull the baseline down with it. What has lasted for `WINDOW` samples is the new usual.
    pub fn enter(
        &mut self,
        gauge: Gauge,
        sample: f64,
        kind_usual: Option<f64>,
        ratios: &Ratios,
    ) -> Option<LevelDeviation> {
        if !sample.is_finite() {
            return None;
        }
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        #[expect(clippy::cast_possible_truncation, reason = "three digits after the point are enough")]
        self.window.push_back(((sample * 1000.0).round() / 1000.0) as f32);
        let recent = self.samples(0);
        let level = gauge.level(&recent);
        let usual = self.known_usual().or(kind_usual);
        let found = usual
            .filter(|_| recent.len() == RECENT as usize)
            .and_then(|usual| deviation(level, usual, gauge.bound(ratios)))
            .filter(|found| {
                gauge != Gauge::Latency || is_repeated(&recent, found.usual * ratios.latency_max)
            });
        let Some(found) = found else {
            self.deviating = 0;
            self.learn(gauge);
            return None;
        };
        self.deviating += 1;
        self.suspect = RECENT;
        if self.deviating as usize >= WINDOW {
            let all: Vec<f32> = self.window.iter().copied().collect();
            self.usual.mean = gauge.level(&all);
            // An agent that was different from the first is now known by itself and not by its kind.
            self.usual.samples = self.usual.samples.max(SAMPLES_KNOWN);
            self.deviating = 0;
        }
        (self.deviating % RECENT == 1).then_some(found)
    }

    /// At most [`RECENT`] samples, newest first, after the `newer` newest.
    fn samples(&self, newer: usize) -> Vec<f32> {
        self.window.iter().rev().skip(newer).take(RECENT as usize).copied().collect()
    }

    fn learn(&mut self, gauge: Gauge) {
        if let Some(left) = self.suspect.checked_sub(1) {
            self.suspect = left;
            return;
        }
        let older = self.samples(RECENT as usize);
        let learned = match gauge {
            // A percentile is learned as a whole: its samples lie below it.
            Gauge::Latency => (older.len() == RECENT as usize).then(|| gauge.level(&older)),
            _ => older.first().copied().map(f64::from),
        };
        if let Some(learned) = learned {
            self.usual.learn(learned);
        }
    }
}

/// Whether more than a single sample lies above `bound`.
fn is_repeated(recent: &[f32], bound: f64) -> bool {
    recent.iter().filter(|sample| f64::from(**sample) > bound).count() >= SLOW_SAMPLES
}

/// Whether `level` is on the wrong side of `bound` × `usual`, and how far.
fn deviation(level: f64, usual: f64, bound: f64) -> Option<LevelDeviation> {
    let (apart, allowed) = if bound < 1.0 {
        (usual - level, usual * (1.0 - bound))
    } else {
        (level - usual, usual * (bound - 1.0))
    };
    let is_too_far = allowed > 0.0 && apart > allowed;
    is_too_far.then(|| LevelDeviation { level, usual, excess: apart / allowed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(series: &mut Series, gauge: Gauge, sample: f64, times: usize) -> Vec<usize> {
        let ratios = Ratios::default();
        (0..times).filter(|_| series.enter(gauge, sample, None, &ratios).is_some()).collect()
    }

    #[test]
    fn a_level_is_compared_only_with_what_is_known_to_be_usual() {
        let mut series = Series::new(Gauge::Tokens);
        assert!(feed(&mut series, Gauge::Tokens, 5_000.0, 39).is_empty(), "the prior is no evidence");
        assert!(series.known_usual().is_none());
        assert!(feed(&mut series, Gauge::Tokens, 5_000.0, 30).is_empty());
        assert!((series.known_usual().unwrap() - 5_000.0).abs() < 200.0, "{:?}", series.usual);
        let mut young = Series::new(Gauge::Tokens);
        let told: Vec<bool> = (0..10)
            .map(|_| young.enter(Gauge::Tokens, 9_000.0, Some(5_000.0), &Ratios::default()).is_some())
            .collect();
        assert_eq!(told.iter().filter(|told| **told).count(), 1, "{told:?}");
        assert_eq!(told.last(), Some(&true), "ten samples make a level");
    }

    #[test]
    fn a_fall_is_told_when_it_begins_and_while_it_lasts_and_is_learned_only_in_the_end() {
        let mut series = Series::new(Gauge::Confidence);
        feed(&mut series, Gauge::Confidence, 0.9, 60);
        let usual = series.usual.mean;
        let told = feed(&mut series, Gauge::Confidence, 0.5, 40);
        assert_eq!(told, [4, 14, 24, 34], "half of the level's samples are enough");
        assert!((series.usual.mean - usual).abs() < 0.001, "{:?}", series.usual);
        feed(&mut series, Gauge::Confidence, 0.5, 100);
        assert!((series.usual.mean - 0.5).abs() < 0.05, "{:?}", series.usual);
        assert!(feed(&mut series, Gauge::Confidence, 0.5, 30).is_empty());
    }

    #[test]
    fn the_95th_percentile_of_ten_is_the_greatest_and_two_slow_steps_move_a_level() {
        assert!((percentile_95(&[1.0, 3.0, 2.0]) - 3.0).abs() < 1e-9);
        let hundred: Vec<f32> = (1..=100u8).map(f32::from).collect();
        assert!((percentile_95(&hundred) - 95.0).abs() < 1e-9);
        let mut series = Series::new(Gauge::Latency);
        feed(&mut series, Gauge::Latency, 100.0, 80);
        assert_eq!(series.enter(Gauge::Latency, 390.0, None, &Ratios::default()), None, "once is no level");
        let found = series.enter(Gauge::Latency, 400.0, None, &Ratios::default()).unwrap();
        assert!((found.level - 400.0).abs() < 1e-9 && found.excess > 5.0, "{found:?}");
    }
}
