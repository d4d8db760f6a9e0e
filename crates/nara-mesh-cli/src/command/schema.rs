//! `schema`: what commands print with `--json`, as JSON Schema.

use crate::cli::SchemaArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::schema::of_command;

pub(super) fn run(args: &SchemaArgs, printer: Printer) -> Outcome {
    let command = args.command.join(" ");
    if command.is_empty() {
        for printed in super::PRINTED {
            printer.raw(printed.command.replace('-', " "))?;
        }
        return Ok(Exit::Ok);
    }
    let printed = of_command(&command).ok_or_else(|| {
        Failure::usage(format!("{command:?} has no published schema"))
            .hint("`nara-mesh schema` lists the commands that have one")
    })?;
    printer.raw(format_args!("{:#}", printed.schema()))?;
    Ok(Exit::Ok)
}
