//! Reading a policies file, with errors that tell where and what to write instead.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_saphyr::{Error as YamlError, Location, Spanned};

use crate::policy::{Parameters, Policy, PolicySet, TIME_MS_MAX};

/// Names less alike than this, by Jaro and Winkler, are no slip of the pen.
const SUGGESTION_LIKENESS_MIN: f64 = 0.75;

/// Why a policies file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct PolicyError {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1; 0 where it is not known.
    pub line: u64,
    /// The column, from 1; 0 where it is not known.
    pub column: u64,
    /// What is wrong, and what was meant.
    pub message: String,
}

impl PolicyError {
    fn at(file: &str, location: Option<Location>, message: String) -> Self {
        let (line, column) = location.map_or((0, 0), |location| (location.line(), location.column()));
        Self { file: file.to_owned(), line, column, message }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    policies: Vec<Spanned<Policy>>,
    #[serde(default)]
    cascade: Option<Spanned<Parameters>>,
}

pub(crate) fn parse(text: &str, file: &str) -> Result<PolicySet, PolicyError> {
    let read: PolicyFile = serde_saphyr::from_str(text)
        .map_err(|error| PolicyError::at(file, error.location(), message(error.without_snippet())))?;
    let mut names = BTreeSet::new();
    for policy in &read.policies {
        let refuse = |message: String| PolicyError::at(file, Some(policy.referenced), message);
        validate(&policy.value).map_err(refuse)?;
        if !names.insert(policy.value.name.as_str()) {
            return Err(refuse(format!("there is another policy named {:?}", policy.value.name)));
        }
    }
    let cascade = match read.cascade {
        Some(cascade) => {
            validate_parameters("cascade", &cascade.value)
                .map_err(|message| PolicyError::at(file, Some(cascade.referenced), message))?;
            cascade.value
        }
        None => Parameters::default(),
    };
    let policies = read.policies.into_iter().map(|policy| policy.value).collect();
    Ok(PolicySet::new(policies, cascade))
}

fn message(error: &YamlError) -> String {
    let (what, found, expected) = match error {
        YamlError::SerdeUnknownField { field, expected, .. } => ("field", field, expected),
        YamlError::SerdeUnknownVariant { variant, expected, .. } => ("value", variant, expected),
        other => return first_line_without_place(&other.to_string()),
    };
    let closest = expected
        .iter()
        .map(|name| (strsim::jaro_winkler(found, name), *name))
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .filter(|(likeness, _)| *likeness >= SUGGESTION_LIKENESS_MIN);
    match closest {
        Some((_, name)) => format!("unknown {what} {found:?}, did you mean {name:?}?"),
        None => format!("unknown {what} {found:?}, expected one of {}", expected.join(", ")),
    }
}

/// The parser's own message tells the place a second time.
fn first_line_without_place(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let line = line.split(" at line ").next().unwrap_or(line);
    line.trim_start_matches("error: ").trim().to_owned()
}

fn validate(policy: &Policy) -> Result<(), String> {
    if policy.name.trim().is_empty() {
        return Err("the policy's name is empty".to_owned());
    }
    validate_parameters(&format!("policy {:?}", policy.name), &policy.parameters)
}

fn validate_parameters(whose: &str, parameters: &Parameters) -> Result<(), String> {
    let Parameters { attempts, factor, jitter, half_open_ms, open_ms, .. } = *parameters;
    if attempts == 0 {
        return Err(format!("{whose}: attempts is 0, so it would never be used; remove the policy"));
    }
    if !(factor.is_finite() && factor >= 1.0) {
        return Err(format!("{whose}: factor is {factor}, at least 1 is needed"));
    }
    if !(0.0..=1.0).contains(&jitter) {
        return Err(format!("{whose}: jitter is {jitter}, a share in [0, 1] is needed"));
    }
    let times = [
        ("first_delay_ms", parameters.first_delay_ms),
        ("delay_max_ms", parameters.delay_max_ms),
        ("open_ms", open_ms),
        ("half_open_ms", half_open_ms),
        ("deadline_ms", parameters.deadline_ms),
    ];
    if let Some((key, time_ms)) = times.into_iter().find(|(_, time_ms)| *time_ms > TIME_MS_MAX) {
        return Err(format!("{whose}: {key} is {time_ms}, at most a week ({TIME_MS_MAX}) is allowed"));
    }
    if half_open_ms > open_ms {
        return Err(format!(
            "{whose}: half_open_ms is {half_open_ms}, it cannot be longer than open_ms ({open_ms})"
        ));
    }
    if half_open_ms == 0 || parameters.deadline_ms == 0 {
        return Err(format!("{whose}: half_open_ms and deadline_ms must be above 0"));
    }
    Ok(())
}
