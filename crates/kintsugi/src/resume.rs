//! `agents resume`: brings an agent back that is quarantined, through the node that runs it.

use serde_json::Value;

use crate::cli::{Format, ResumeArguments};
use crate::client::{Client, in_path};
use crate::failure::Failure;
use crate::terminal::{document, line};

pub(crate) fn resume(arguments: &ResumeArguments) -> Result<(), Failure> {
    let path = format!("/v1/agents/{}/resume", in_path(&arguments.id));
    let told = Client::new(&arguments.url).post(&path, "{}")?;
    if !told.is_done() {
        return Err(match told.status {
            500.. => Failure::outside(told.detail()),
            _ => Failure::usage(told.detail()),
        });
    }
    match arguments.format {
        Format::Json => document(&told.document),
        Format::Text => {
            let state = told.document.get("state").and_then(Value::as_str).unwrap_or("unknown");
            line(&format!("{} is {state}", arguments.id))
        }
    }
}
