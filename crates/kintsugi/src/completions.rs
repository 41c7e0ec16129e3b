//! `completions`: what a shell needs to complete commands.

use std::io::Write as _;

use clap::CommandFactory as _;

use crate::cli::{Cli, CompletionsArguments};
use crate::failure::{Explain, Failure};

pub(crate) fn write(arguments: &CompletionsArguments) -> Result<(), Failure> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    // Into memory first: the generator panics where its output is closed.
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut text);
    std::io::stdout().write_all(&text).outside(|| "write to stdout".to_owned())
}
