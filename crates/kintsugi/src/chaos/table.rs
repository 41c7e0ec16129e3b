//! A suite's report for people.

use super::report::{KindReport, Report, SeedReport};

/// The report, line by line.
pub(super) fn lines(report: &Report) -> Vec<String> {
    let mut lines = vec![format!(
        "{}: {} goals, chaos {}, {} seeds from {}, mode {}",
        report.example, report.goals, report.chaos, report.runs, report.seed, report.mode
    )];
    for rows in [kinds(report), actions(report), seeds(report)] {
        lines.push(String::new());
        lines.extend(aligned(&rows));
    }
    lines.push(String::new());
    let unmeasured: u64 = report.kinds.values().map(|kind| kind.missed_unmeasured).sum();
    lines.extend(aligned(&[
        row("missed, and nothing was measured after", &[unmeasured.to_string()]),
        row(
            "tokens, ms of an undisturbed step",
            &[tokens(report.clean.step.tokens), ms(report.clean.step.ms)],
        ),
        row("false alarms per 1,000 steps", &[report.false_alarms_per_1000_steps.to_string(), among(report)]),
        row("and without faults", &[report.clean.false_alarms_per_1000_steps.to_string()]),
        row("process crashes", &[report.process_crashes.to_string()]),
        row("goals lost", &[report.goals_lost.to_string()]),
        row("agents failed", &[format!("{:.2} %", report.agents_failed_share * 100.0)]),
    ]));
    lines.extend(report.broken.iter().map(|broken| format!("broken: {broken}")));
    lines
}

/// One seed in a line.
pub(super) fn seed_line(seed: &SeedReport, compared_mode: Option<&str>) -> String {
    let SeedReport { seed, faults, correct, of_clean, compared_correct, wall_s } = seed;
    let share = of_clean * 100.0;
    let compared = compared_mode.zip(*compared_correct);
    let compared = compared.map_or_else(String::new, |(mode, correct)| format!(", {correct} in mode {mode}"));
    format!(
        "seed {seed}: {faults} faults, {correct} correct ({share:.1} % of clean){compared}, {wall_s:.1} s"
    )
}

fn kinds(report: &Report) -> Vec<Vec<String>> {
    let head = ["struck", "found", "missed", "healed", "survived", "failed", "person", "spoiled"];
    let head = head.into_iter().chain(["p50 ms", "p99 ms", "steps", "tokens"]).map(str::to_owned);
    let mut rows = vec![row("fault", &head.collect::<Vec<_>>())];
    let mut sums = [0; 8];
    for (name, kind) in &report.kinds {
        let counts = counts(kind);
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        let mut cells: Vec<String> = counts.iter().map(ToString::to_string).collect();
        if kind.healed > 0 {
            let KindReport { heal_ms, cost, .. } = kind;
            let ms = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0}"));
            cells.extend([heal_ms.p50, heal_ms.p99].map(ms));
            cells.extend([format!("{:.1}", cost.steps), format!("{:.0}", cost.tokens)]);
        }
        rows.push(row(name, &cells));
    }
    rows.push(row("all", &sums.map(|sum| sum.to_string())));
    rows
}

const fn counts(kind: &KindReport) -> [u64; 8] {
    let KindReport { runs, found, missed, healed, survived, failed, reached_a_person, spoiled, .. } = *kind;
    [runs, found, missed, healed, survived, failed, reached_a_person, spoiled]
}

fn actions(report: &Report) -> Vec<Vec<String>> {
    let head = ["action", "tried", "succeeded", "mended", "steps", "tokens", "ms"].map(str::to_owned);
    let mut rows = vec![row("fault", &head)];
    for (name, kind) in &report.kinds {
        for (action, done) in &kind.actions {
            let mut cells = vec![(*action).to_owned()];
            cells.extend([done.tried, done.succeeded, done.mended].map(|count| count.to_string()));
            if done.mended > 0 {
                let cost = &done.cost;
                cells.extend([format!("{:.1}", cost.steps), tokens(cost.tokens), ms(cost.ms)]);
            }
            rows.push(row(name, &cells));
        }
    }
    rows
}

fn seeds(report: &Report) -> Vec<Vec<String>> {
    let mut head: Vec<String> = ["faults", "clean", "correct", "of clean"].map(str::to_owned).into();
    let compared = report.compared_mode.as_deref();
    head.extend(compared.into_iter().flat_map(|mode| [mode.to_owned(), "points".to_owned()]));
    let mut rows = vec![row("seed", &head)];
    let points = |correct: usize| correct as f64 * 100.0 / report.goals.max(1) as f64;
    for seed in &report.seeds {
        let mut cells = vec![
            seed.faults.to_string(),
            report.clean.correct.to_string(),
            seed.correct.to_string(),
            format!("{:.1} %", seed.correct as f64 * 100.0 / report.clean.correct.max(1) as f64),
        ];
        if let Some(compared) = seed.compared_correct {
            let difference = points(compared) - points(seed.correct);
            cells.extend([compared.to_string(), format!("{difference:+.1}")]);
        }
        rows.push(row(&seed.seed.to_string(), &cells));
    }
    rows
}

fn among(report: &Report) -> String {
    let named = |(kind, count): (&&str, &u64)| format!("{count} {kind}");
    report.false_alarms.iter().map(named).collect::<Vec<_>>().join(", ")
}

fn tokens(count: f64) -> String {
    format!("{count:.0}")
}

fn ms(count: f64) -> String {
    format!("{count:.0}")
}

fn row(name: &str, cells: &[String]) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(cells.iter().cloned()).collect()
}

/// Rows as lines: the first column to the left, numbers to the right.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cell = |(cell, width): (&String, &usize)| {
            let is_number = cell.starts_with(|first: char| first.is_ascii_digit() || "+-".contains(first));
            if is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        };
        row.iter().zip(&widths).map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
